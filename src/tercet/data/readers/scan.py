"""List the files of a folder or a zip archive."""

from __future__ import annotations

import os
import stat
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tercet.core.archives import check_zip
from tercet.core.errors import DataError
from tercet.core.output import join_few, printable
from tercet.data.decode import EXTENSIONS
from tercet.data.sources import ZipSource

NO_EXTENSION = "no image extension"
_BROKEN_LINK = "a link to nothing"
_OUTER_LINK = "a link to a folder, or to a file outside the folder (--data.follow-links)"
_MAX_DEPTH = 32  # nested folders
MAX_MEMBER_BYTES = 1 << 29
"""Maximum size of an uncompressed zip member: 512 MiB."""

SkippedFile = tuple[str, str]
"""A path and the reason why it was skipped."""


def skipped_documents(skipped: Iterable[SkippedFile]) -> list[dict[str, str]]:
    """Return skipped files as JSON values."""
    return [{"id": path, "reason": reason} for path, reason in skipped]


def skipped_lines(skipped: Iterable[SkippedFile]) -> str:
    """Return one line per skipped file."""
    return "".join(f"{printable(path)}: SKIPPED ({reason})\n" for path, reason in skipped)


def no_images(what: str, skipped: Iterable[SkippedFile]) -> str:
    """Return that a place holds no images, and which files were skipped for which reason."""
    return "; ".join((f"{what} holds no images", *summarise_skipped(skipped)))


@dataclass(frozen=True)
class Listing:
    """All visible files and folders under a root, as relative paths with forward slashes."""

    files: tuple[str, ...]
    folders: tuple[str, ...] = ()
    skipped: tuple[SkippedFile, ...] = ()


def is_hidden(name: str) -> bool:
    """Return whether a path component is metadata of a system or a notebook."""
    return name.startswith(".") or name in ("__MACOSX", "Thumbs.db", "desktop.ini")


def is_image(path: str) -> bool:
    """Return whether a file has an image extension."""
    return PurePosixPath(path).suffix.lower() in EXTENSIONS


def summarise_skipped(skipped: Iterable[SkippedFile]) -> tuple[str, ...]:
    """Return one sentence per reason, with the number of paths and the first five."""
    by_reason: dict[str, list[str]] = defaultdict(list)
    for path, reason in skipped:
        by_reason[reason].append(path)
    return tuple(
        f"{len(paths)} skipped, {reason}: {join_few([*map(repr, paths)])}"
        for reason, paths in sorted(by_reason.items())
    )


def scan_zip(source: ZipSource) -> Listing:
    """List the visible regular members of an archive.

    Raises:
        DataError: The file is not a zip archive, is encrypted, contains unsafe or duplicate names or overlapping
            members, or exceeds the limits of `core.archives` and of this module.
    """
    members = source.archive().infolist()
    check_zip(source.path, members, max_member=MAX_MEMBER_BYTES)
    files: list[str] = []
    folders: dict[str, None] = {}
    skipped: list[SkippedFile] = []
    for member in members:
        name = member.filename
        if any(is_hidden(part) for part in PurePosixPath(name).parts):
            continue
        file_type = stat.S_IFMT(member.external_attr >> 16)
        if member.is_dir():
            folders[name.rstrip("/")] = None
        elif file_type not in (0, stat.S_IFREG):
            skipped.append((name, "not a regular file"))
        else:
            files.append(name)
        for parent in list(PurePosixPath(name).parents)[:-1]:
            folders[parent.as_posix()] = None
    return Listing(tuple(files), tuple(folders), tuple(skipped))


def scan_folder(root: Path, *, follow_links: bool = False) -> Listing:
    """List the visible regular files and folders under `root`.

    Links to files within the root are listed; a file with several names is listed once.

    Args:
        root: The folder.
        follow_links: Also list links to files elsewhere, and the files below links to folders.

    Raises:
        DataError: The root folder cannot be read.
    """
    try:
        os.listdir(root)
    except OSError as error:
        raise DataError(f"cannot read the folder {root}: {error.strerror or error}") from error
    walk = _Walk(os.path.realpath(root), follow_links)
    walk.enter(walk.root, "")
    walk.resolve_links()
    return Listing(tuple(walk.files), tuple(walk.folders), tuple(walk.skipped))


class _Walk:
    """One pass over a folder tree; links are resolved after all real files are listed."""

    def __init__(self, root: str, follow_links: bool) -> None:
        self.root, self.follow_links = root, follow_links
        self.files: list[str] = []
        self.folders: list[str] = []
        self.skipped: list[SkippedFile] = []
        self.links: list[tuple[str, str]] = []
        self.inodes: set[tuple[int, int]] = set()

    def enter(self, folder: str, prefix: str) -> None:
        """List a folder; `prefix` is its path relative to the root, with a trailing slash."""
        try:
            with os.scandir(folder) as iterator:
                entries = sorted((entry for entry in iterator if not is_hidden(entry.name)), key=lambda item: item.name)
        except OSError:
            self.skipped.append((prefix, "unreadable folder"))
            return
        for entry in entries:
            path = prefix + entry.name
            if entry.is_symlink():
                self.links.append((path, entry.path))
            elif entry.is_dir(follow_symlinks=False):
                self.add_folder(path, entry.path)
            else:
                self.add(path, entry.path)

    def add_folder(self, path: str, real: str) -> None:
        """List a folder and its contents."""
        self.folders.append(path)
        if path.count("/") >= _MAX_DEPTH:
            self.skipped.append((path, f"more than {_MAX_DEPTH} nested folders"))
        else:
            self.enter(real, f"{path}/")

    def add(self, path: str, real: str) -> None:
        """List a file if it is a regular one and not yet listed."""
        try:
            status = os.lstat(real)
        except OSError:
            self.skipped.append((path, "deleted during the scan"))
            return
        inode = (status.st_dev, status.st_ino)
        if not stat.S_ISREG(status.st_mode):
            self.skipped.append((path, "not a regular file"))
        elif inode in self.inodes:
            self.skipped.append((path, "another name of a listed file"))
        else:
            self.inodes.add(inode)
            self.files.append(path)

    def resolve_links(self) -> None:
        """List the links to regular files within the root; if links are followed, all of them."""
        visited: set[str] = set()
        while self.links:  # a folder that is followed may have further links
            path, link = self.links.pop(0)
            try:
                target = os.path.realpath(link, strict=True)
            except OSError:
                self.skipped.append((path, _BROKEN_LINK))
                continue
            inside = os.path.commonpath([self.root, target]) == self.root
            if not self.follow_links and (not inside or os.path.isdir(target)):
                self.skipped.append((path, _OUTER_LINK))
            elif not os.path.isdir(target):
                self.add(path, target)
            elif inside or target in visited or self.root.startswith(os.path.join(target, "")):
                self.skipped.append((path, "a link to a folder whose files are listed already"))
            else:
                visited.add(target)
                self.add_folder(path, target)
