"""Reading archives that may be hostile: zip and tar (plain, gzip, bzip2, xz), within limits.

Only regular files come out. A name that leads out of the archive, a name twice, a link, a device, a member or a total
beyond the limits refuses the whole archive.
"""

from __future__ import annotations

import bz2
import gzip
import itertools
import lzma
import os
import posixpath
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from tercet.core.errors import DataError

MAX_MEMBERS = 2_000_000
MAX_TOTAL_BYTES = 1 << 42
"""Largest archive once decompressed: 4 TiB."""
MAX_RATIO = 200
"""Largest ratio of decompressed to stored bytes, beyond `_FREE_BYTES`."""
_FREE_BYTES = 1 << 24  # 16 MiB: even at deflate's limit of 1032 : 1 a smaller member does no harm
_MAX_BLOCK = 1 << 24  # bytes that one read may ask for, so that a header cannot
_PART = 1 << 20  # bytes read at a time
_LOCAL_HEADER = 30  # bytes before a zip member's name
_DAMAGE = (
    OSError,
    EOFError,
    ValueError,
    RuntimeError,
    OverflowError,
    struct.error,
    zlib.error,
    lzma.LZMAError,
    tarfile.TarError,
    zipfile.BadZipFile,
)

ArchiveMember = tuple[str, int, IO[bytes]]
"""A regular file of an archive: its name, its size, and its bytes, which must be read before the next member."""


def check_name(archive: Path, name: str) -> str:
    """Return a member's name in its plain form.

    Raises:
        DataError: It would lead out of the folder that the archive is unpacked in.
    """
    parts = name.replace("\\", "/").split("/")
    if name.startswith(("/", "\\")) or ".." in parts or re.match(r"[A-Za-z]:", name) or "\0" in name:
        raise DataError(f"{archive} holds the unsafe name {name!r}, which leads out of the archive: not read")
    return posixpath.normpath(name)


def check_zip(archive: Path, members: Sequence[zipfile.ZipInfo], *, max_member: int) -> None:
    """Look at the directory of a zip archive before anything is read.

    Args:
        archive: Its path, for messages.
        members: The directory.
        max_member: Largest member once decompressed, in bytes.

    Raises:
        DataError: It is encrypted, holds names that lead out of it, names twice, members that overlap, or more than the
            limits of this module.
    """
    if len(members) > MAX_MEMBERS:
        raise DataError(f"{archive} holds {len(members)} members, more than {MAX_MEMBERS}: split the archive")
    names: set[str] = set()
    total = 0
    for member in members:
        name, total = member.filename, total + member.file_size
        check_name(archive, member.orig_filename)
        check_name(archive, name)
        if name in names:
            raise DataError(f"{archive} holds {name!r} twice: pack the archive again")
        names.add(name)
        if member.flag_bits & 1:
            raise DataError(f"{archive} is encrypted ({name!r}): pack it without a password")
        if member.file_size > max_member:
            raise DataError(f"{archive}: {name!r} takes {member.file_size} bytes, more than {max_member}")
        if member.file_size > max(_FREE_BYTES, MAX_RATIO * member.compress_size):
            raise DataError(f"{archive}: {name!r} grows more than {MAX_RATIO} times when decompressed: not read")
    if total > MAX_TOTAL_BYTES:
        raise DataError(f"{archive} takes {total} bytes decompressed, more than {MAX_TOTAL_BYTES}: not read")
    ordered = sorted(members, key=lambda member: member.header_offset)
    for first, second in itertools.pairwise(ordered):
        if first.header_offset + _LOCAL_HEADER + first.compress_size > second.header_offset:
            raise DataError(f"{archive}: {first.filename!r} and {second.filename!r} overlap: not read")


def read_members(archive: Path, wanted: Mapping[str, int]) -> dict[str, bytes]:
    """Return the contents of some members, by file name without folders.

    Args:
        archive: Its path.
        wanted: File names, and the most bytes that each may have.

    Raises:
        DataError: The archive is damaged or not safe, a member is there twice, or it is too large.
    """
    found: dict[str, bytes] = {}
    for name, size, content in read_archive(archive):
        base = posixpath.basename(name)
        if base not in wanted:
            continue
        if base in found:
            raise DataError(f"{archive} holds two files named {base}")
        if size > wanted[base]:
            raise DataError(f"{archive}: {name} takes {size} bytes, expected at most {wanted[base]}")
        found[base] = b"".join(read_chunks(archive, content))
        if found.keys() == wanted.keys():
            break
    return found


def read_archive(archive: Path) -> Iterator[ArchiveMember]:
    """Yield the regular files of an archive; its kind is told from its content.

    Raises:
        DataError: It is no archive, is damaged, or not safe (see this module).
    """
    with _damage(archive):
        stream = open(archive, "rb")  # noqa: SIM115  closed below; an error here is told apart from one inside
    with stream:
        head = stream.read(6)
        stream.seek(0)
        if head.startswith(b"PK"):
            yield from _zip_members(archive, stream)
        elif head.startswith(b"\x1f\x8b"):
            yield from _tar_members(archive, stream, gzip.GzipFile(fileobj=stream))
        elif head.startswith(b"BZh"):
            yield from _tar_members(archive, stream, bz2.BZ2File(stream))
        elif head == b"\xfd7zXZ\0":
            yield from _tar_members(archive, stream, lzma.LZMAFile(stream))  # noqa: SIM115
        else:
            yield from _tar_members(archive, stream, stream)


def _zip_members(archive: Path, stream: BinaryIO) -> Iterator[ArchiveMember]:
    with _damage(archive):
        packed = zipfile.ZipFile(stream)
    check_zip(archive, packed.infolist(), max_member=MAX_TOTAL_BYTES)
    for member in packed.infolist():
        if member.is_dir():
            continue
        if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG):
            raise DataError(f"{archive} holds {member.filename!r}, which is no regular file: not read")
        with _damage(archive):
            content = packed.open(member)
        yield check_name(archive, member.filename), member.file_size, content


def _tar_members(archive: Path, stored: BinaryIO, unpacked: Any) -> Iterator[ArchiveMember]:
    limit = min(MAX_TOTAL_BYTES, max(_FREE_BYTES, MAX_RATIO * os.fstat(stored.fileno()).st_size))
    with _damage(archive):
        packed = tarfile.TarFile(str(archive), fileobj=cast(IO[bytes], _Forward(archive, unpacked, limit)))
    for count in itertools.count(1):
        with _damage(archive):
            member = packed.next()
        if member is None:
            return
        packed.members = []  # type: ignore[attr-defined]  # else every header would be kept
        if count > MAX_MEMBERS:
            raise DataError(f"{archive} holds more than {MAX_MEMBERS} members: split the archive")
        name = check_name(archive, member.name)
        if member.isdir():
            continue
        if not member.isreg() or member.issparse() or member.size < 0:
            raise DataError(f"{archive} holds {name!r}, which is no regular file: not read")
        with _damage(archive):
            content = packed.extractfile(member)
        if content is not None:
            yield name, member.size, content


class _Forward:
    """A decompressed stream for tarfile, which seeks: mostly forward, and at most one byte back.

    Args:
        archive: Its path, for messages.
        stream: Gives the bytes in order.
        limit: Bytes after which the archive counts as a bomb.
    """

    def __init__(self, archive: Path, stream: Any, limit: int) -> None:
        self._archive, self._stream, self._limit = archive, stream, limit
        self._reached = self._wanted = 0
        self._last = b""

    def tell(self) -> int:
        """Return where the next read begins."""
        return self._wanted

    def seek(self, position: int, whence: int = os.SEEK_SET) -> int:
        """Choose where the next read begins, from the start."""
        self._wanted = position
        return position

    def read(self, size: int = -1) -> bytes:
        """Return up to so many bytes."""
        if not 0 <= size <= _MAX_BLOCK:
            raise DataError(f"{self._archive} is damaged: a header states {size} bytes")
        while self._reached < self._wanted and self._advance(min(_PART, self._wanted - self._reached)):
            pass
        back = self._reached - self._wanted
        if back < 0:
            return b""
        if back > len(self._last):
            raise DataError(f"{self._archive} is damaged: its members overlap")
        content = self._last[len(self._last) - back :][:size]
        while len(content) < size and (part := self._advance(size - len(content))):
            content += part
        self._wanted += len(content)
        return content

    def _advance(self, size: int) -> bytes:
        part = bytes(self._stream.read(size))
        self._reached += len(part)
        self._last = part[-1:] or self._last
        if self._reached > self._limit:
            raise DataError(f"{self._archive} grows more than {MAX_RATIO} times when decompressed: not read")
        return part


@contextmanager
def _damage(archive: Path) -> Iterator[None]:
    """Say of what a reader of archives raises on hostile bytes that the archive is damaged."""
    try:
        yield
    except DataError:
        raise
    except _DAMAGE as error:
        raise DataError(f"{archive} is not a readable archive: {error or type(error).__name__}") from error


def read_chunks(archive: Path, content: IO[bytes]) -> Iterator[bytes]:
    """Yield a member's bytes part by part.

    Raises:
        DataError: The archive is damaged.
    """
    while True:
        with _damage(archive):
            part = content.read(_PART)
        if not part:
            return
        yield part
