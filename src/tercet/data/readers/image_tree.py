"""Folders of images as a tree, and the folders that only wrap others."""

from __future__ import annotations

import posixpath
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence


class ImageTree:
    """Folders that contain images at any depth, by path relative to the data ('' is the data itself).

    Args:
        images: Paths of image files.
        empty: Paths of folders without any file; a folder beside one is a class rather than a wrapper.
    """

    def __init__(self, images: Sequence[str], empty: Sequence[str] = ()) -> None:
        self.images = tuple(images)
        self.direct = Counter(posixpath.dirname(path) for path in images)
        self.below: Counter[str] = Counter()
        self._children: dict[str, dict[str, None]] = defaultdict(dict)
        self._empty = Counter(posixpath.dirname(path) for path in empty)
        for folder, count in self.direct.items():
            path = folder
            while True:
                self.below[path] += count
                if not path:
                    break
                parent, name = posixpath.split(path)
                self._children[parent][name] = None
                path = parent

    def names(self, folder: str) -> list[str]:
        """Return the names of the sub-folders that contain images, sorted."""
        return sorted(self._children.get(folder, ()))

    def is_flat(self, folder: str) -> bool:
        """Return whether a folder has images but no sub-folders with images."""
        return folder in self.below and not self._children.get(folder)

    def unwrap(self, folder: str = "", accept: Callable[[str, str], bool] = lambda outer, inner: True) -> str:
        """Return the folder below `folder` that is not just a wrapper of another one.

        A wrapper has one sub-folder, which has sub-folders in turn, and fewer images of its own than are below that.

        Args:
            folder: Where to start.
            accept: Whether a sub-folder may be entered, given the names of both folders.
        """
        while True:
            names = self.names(folder)
            if len(names) != 1 or self._empty[folder]:
                return folder
            inner = join(folder, names[0])
            strays = self.direct[inner]
            if self.direct[folder] >= self.below[inner] or not accept(posixpath.basename(folder), names[0]):
                return folder
            deeper = len(self.names(inner))
            if deeper == 0 or (strays and (deeper < 2 or 2 * strays > self.below[inner])):
                return folder
            folder = inner


def join(folder: str, name: str) -> str:
    """Return the path of a sub-folder."""
    return f"{folder}/{name}" if folder else name
