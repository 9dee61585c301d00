"""Image sources of a table: a folder, a zip archive, or an array.

Shapes: N images, H x W pixels, C channels.
"""

from __future__ import annotations

import copy
import hashlib
import os
import posixpath
import re
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from tercet.core.errors import DataError
from tercet.data.decode import decode, open_regular
from tercet.data.decoding import DEFAULT, Decoding
from tercet.data.pixel_values import Pixels, to_depth

_CHUNK = 1 << 20  # bytes per read
FILE_DIGEST_BYTES = 8  # the probability of a collision among ten million images is 3e-6


class ImageSource(Protocol):
    """Reads the images of a table; instances can be copied to other processes."""

    def pixels(self, location: str, *, max_pixels: int) -> Pixels:
        """Return one decoded image, H W C; raises `DataError` if it is unreadable."""
        ...

    def checksum(self, location: str) -> int:
        """Return the CRC-32 of one image's stored bytes."""
        ...

    def digest(self, location: str) -> bytes:
        """Return the BLAKE2b digest (`FILE_DIGEST_BYTES`) of one image's stored bytes."""
        ...

    def describe(self) -> dict[str, Any]:
        """Return a description from which `source_of` restores this source."""
        ...


@dataclass(frozen=True)
class FolderSource:
    """Image files under one root folder; locations are paths relative to it."""

    root: Path
    decoding: Decoding = DEFAULT
    follow_links: bool = False
    """Whether tables may list links to files outside the root."""
    _folders: dict[str, str] = field(default_factory=dict, repr=False, compare=False)
    _checksums: dict[str, tuple[int, bytes]] = field(default_factory=dict, repr=False, compare=False)

    def pixels(self, location: str, *, max_pixels: int) -> Pixels:
        """Decode one file."""
        return decode(self.root / location, max_pixels=max_pixels, decoding=self.decoding)

    def checksum(self, location: str) -> int:
        """Return the CRC-32 of one file; each file is read once."""
        return self._hashes(location)[0]

    def digest(self, location: str) -> bytes:
        """Return the digest of one file; each file is read once."""
        return self._hashes(location)[1]

    def _hashes(self, location: str) -> tuple[int, bytes]:
        if location not in self._checksums:
            value, digest = 0, hashlib.blake2b(digest_size=FILE_DIGEST_BYTES)
            with open_regular(self.root / location) as stream:
                while chunk := stream.read(_CHUNK):
                    value = zlib.crc32(chunk, value)
                    digest.update(chunk)
            self._checksums[location] = value, digest.digest()
        return self._checksums[location]

    def content(self, location: str) -> bytes:
        """Return all bytes of one file."""
        with open_regular(self.root / location) as stream:
            return stream.read()

    def describe(self) -> dict[str, Any]:
        """Return the kind, the root, and how files are decoded."""
        return {"kind": "folder", "path": os.path.abspath(self.root), "decoding": self.decoding.to_dict()}

    def find(self, name: str) -> str | None:
        """Return the location of a file that a table lists, or None if it does not exist.

        Raises:
            DataError: The path is outside the root folder.
        """
        if re.match(r"[A-Za-z]:[\\/]|\\\\", name):
            raise DataError(f"'{name}' is outside {self.root}: paths are relative to the table's folder")
        parent, base = os.path.split(name)
        if "\0" in name or base in ("", ".", ".."):
            return None
        folder = self._folder(parent)
        target = os.path.join(folder, base)
        try:
            mode = os.lstat(target).st_mode
            if stat.S_ISLNK(mode):
                target = os.path.realpath(target, strict=True)
                mode = os.lstat(target).st_mode
        except OSError:
            return None
        if self.follow_links:
            inside = target.startswith(os.path.join(self._real_root(), ""))
            return (self._relative(target) if inside else name) if stat.S_ISREG(mode) else None
        if not target.startswith(os.path.join(folder, "")):  # a link to another folder
            self._check_inside(target, name)
        return self._relative(target) if stat.S_ISREG(mode) else None

    def _folder(self, parent: str) -> str:
        """Return the real path of a folder within the root (cached, since tables list few folders)."""
        if parent not in self._folders:
            folder = os.path.realpath(os.path.join(self.root, parent))
            inside = os.path.abspath(os.path.join(self._real_root(), parent)) if self.follow_links else folder
            self._check_inside(inside, parent)  # links may lead outside, ".." may not
            self._folders[parent] = folder
        return self._folders[parent]

    def _real_root(self) -> str:
        return self._folders.setdefault("", os.path.realpath(self.root))

    def _relative(self, real: str) -> str:
        return real[len(os.path.join(self._real_root(), "")) :].replace(os.sep, "/")

    def _check_inside(self, real: str, name: str) -> None:
        if os.path.commonpath([self._real_root(), real]) != self._real_root():
            raise DataError(f"'{name}' is outside {self.root}: paths must stay within the table's folder")


class ZipSource:
    """Image files in a zip archive, which is not unpacked; locations are member names.

    Each process opens the archive itself, so that the source can be copied and forked.
    """

    def __init__(self, path: Path, decoding: Decoding = DEFAULT) -> None:
        self.path, self.decoding = path, decoding
        self._archive: zipfile.ZipFile | None = None
        self._process = 0
        self._digests: dict[str, bytes] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_archive": None, "_process": 0, "_digests": {}}

    def archive(self) -> zipfile.ZipFile:
        """Return the archive, opened in this process.

        Raises:
            DataError: The file is missing or not a zip archive.
        """
        if self._archive is None or self._process != os.getpid():
            with open_regular(self.path):
                pass  # raises for a pipe, on which zipfile would block
            try:
                self._archive, self._process = zipfile.ZipFile(self.path), os.getpid()
            except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError) as error:
                raise DataError(f"{self.path} is not a readable zip archive: {error}") from error
        return self._archive

    def content(self, location: str) -> bytes:
        """Return all bytes of one member; zipfile checks its CRC."""
        with self._open_for(location) as archive:
            return archive.read(location)

    def pixels(self, location: str, *, max_pixels: int) -> Pixels:
        """Decode one member."""
        return decode(self.content(location), max_pixels=max_pixels, decoding=self.decoding)

    def checksum(self, location: str) -> int:
        """Return the CRC-32 of one member from the archive's directory."""
        with self._open_for(location) as archive:
            return archive.getinfo(location).CRC

    def digest(self, location: str) -> bytes:
        """Return the digest of one member; each member is read once."""
        if location not in self._digests:
            self._digests[location] = digest_of(self.content(location))
        return self._digests[location]

    @contextmanager
    def _open_for(self, location: str) -> Iterator[zipfile.ZipFile]:
        """Open the archive; errors while reading the member become a `DataError`."""
        archive = self.archive()
        try:
            yield archive
        except KeyError as error:
            raise DataError(f"{self.path} has no member '{location}'") from error
        except (OSError, EOFError, RuntimeError, ValueError, zipfile.BadZipFile, zlib.error) as error:
            raise DataError(f"cannot read '{location}' in {self.path}: {error}") from error

    def describe(self) -> dict[str, Any]:
        """Return the kind, the archive's path, and how files are decoded."""
        return {"kind": "zip", "path": os.path.abspath(self.path), "decoding": self.decoding.to_dict()}

    def find(self, name: str) -> str | None:
        """Return the member that a table lists, or None if it does not exist.

        Raises:
            DataError: The path is outside the archive.
        """
        path = posixpath.normpath(name)
        if path.startswith(("/", "../")) or path == ".." or re.match(r"[A-Za-z]:[\\/]|\\\\", path):
            raise DataError(f"'{name}' is outside {self.path}: paths are relative to the archive")
        member = self.archive().NameToInfo.get(path)
        return None if member is None or member.is_dir() or _is_link(member) else path


def digest_of(content: bytes) -> bytes:
    """Return the digest of an image's stored bytes."""
    return hashlib.blake2b(content, digest_size=FILE_DIGEST_BYTES).digest()


def _is_link(member: zipfile.ZipInfo) -> bool:
    return stat.S_ISLNK(member.external_attr >> 16)


@dataclass(frozen=True)
class DepthSource:
    """Depth images of another source, each stretched to its own range (see `decode.to_depth`)."""

    inner: FolderSource | ZipSource

    def pixels(self, location: str, *, max_pixels: int) -> Pixels:
        """Decode one depth image, H W 1."""
        return decode(self.inner.content(location), max_pixels=max_pixels, convert=to_depth)

    def checksum(self, location: str) -> int:
        """Return the CRC-32 of one file."""
        return self.inner.checksum(location)

    def digest(self, location: str) -> bytes:
        """Return the digest of one file."""
        return self.inner.digest(location)

    def describe(self) -> dict[str, Any]:
        """Return the description of the inner source, with the kind marked as depth."""
        inner = self.inner.describe()
        return {**inner, "kind": f"depth {inner['kind']}"}


def with_decoding(source: ImageSource, decoding: Decoding) -> ImageSource:
    """Return a source that decodes its files in another way; depth images and arrays have no such options."""
    if isinstance(source, FolderSource):
        return replace(source, decoding=decoding)
    if hasattr(source, "decoding"):  # an archive
        source = copy.copy(source)
        source.decoding = decoding
    return source
