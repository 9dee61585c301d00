"""Listing a zip archive that may be hostile; nothing is ever unpacked, members are read where they are."""

from __future__ import annotations

import itertools
import stat
import zipfile
from pathlib import Path, PurePosixPath

from tercet.data.readers.layout import Listing, Skipped, hidden
from tercet.data.sources import ZipSource
from tercet.ground.errors import DataError

MAX_MEMBERS = 2_000_000
MAX_MEMBER_BYTES = 1 << 29
"""Largest member once decompressed: 512 MiB."""
MAX_TOTAL_BYTES = 1 << 42
"""Largest archive once decompressed: 4 TiB."""
MAX_RATIO = 200
"""Largest ratio of decompressed to stored bytes, of a member beyond `_FREE_BYTES`."""
_FREE_BYTES = 1 << 24  # 16 MiB: even at deflate's limit of 1032 : 1 a smaller member does no harm
_LOCAL_HEADER = 30  # bytes before a member's name


def scan_zip(source: ZipSource) -> Listing:
    """List the visible regular members of an archive.

    Raises:
        DataError: It is no zip archive, is encrypted, holds names that lead out of it, names twice, members that
            overlap, or more than the limits of this module.
    """
    members = source.archive().infolist()
    _check_limits(source.path, members)
    files: list[str] = []
    folders: dict[str, None] = {}
    skipped: list[Skipped] = []
    for member in members:
        name = member.filename
        if any(hidden(part) for part in PurePosixPath(name).parts):
            continue
        kind = stat.S_IFMT(member.external_attr >> 16)
        if member.is_dir():
            folders[name.rstrip("/")] = None
        elif kind not in (0, stat.S_IFREG):
            skipped.append((name, "not a regular file"))
        else:
            files.append(name)
        for parent in list(PurePosixPath(name).parents)[:-1]:
            folders[parent.as_posix()] = None
    return Listing(tuple(files), tuple(folders), tuple(skipped))


def _check_limits(path: Path, members: list[zipfile.ZipInfo]) -> None:
    if len(members) > MAX_MEMBERS:
        raise DataError(f"{path} holds {len(members)} members, more than {MAX_MEMBERS}: split the archive")
    names: set[str] = set()
    total = 0
    for member in members:
        name, total = member.filename, total + member.file_size
        parts = name.replace("\\", "/").split("/")
        if name.startswith(("/", "\\")) or ".." in parts or name[1:2] == ":" or "\0" in member.orig_filename:
            raise DataError(f"{path} holds the unsafe name {name!r}, which leads out of the archive: not read")
        if name in names:
            raise DataError(f"{path} holds {name!r} twice: pack the archive again")
        names.add(name)
        if member.flag_bits & 1:
            raise DataError(f"{path} is encrypted ({name!r}): pack it without a password")
        if member.file_size > MAX_MEMBER_BYTES:
            raise DataError(f"{path}: {name!r} takes {member.file_size} bytes, more than {MAX_MEMBER_BYTES}")
        if member.file_size > max(_FREE_BYTES, MAX_RATIO * member.compress_size):
            raise DataError(f"{path}: {name!r} grows more than {MAX_RATIO} times when decompressed: not read")
    if total > MAX_TOTAL_BYTES:
        raise DataError(f"{path} takes {total} bytes decompressed, more than {MAX_TOTAL_BYTES}: not read")
    ordered = sorted(members, key=lambda member: member.header_offset)
    for first, second in itertools.pairwise(ordered):
        if first.header_offset + _LOCAL_HEADER + first.compress_size > second.header_offset:
            raise DataError(f"{path}: {first.filename!r} and {second.filename!r} overlap: not read")
