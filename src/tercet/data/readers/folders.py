"""Listing a folder: regular files only, each once, never out of the root and never waiting for a pipe."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from tercet.data.readers.layout import Listing, Skipped, hidden
from tercet.ground.errors import DataError

_LINK = "a link that leads nowhere, out of the folder, or to a folder"
_MAX_DEPTH = 32  # folders within folders


def scan_folder(root: Path) -> Listing:
    """List the visible regular files and folders under `root`.

    Links to files within the root count, folders behind links do not; a file that can be reached twice counts once.

    Raises:
        DataError: The folder itself cannot be read.
    """
    try:
        os.listdir(root)
    except OSError as error:
        raise DataError(f"cannot read the folder {root}: {error.strerror or error}") from error
    walk = _Walk(os.path.realpath(root))
    walk.enter(walk.root, "")
    walk.follow_links()
    return Listing(tuple(walk.files), tuple(walk.folders), tuple(walk.skipped))


class _Walk:
    """One pass over a folder tree; links wait until all real files are known."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.files: list[str] = []
        self.folders: list[str] = []
        self.skipped: list[Skipped] = []
        self.links: list[tuple[str, str]] = []
        self.seen: set[tuple[int, int]] = set()

    def enter(self, folder: str, prefix: str) -> None:
        """Take in one folder; `prefix` is its path relative to the root, with a closing slash."""
        try:
            with os.scandir(folder) as entries:
                found = sorted((entry for entry in entries if not hidden(entry.name)), key=lambda entry: entry.name)
        except OSError:
            self.skipped.append((prefix, "a folder that cannot be read"))
            return
        for entry in found:
            path = prefix + entry.name
            if entry.is_symlink():
                self.links.append((path, entry.path))
            elif entry.is_dir(follow_symlinks=False):
                self.folders.append(path)
                if path.count("/") >= _MAX_DEPTH:
                    self.skipped.append((path, f"more than {_MAX_DEPTH} folders deep"))
                else:
                    self.enter(entry.path, f"{path}/")
            else:
                self.add(path, entry.path)

    def add(self, path: str, real: str) -> None:
        """Take in one file, if it is a regular one and new."""
        try:
            status = os.lstat(real)
        except OSError:
            self.skipped.append((path, "vanished"))
            return
        key = (status.st_dev, status.st_ino)
        if not stat.S_ISREG(status.st_mode):
            self.skipped.append((path, "not a regular file"))
        elif key in self.seen:
            self.skipped.append((path, "another name of a file that is there already"))
        else:
            self.seen.add(key)
            self.files.append(path)

    def follow_links(self) -> None:
        """Take in the links that lead to regular files within the root."""
        for path, link in self.links:
            try:
                target = os.path.realpath(link, strict=True)
            except OSError:
                self.skipped.append((path, _LINK))
                continue
            if os.path.commonpath([self.root, target]) != self.root or os.path.isdir(target):
                self.skipped.append((path, _LINK))
            else:
                self.add(path, target)
