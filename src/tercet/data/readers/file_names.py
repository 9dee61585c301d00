"""Files that a table lists, also by names that differ in case, Unicode form, separators, blanks or extension."""

from __future__ import annotations

import os
import posixpath
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from pathlib import PurePosixPath
from typing import Protocol

from tercet.core.errors import DataError
from tercet.data.readers.scan import is_image
from tercet.data.sources import FolderSource, ImageSource, ZipSource


class ListedSource(ImageSource, Protocol):
    """Image source that finds the files that a table lists."""

    def find(self, name: str) -> str | None:
        """Return the location of a file, or None if it does not exist."""
        ...


class FileFinder:
    """Finds the files that a table lists, and counts the names that are not exact.

    Args:
        source: Folder or archive.
        folder: Folder of the table within the source, empty or with a trailing slash.
        find: Returns the location of a path that is none of the source's, such as that of a name without its folder.
    """

    def __init__(self, source: ListedSource, folder: str, *, find: Callable[[str], str | None] | None = None) -> None:
        self.source, self.folder, self._find = source, folder, source.find
        self._find_elsewhere = find or (lambda path: None)
        self.other_forms: dict[str, str] = {}
        """Files by listed names in another form."""
        self.without_extension: dict[str, str] = {}
        """Files by listed names that lack the extension."""
        self._folders: dict[str, _FolderEntries] = {}

    def find(self, name: str) -> str | None:
        """Return the location of a listed file, or None if it does not exist.

        Raises:
            DataError: The path is outside the source, or several files have the name but for its form.
        """
        location = self._find(self.folder + name)
        if location is not None:
            return location
        plain = name.strip().replace("\\", "/")
        if plain != name:
            location = self._find(self.folder + plain)
        path = None if location is not None else self._search(plain)
        location = self._find(path) if path is not None else location
        if location is not None:
            has_extension = file_key(PurePosixPath(plain).name) == file_key(PurePosixPath(location).name)
            (self.other_forms if has_extension else self.without_extension)[name] = location
        return location or self._find_elsewhere(self.folder + plain)

    def notes(self) -> tuple[str, ...]:
        """Return sentences about the names that are not exact."""
        kinds = {
            "differ from the files in case, Unicode form, separators or blanks": self.other_forms,
            "lack the extension of the file": self.without_extension,
        }
        notes = []
        for difference, names in kinds.items():
            for name, location in list(names.items())[:1]:
                notes.append(f"{len(names)} listed names {difference}, such as {name!r} for {location!r}")
        return tuple(notes)

    def _search(self, name: str) -> str | None:
        """Return the only path whose parts have the keys of the parts of a relative path."""
        path = posixpath.normpath(self.folder + name)
        if not name or path.startswith(("/", "..")) or path == "." or "\0" in path:
            return None
        *folders, file = path.split("/")
        parent = ""
        for folder in folders:
            match = self._match(parent, folder)
            if match is None:
                return None
            parent += f"{match}/"
        match = self._match(parent, file, is_file=True)
        return None if match is None else parent + match

    def _match(self, parent: str, name: str, *, is_file: bool = False) -> str | None:
        if parent not in self._folders:
            self._folders[parent] = _FolderEntries(_entries(self.source, parent))
        entries, key = self._folders[parent], file_key(name)
        matches = entries.by_name.get(key, [])
        if not matches and is_file and not is_image(name):
            matches = entries.by_stem.get(key, [])
        if len(matches) > 1 and name not in matches:
            raise DataError(f"'{name}' could be '{parent}{matches[0]}' or '{parent}{matches[1]}'")
        return name if name in matches else matches[0] if matches else None


def file_key(name: str) -> str:
    """Return a file name without case, Unicode form and surrounding blanks."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold()).strip()


class _FolderEntries:
    """Names of the files and folders in a folder, by `file_key` of the name and of an image's stem."""

    def __init__(self, names: Iterable[str]) -> None:
        self.by_name: dict[str, list[str]] = defaultdict(list)
        self.by_stem: dict[str, list[str]] = defaultdict(list)
        for name in sorted(names):
            self.by_name[file_key(name)].append(name)
            if is_image(name):
                self.by_stem[file_key(PurePosixPath(name).stem)].append(name)


def _entries(source: ListedSource, parent: str) -> Collection[str]:
    """Return the names in a folder of the source; `parent` is empty or has a trailing slash."""
    if isinstance(source, ZipSource):
        members = source.archive().namelist()
        return {name[len(parent) :].split("/")[0] for name in members if name.startswith(parent)} - {""}
    if isinstance(source, FolderSource):
        with suppress(OSError):
            return os.listdir(source.root / parent)
    return ()
