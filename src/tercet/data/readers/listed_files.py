"""Find the files of a table by their names, if its paths lack the folder or the extension."""

from __future__ import annotations

import posixpath
from collections import defaultdict
from collections.abc import Sequence

from tercet.core.errors import DataError
from tercet.data.readers.scan import is_image
from tercet.data.sources import FolderSource, ZipSource

_SAMPLE = 100  # rows by which a column is recognized


class FilesByName:
    """Finds images also by name alone, in the folders around a table.

    Args:
        source: Folder or archive.
        images: Locations of the images that may be listed.
    """

    def __init__(self, source: FolderSource | ZipSource, images: Sequence[str]) -> None:
        self.source = source
        self.folders: dict[str, None] = {}
        self._by_name: dict[str, list[str]] = defaultdict(list)
        for path in images:
            name = posixpath.basename(path)
            self._by_name[name].append(path)
            self._by_name[posixpath.splitext(name)[0]].append(path)

    def find(self, name: str) -> str | None:
        """Return the location of a file by its name alone, or None if there is none.

        Raises:
            DataError: Several files have the name.
        """
        candidates = self._candidates(name)
        if len(candidates) > 1:
            raise DataError(
                f"'{posixpath.basename(name)}' may be '{candidates[0]}' or '{candidates[1]}': give "
                f"--data.image-pattern '{posixpath.dirname(candidates[0])}/{{COLUMN}}'"
            )
        if not candidates:
            return None
        self.folders[posixpath.dirname(candidates[0])] = None
        return candidates[0]

    def _candidates(self, name: str) -> list[str]:
        candidates = self._by_name.get(posixpath.basename(name), [])
        if len(candidates) > 1:
            ending = f"/{'/'.join(name.split('/')[-2:])}"
            candidates = [
                path
                for path in candidates
                if f"/{posixpath.splitext(path)[0]}".endswith(ending) or f"/{path}".endswith(ending)
            ] or candidates
        return candidates

    def image_column(self, header: Sequence[str], records: Sequence[tuple[int, list[str]]], folder: str) -> str | None:
        """Return the only column whose cells are names of images; None if there is no such column, or several.

        Args:
            header: Column names.
            records: Line numbers and cells.
            folder: Folder of the table, with a trailing slash.
        """
        rows = [cells for _, cells in records[:_SAMPLE]]
        columns = [
            column
            for index, column in enumerate(header)
            if all(self._exists(folder + cells[index].strip()) for cells in rows if cells[index].strip())
            and any(cells[index].strip() for cells in rows)
        ]
        return columns[0] if len(columns) == 1 else None

    def _exists(self, name: str) -> bool:
        if self._candidates(name):
            return True
        try:
            location = self.source.find(name)
        except DataError:
            return False
        return location is not None and is_image(location)
