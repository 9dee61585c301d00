"""Read class folders, with or without split folders, or classes from file names."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tercet.config.run import DataConfig
from tercet.core.errors import ConfigError, DataError
from tercet.core.files import natural_key
from tercet.core.output import count
from tercet.data.readers.columns import sort_classes
from tercet.data.readers.image_tree import ImageTree, join
from tercet.data.readers.layouts import EXAMPLE, Layout, Part, SplitFolders
from tercet.data.readers.name_patterns import class_hint, compile_pattern, first_groups
from tercet.data.readers.named_folders import Trees, named_parts, named_splits, outside_trees, with_rest
from tercet.data.readers.scan import NO_EXTENSION, Listing, SkippedFile, is_image, summarise_skipped
from tercet.data.sources import FolderSource, ZipSource
from tercet.data.table import SPLITS, SampleTable

_TITLES: dict[str, str] = dict(zip(SPLITS, ("training", "validation", "test"), strict=True))


def folder_options(config: DataConfig) -> list[str]:
    """Return the options that are set and apply to folders and archives of images only."""
    layout = ["layout"] if config.layout in ("classes", "splits") else []
    return layout + [name for name in (*SPLITS, "class_from") if getattr(config, name) is not None]


def refuse_folder_options(config: DataConfig, what: str) -> None:
    """Raise a `ConfigError` if an option is set that applies to folders of images only."""
    if options := folder_options(config):
        option = options[0].replace("_", "-")
        raise ConfigError(f"--data.{option} applies to folders and archives of images, not to {what}")


def find_layout(tree: ImageTree, config: DataConfig, *, what: str) -> Layout | None:
    """Return the layout that `data.layout` defines, or that is recognized; None if the top folders may be classes.

    Raises:
        DataError: It is unclear whether folders are classes or splits.
    """
    root = tree.unwrap()
    folders = SplitFolders(tree, root, what)
    if config.layout == "splits":
        return folders.forced(flat=config.class_from is not None)
    if config.layout == "classes":
        return Layout(root, (Part(root),))
    if config.class_from is not None:
        return folders.find_flat() or Layout("", (Part(""),))
    return folders.find()


def class_layout(tree: ImageTree, *, what: str) -> Layout:
    """Return the layout in which the top folders are classes.

    Raises:
        DataError: They are probably something else.
    """
    root = tree.unwrap()
    if not tree.names(root):
        raise DataError(
            f"{what} has {count(len(tree.images), 'image')} but none in a class folder: {EXAMPLE}"
            f"{class_hint(tree.images)}"
        )
    SplitFolders(tree, root, what).require_classes()
    return Layout(root, (Part(root),))


def read_folders(
    listing: Listing,
    tree: ImageTree,
    layout: Layout | None,
    source: FolderSource | ZipSource,
    config: DataConfig,
    *,
    name: str,
    what: str,
) -> SampleTable:
    """Read images whose class is the name of a folder, or in their file names.

    Args:
        listing: All files and folders of the data.
        tree: Their images.
        layout: What `find_layout` returned.
        source: Reads the images.
        config: Options.
        name: Name of the data.
        what: Path of the data, for messages.

    Raises:
        DataError: No image has a class, or it is unclear what the folders are.
        ConfigError: An option names a folder that does not exist, or is not a regular expression.
    """
    trees: Trees = {"": tree}
    if named := named_splits(config):
        root = source.root if isinstance(source, FolderSource) else None
        trees |= outside_trees(named, root, what=what)
        parts = named_parts(named, trees, root, config, what=what)
        layout = with_rest(parts, _rest_layout(tree, parts, config, what=what), tree, what=what)
    layout = layout or class_layout(tree, what=what)
    rows, skipped = _Rows(layout, config).read(trees)
    if not rows.classes:
        raise DataError(f"{what} has {count(len(tree.images), 'image')} but none in a class folder: {EXAMPLE}")
    classes = sort_classes(rows.classes)
    index_of = {label: index for index, label in enumerate(classes)}
    others = [(path, NO_EXTENSION) for path in listing.files if not is_image(path)]
    skipped = [*listing.skipped, *skipped, *others]
    empty = _empty_folders(listing, layout, trees)
    notes = [*summarise_skipped(skipped)]
    if empty:
        notes.append(f"{count(len(empty), 'class folder')} without images: {', '.join(empty[:5])}")
    notes += rows.notes
    return SampleTable(
        name,
        tuple(rows.ids),
        tuple(rows.locations),
        np.array([index_of[label] for label in rows.classes], dtype=np.int64),
        classes,
        source,
        splits=tuple(rows.splits) if layout.has_splits else None,
        notes=tuple(notes),
        empty=empty,
        layout=rows.description,
        unlabelled=tuple(rows.unlabelled),
        skipped=tuple(skipped),
    )


def _rest_layout(tree: ImageTree, parts: Sequence[Part], config: DataConfig, *, what: str) -> Layout | None:
    """Return the layout of the images outside the named parts; None if a training folder is named."""
    if any(part.split == "train" for part in parts):
        return None
    prefixes = tuple(part.prefix for part in parts if not part.base)
    rest = ImageTree([path for path in tree.images if not path.startswith(prefixes or "\0")])
    if not rest.images:
        return Layout("", ())
    return find_layout(rest, config, what=what) or class_layout(rest, what=what)


class _Rows:
    """Collects the samples of a layout."""

    def __init__(self, layout: Layout, config: DataConfig) -> None:
        self.layout, self.config = layout, config
        self.pattern = None if config.class_from is None else compile_pattern(config.class_from, "class-from")
        self.ids: list[str] = []
        self.locations: list[str] = []
        self.classes: list[str] = []
        self.splits: list[str] = []
        self.unlabelled: list[str] = []
        self.notes: list[str] = []
        self._texts: list[str] = []

    @property
    def description(self) -> str:
        """The layout in one line."""
        folders = "classes in file names" if self.pattern else "class folders"
        return "; ".join(self._texts) if self.layout.has_splits else f"{folders}: {'; '.join(self._texts)}"

    def read(self, trees: Trees) -> tuple[_Rows, list[SkippedFile]]:
        """Return the collected samples, and files without a class."""
        skipped: list[SkippedFile] = []
        remaining = dict.fromkeys(sorted(trees[""].images, key=lambda path: (natural_key(path), path)))
        for part in self.layout.parts:
            inside = remaining if not part.base else dict.fromkeys(sorted(trees[part.base].images, key=natural_key))
            nested = [other.prefix for other in self.layout.parts if other is not part and other.base == part.base]
            nested = [prefix for prefix in nested if prefix.startswith(part.prefix)]
            paths = [
                path for path in inside if path.startswith(part.prefix) and not path.startswith(tuple(nested) or "\0")
            ]
            for path in paths:
                inside.pop(path)
            skipped += self._add(part, paths)
        left_out = tuple(f"{folder}/" for folder in self.layout.left_out)
        for folder in self.layout.left_out:
            number = sum(path.startswith(f"{folder}/") for path in remaining)
            self.notes.append(f"{folder}/ is neither a split nor a class: {count(number, 'image')} left out")
        skipped += [(path, "not in a class folder") for path in remaining if not path.startswith(left_out or "\0")]
        return self, skipped

    def _add(self, part: Part, paths: Sequence[str]) -> list[SkippedFile]:
        """Add the images of one part, and return those without a class."""
        if self.pattern is not None:
            labels = first_groups(self.pattern, paths)
        else:
            inner = [path[len(part.prefix) :].partition("/") for path in paths]
            labels = [folder if slash else None for folder, slash, _ in inner]
        labelled = part.labelled and (any(labels) or part.split != "test")
        where = f"{join(part.base, part.folder)}/" if part.base or part.folder else "the data"
        if not labelled:
            self.unlabelled += [join(part.base, path) for path in paths]
            text = f"{count(len(paths), 'image')} in {where} without class"
            self.notes.append(f"{text}: unlabelled, predicted by tercet train --predict-test only")
            self._texts.append(f"unlabelled = {where}")
            return []
        root = "" if part.base or not self.layout.root else f"{self.layout.root}/"
        skipped = []
        for path, label in zip(paths, labels, strict=True):
            if not label:
                reason = "not in a class folder" if self.pattern is None else "name does not match data.class_from"
                skipped.append((join(part.base, path), reason))
                continue
            self.ids.append(join(part.base, path).removeprefix(root))
            self.locations.append(join(part.base, path))
            self.classes.append(label)
            self.splits.append(part.split)
        number = count(len(set(filter(None, labels))), "class")
        self._texts.append(f"{_TITLES[part.split]} = {where} ({number})" if part.split else f"{number} in {where}")
        return skipped


def _empty_folders(listing: Listing, layout: Layout, trees: Trees) -> tuple[str, ...]:
    """Return class folders without images."""
    tree = trees[""]
    return tuple(
        path
        for path in listing.folders
        if path not in tree.below
        and any(
            part.labelled and not part.base and path.startswith(part.prefix) and "/" not in path[len(part.prefix) :]
            for part in layout.parts
        )
    )
