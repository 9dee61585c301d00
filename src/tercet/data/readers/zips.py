"""Listing a zip archive that may be hostile; nothing is ever unpacked, members are read where they are."""

from __future__ import annotations

import stat
from pathlib import PurePosixPath

from tercet.data.readers.layout import Listing, Skipped, hidden
from tercet.data.sources import ZipSource
from tercet.ground.archives import check_zip

MAX_MEMBER_BYTES = 1 << 29
"""Largest member once decompressed: 512 MiB."""


def scan_zip(source: ZipSource) -> Listing:
    """List the visible regular members of an archive.

    Raises:
        DataError: It is no zip archive, is encrypted, holds names that lead out of it, names twice, members that
            overlap, or more than the limits of `ground.archives` and of this module.
    """
    members = source.archive().infolist()
    check_zip(source.path, members, max_member=MAX_MEMBER_BYTES)
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
