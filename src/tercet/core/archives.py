"""Reading and unpacking of untrusted zip and tar archives (plain, gzip, bzip2, xz), within limits.

Only regular files are read. Unsafe or repeated names, links, devices and sizes beyond the limits raise `DataError`.
"""

from __future__ import annotations

import bz2
import glob
import gzip
import itertools
import lzma
import os
import posixpath
import re
import shutil
import stat
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from tercet.core.errors import DataError, StorageError
from tercet.core.files import umask

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
MAX_MEMBERS = 2_000_000
MAX_TOTAL_BYTES = 1 << 42
"""Maximum decompressed size of an archive: 4 TiB."""
MAX_RATIO = 200
"""Maximum compression ratio, checked for sizes above `_UNCHECKED_BYTES`."""
_UNCHECKED_BYTES = 1 << 24  # 16 MiB are harmless even at the maximum ratio of deflate, 1032 : 1
_MAX_HEADER = 1 << 20  # bytes of an extended tar header, which is read into memory
_CHUNK = 1 << 20  # bytes
_LOCAL_HEADER = 30  # bytes before the name of a zip member
_DAMAGED = (OSError, EOFError, ValueError, RuntimeError, OverflowError)
_READ_ERRORS = (*_DAMAGED, struct.error, zlib.error, lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile)

ArchiveMember = tuple[str, int, IO[bytes]]
"""Name, size and content of a regular file; the content must be read before the next member."""


def check_name(archive: Path, name: str) -> str:
    """Return the normalized name of a member.

    Raises:
        DataError: The name points outside the folder that the archive is unpacked to.
    """
    parts = name.replace("\\", "/").split("/")
    if name.startswith(("/", "\\")) or ".." in parts or re.match(r"[A-Za-z]:", name) or "\0" in name:
        raise DataError(f"{archive} contains the unsafe name {name!r}, which leads out of the archive: not read")
    return posixpath.normpath(name)


def check_zip(archive: Path, members: Sequence[zipfile.ZipInfo], *, max_member: int) -> None:
    """Check the directory of a zip archive before any member is read.

    Raises:
        DataError: The archive is encrypted, has unsafe or repeated names or overlapping members, or exceeds a limit.
    """
    if len(members) > MAX_MEMBERS:
        raise DataError(f"{archive} contains {len(members)} members, more than {MAX_MEMBERS}: split the archive")
    names: set[str] = set()
    for member in members:
        name = member.filename
        check_name(archive, member.orig_filename)
        check_name(archive, name)
        if name in names:
            raise DataError(f"{archive} contains {name!r} twice: pack the archive again")
        names.add(name)
        if member.flag_bits & 1:
            raise DataError(f"{archive} is encrypted ({name!r}): pack it without a password")
        if member.file_size > max_member:
            raise DataError(f"{archive}: {name!r} has {member.file_size} bytes, more than {max_member}")
        if member.file_size > max(_UNCHECKED_BYTES, MAX_RATIO * member.compress_size):
            raise DataError(f"{archive}: {name!r} grows more than {MAX_RATIO} times when decompressed: not read")
    total = sum(member.file_size for member in members)
    if total > MAX_TOTAL_BYTES:
        raise DataError(f"{archive} has {total} bytes decompressed, more than {MAX_TOTAL_BYTES}: not read")
    # Python itself checks this since 3.11.8 and 3.12.2.
    for first, second in itertools.pairwise(sorted(members, key=lambda member: member.header_offset)):
        if first.header_offset + _LOCAL_HEADER + first.compress_size > second.header_offset:
            raise DataError(f"{archive}: {first.filename!r} and {second.filename!r} overlap: not read")


def read_members(archive: Path, max_sizes: Mapping[str, int]) -> dict[str, bytes]:
    """Return the content of members, by file name without folders, given their maximum sizes in bytes.

    Raises:
        DataError: The archive is damaged or unsafe, or a member is missing, repeated or too large.
    """
    contents: dict[str, bytes] = {}
    for name, size, content in read_archive(archive):
        base = posixpath.basename(name)
        if base not in max_sizes:
            continue
        if base in contents:
            raise DataError(f"{archive} contains two files named {base}")
        if size > max_sizes[base]:
            raise DataError(f"{archive}: {name} has {size} bytes, expected at most {max_sizes[base]}")
        contents[base] = b"".join(read_chunks(archive, content))
        if contents.keys() == max_sizes.keys():
            return contents
    raise DataError(f"{archive} does not contain {min(max_sizes.keys() - contents.keys())}: download it again")


def read_archive(archive: Path) -> Iterator[ArchiveMember]:
    """Yield the regular files of an archive; its format is detected from the content.

    Raises:
        DataError: The file is not an archive, or is damaged or unsafe (see this module).
    """
    with _convert_errors(archive):
        stream = open(archive, "rb")  # noqa: SIM115  only errors of opening are converted here
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
    with _convert_errors(archive):
        zipped = zipfile.ZipFile(stream)
    check_zip(archive, zipped.infolist(), max_member=MAX_TOTAL_BYTES)
    for member in zipped.infolist():
        if member.is_dir():
            continue
        if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG):
            raise DataError(f"{archive} contains {member.filename!r}, which is not a regular file: not read")
        with _convert_errors(archive):
            content = zipped.open(member)
        yield check_name(archive, member.filename), member.file_size, content


class _TarHeader(tarfile.TarInfo):
    """Header of a tar member; an extended header must not cause a large read."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _TarHeader:
        header = super().frombuf(buf, encoding, errors)
        if header.size > _MAX_HEADER and not header.isreg():
            raise tarfile.ReadError(f"a header states {header.size} bytes")
        return header


class _LimitedStream:
    """Decompressed bytes of a tar archive, up to a limit that protects against decompression bombs."""

    def __init__(self, archive: Path, stored: BinaryIO, decompressed: Any) -> None:
        self._archive, self._stream = archive, decompressed
        size = os.fstat(stored.fileno()).st_size
        self._remaining = min(MAX_TOTAL_BYTES, max(_UNCHECKED_BYTES, MAX_RATIO * size))

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes."""
        content = bytes(self._stream.read(size))
        self._remaining -= len(content)
        if self._remaining < 0:
            raise DataError(f"{self._archive} grows more than {MAX_RATIO} times when decompressed: not read")
        return content


def _tar_members(archive: Path, stored: BinaryIO, decompressed: Any) -> Iterator[ArchiveMember]:
    stream = cast(IO[bytes], _LimitedStream(archive, stored, decompressed))
    with _convert_errors(archive):
        tar = tarfile.open(fileobj=stream, mode="r|", tarinfo=_TarHeader)  # noqa: SIM115  the caller closes it
    for count in itertools.count(1):
        with _convert_errors(archive):
            member = tar.next()
        if member is None:
            return
        tar.members = []  # type: ignore[attr-defined]  # keep the headers of large archives out of memory
        if count > MAX_MEMBERS:
            raise DataError(f"{archive} contains more than {MAX_MEMBERS} members: split the archive")
        name = check_name(archive, member.name)
        if member.isdir():
            continue
        if not member.isreg() or member.issparse() or member.size < 0:
            raise DataError(f"{archive} contains {name!r}, which is not a regular file: not read")
        with _convert_errors(archive):
            content = tar.extractfile(member)
        if content is not None:
            yield name, member.size, content


@contextmanager
def _convert_errors(archive: Path) -> Iterator[None]:
    """Convert the errors that archive readers raise on damaged or hostile bytes to `DataError`."""
    try:
        yield
    except DataError:
        raise
    except _READ_ERRORS as error:
        raise DataError(f"{archive} is not a readable archive: {error or type(error).__name__}") from error


def read_chunks(archive: Path, content: IO[bytes]) -> Iterator[bytes]:
    """Yield the content of a member in chunks.

    Raises:
        DataError: The archive is damaged.
    """
    while True:
        with _convert_errors(archive):
            chunk = content.read(_CHUNK)
        if not chunk:
            return
        yield chunk


def unpacked_folder(archive: Path) -> Path:
    """Return the folder that an archive is unpacked to: its path without `.zip`, `.tar.gz` and the like."""
    return archive.with_name(re.sub(r"(\.tar)?\.\w+$", "", archive.name))


def unpack(archive: Path, folder: Path, nested: Collection[str] = ()) -> None:
    """Unpack an archive to a new folder, which appears only when complete and synced to disk.

    Args:
        archive: A zip or tar archive.
        folder: The new folder; only one process at a time may unpack to it. Leftovers of killed processes are removed.
        nested: File names of archives inside the archive, which are unpacked in place.

    Raises:
        DataError: The archive is damaged or unsafe.
        StorageError: The folder cannot be written.
    """
    prefix = f".{folder.name[:60]}."
    for leftover in folder.parent.glob(f"{glob.escape(prefix)}*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)
    with _writing(folder):
        temporary = Path(tempfile.mkdtemp(prefix=prefix, suffix=".tmp", dir=folder.parent))
    try:
        _unpack_into(archive, temporary)
        for inner in [path for path in temporary.rglob("*") if path.name in nested and path.is_file()]:
            _unpack_into(inner, unpacked_folder(inner))
            inner.unlink()
        with _writing(folder):
            temporary.chmod(0o777 & ~umask())
            if hasattr(os, "sync"):  # not on Windows
                os.sync()  # one call for hundreds of thousands of files
            temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _unpack_into(archive: Path, folder: Path) -> None:
    # Links are never created, so no parent folder of a target can be one.
    for name, _, content in read_archive(archive):
        target = folder / name
        with _writing(target):
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                stream = open(target, "xb")  # noqa: SIM115  used right below
            except (FileExistsError, NotADirectoryError) as error:
                raise DataError(f"{archive} contains {target.name!r} twice: not unpacked") from error
            with stream:
                for chunk in read_chunks(archive, content):
                    stream.write(chunk)


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"cannot write {target}: {error.strerror or error}; free space or choose another folder"
        ) from error
