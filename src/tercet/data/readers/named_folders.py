"""Layouts whose splits are named by the options `data.train`, `data.val` and `data.test`."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from tercet.config.run import DataConfig
from tercet.core.errors import ConfigError, DataError
from tercet.core.output import join_few
from tercet.data.readers.image_tree import ImageTree, join
from tercet.data.readers.layouts import Layout, Part, split_folders
from tercet.data.readers.name_patterns import class_hint
from tercet.data.readers.scan import is_image, scan_folder
from tercet.data.table import SPLITS

Trees = dict[str, ImageTree]
"""Folders of images by the absolute path of their root; '' is the data."""


def named_splits(config: DataConfig) -> dict[str, str]:
    """Return the folders that the options name, by split."""
    return {split: path for split in SPLITS if (path := getattr(config, split)) is not None}


def outside_trees(named: Mapping[str, str], root: Path | None, *, what: str) -> Trees:
    """List the named folders that are outside the data.

    Args:
        named: Paths by split.
        root: The folder with the data; None: an archive.
        what: Name of the data, for messages.

    Raises:
        ConfigError: The data are an archive.
        DataError: A folder does not exist or cannot be read.
    """
    trees: Trees = {}
    for split, path in named.items():
        base = _outside(path, root)
        if base and root is None:
            raise ConfigError(
                f"--data.{split} {path} is outside the archive {what}: unpack the archive, or name a folder within it"
            )
        if base:
            trees[base] = ImageTree([name for name in scan_folder(Path(base)).files if is_image(name)])
    return trees


def named_parts(
    named: Mapping[str, str], trees: Trees, root: Path | None, config: DataConfig, *, what: str
) -> list[Part]:
    """Return the parts that the options name.

    Raises:
        ConfigError: A folder does not exist, or is within another.
        DataError: A folder has no images, or images without classes that are not those of the test split.
    """
    parts = []
    for split, path in named.items():
        base = _outside(path, root)
        tree = trees[base]
        folder = "" if base else _inside(path, root, tree, split, what=what)
        inner = tree.unwrap(folder)
        if inner not in tree.below:
            raise DataError(f"--data.{split} {path} has no images")
        labelled = config.class_from is not None or not tree.is_flat(inner)
        if not labelled and split != "test":
            hint = class_hint([name for name in tree.images if name.startswith(Part(inner).prefix)])
            raise DataError(f"--data.{split} {path} has images, but no class folders{hint}")
        if len(splits := split_folders(tree.names(inner))) > 1:
            raise DataError(f"--data.{split} {path} contains the split folders {', '.join(splits)}: name one of them")
        parts.append(Part(inner, split if labelled else "", labelled, base))
    for part in parts:
        for other in parts:
            if part is not other and part.base == other.base and other.prefix.startswith(part.prefix):
                raise ConfigError(
                    f"--data.train, --data.val, --data.test: '{other.folder}' is within '{part.folder or what}'"
                )
    return parts


def with_rest(parts: list[Part], rest: Layout | None, tree: ImageTree, *, what: str) -> Layout:
    """Return the layout of named parts and, without a named training folder, of the other images.

    Args:
        parts: The named parts.
        rest: Layout of the images outside of them, which are the training images if they have no splits; None if a
            training folder is named, so that other folders are left out.
        tree: All folders of the data.
        what: Name of the data, for messages.

    Raises:
        ConfigError: A split is named, and another folder is the same split.
    """
    inside = [part for part in parts if not part.base]
    if rest is None:
        root = tree.unwrap()
        names = [join(root, name) for name in tree.names(root)]
        used = tuple(part.prefix for part in inside)
        left_out = [name for name in names if not any(prefix.startswith(f"{name}/") for prefix in used)]
        return Layout(root, tuple(parts), tuple(left_out))
    named = {part.split for part in parts if part.split}
    others = [replace(part, split=part.split or "train") if part.labelled else part for part in rest.parts]
    if twice := named & {part.split for part in others}:
        raise ConfigError(f"{what}: --data.{min(twice)} names a split that another folder is, too: name all splits")
    return Layout(rest.root, (*others, *parts), rest.left_out)


def _outside(path: str, root: Path | None) -> str:
    """Return the absolute path of a folder that is outside the data, else ''."""
    expanded = os.path.expanduser(path)
    if root is None:
        return expanded if os.path.isabs(expanded) or posixpath.normpath(path).startswith("..") else ""
    real, target = os.path.realpath(root), os.path.realpath(root / expanded)
    return "" if os.path.commonpath([real, target]) == real else target


def _inside(path: str, root: Path | None, tree: ImageTree, split: str, *, what: str) -> str:
    """Return the path of a named folder relative to the data; wrappers may be omitted."""
    if root is not None and os.path.isabs(os.path.expanduser(path)):
        path = os.path.relpath(os.path.realpath(os.path.expanduser(path)), os.path.realpath(root))
    folder = posixpath.normpath(path.replace("\\", "/"))
    folder = "" if folder == "." else folder
    wrapper = tree.unwrap()
    matches = [candidate for candidate in (folder, join(wrapper, folder)) if candidate in tree.below]
    if not matches:
        names = join_few([repr(name) for name in tree.names(wrapper)])
        raise ConfigError(f"--data.{split} {path}: {what} has no such folder with images (folders: {names})")
    return matches[0]
