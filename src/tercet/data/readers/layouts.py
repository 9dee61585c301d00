"""Recognize which folders are splits and which are classes, by names and by class names that folders share."""

from __future__ import annotations

import itertools
import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tercet.core.errors import DataError
from tercet.core.output import join_few
from tercet.data.readers.image_tree import ImageTree, join
from tercet.data.readers.name_patterns import class_hint
from tercet.data.readers.split_names import SplitName, split_name

EXAMPLE = (
    "expected ROOT/<class>/*.jpg or ROOT/{train,val,test}/<class>/*.jpg, such as pets/cat/1.jpg and pets/dog/1.jpg"
)
_DATED = re.compile(r"(19|20)\d\d([\W_].*|\d{4})?")
_ORDER = ("train", "val", "test")


@dataclass(frozen=True)
class Part:
    """A folder whose sub-folders are classes, or whose images have no labels."""

    folder: str
    """Path relative to the data; '' is the data itself."""
    split: str = ""
    """train, val or test; empty without splits."""
    labelled: bool = True
    base: str = ""
    """Absolute path to which `folder` is relative; empty: the data."""

    @property
    def prefix(self) -> str:
        """Start of the paths of its images."""
        return f"{self.folder}/" if self.folder else ""


@dataclass(frozen=True)
class Layout:
    """The parts of a data set."""

    root: str
    """Folder below which the parts are; folders above it only wrap it."""
    parts: tuple[Part, ...]
    left_out: tuple[str, ...] = ()
    """Folders with images that are neither splits nor classes."""

    @property
    def has_splits(self) -> bool:
        """Whether the parts are splits."""
        return any(part.split for part in self.parts)


class SplitFolders:
    """The sub-folders of one folder as candidates for splits.

    Args:
        tree: All folders with images.
        root: Folder whose sub-folders may be splits.
        what: Name of the data, for messages.
    """

    def __init__(self, tree: ImageTree, root: str, what: str) -> None:
        self.tree, self.root, self.what = tree, root, what
        self.names = {name: split_name(name) for name in tree.names(root)}
        self.folders = {name: self._content(name, meaning) for name, meaning in self.names.items()}
        self.classes = {name: {*map(str.casefold, tree.names(path))} for name, path in self.folders.items()}

    def _content(self, name: str, meaning: SplitName) -> str:
        """Return the folder with the classes, which may be one level deeper: seg_train/seg_train, train/images."""
        if not meaning.kind:
            return join(self.root, name)

        def repeats(outer: str, inner: str) -> bool:
            kind = split_name(inner).kind
            return kind in (meaning.kind, "images") or outer.casefold() == inner.casefold()

        folder = join(self.root, name)
        names = self.tree.names(folder)
        while len(names) == 1 and not self.tree.direct[folder] and repeats(folder.rsplit("/", 1)[-1], names[0]):
            folder = join(folder, names[0])
            names = self.tree.names(folder)
        return folder

    def of_kind(self, *kinds: str, nested: bool) -> list[str]:
        """Return the folders with such a name that have class folders, or that have none."""
        return [
            name
            for name, meaning in self.names.items()
            if meaning.kind in kinds and self.tree.is_flat(self.folders[name]) is not nested
        ]

    def find(self) -> Layout | None:
        """Return the splits; None if the folders are something else.

        Raises:
            DataError: Some are splits, but it is unclear what the others are, or which of two folders is a split.
        """
        splits = self.of_kind(*_ORDER, nested=True)
        unlabelled = self.of_kind("test", "unlabelled", nested=False)
        others = [name for name in self.names if name not in (*splits, *unlabelled)]
        train = [name for name in splits if self.names[name].kind == "train"]
        rests = {self.names[name].rest for name in splits}
        if not train:
            distinct = len({self.names[name].kind for name in splits}) == len(splits)
            complete = splits and distinct and len(rests) == 1 and not unlabelled and not others
            return self._layout(splits, (), ()) if complete else None
        if len(splits) + len(unlabelled) < 2:
            return None
        self._refuse_two(splits)
        first = self.classes[train[0]]
        certain = any(self.classes[name] & first for name in splits if name != train[0])
        if not certain and (others or any(self.names[name].rest not in ("", *rests) for name in unlabelled)):
            return None
        if any(
            self.names[name].rest != self.names[train[0]].rest and not self.classes[name] & first for name in splits
        ):
            raise self.ambiguous(f"the folders {_names(splits)} have the names of splits, but not the same classes")
        if same := [name for name in others if self.classes[name] & first]:
            raise self.ambiguous(
                f"{_names(splits)} are splits, and {_names(same)} with the same classes may be another"
            )
        self._refuse_splits_as_classes(splits)
        return self._layout(splits, unlabelled, others)

    def forced(self, *, flat: bool = False) -> Layout:
        """Return the splits by their names alone, as `data.layout splits` requests.

        Args:
            flat: Whether splits may have no class folders.

        Raises:
            DataError: No folder, or two of them, have the name of a split.
        """
        splits = [name for name, meaning in self.names.items() if meaning.kind in _ORDER]
        if not flat:
            splits = self.of_kind(*_ORDER, nested=True)
        unlabelled = [name for name in self.of_kind("test", "unlabelled", nested=False) if name not in splits]
        if not splits:
            raise DataError(
                f"{self.what}: none of the folders {_names(self.names)} is a split with class folders: name the "
                "splits with --data.train FOLDER, --data.val FOLDER, --data.test FOLDER"
            )
        self._refuse_two(splits)
        return self._layout(splits, unlabelled, [name for name in self.names if name not in (*splits, *unlabelled)])

    def find_flat(self) -> Layout | None:
        """Return the splits of images that have their class in the file name; None without a training folder."""
        kinds = Counter(meaning.kind for meaning in self.names.values())
        complete = kinds["train"] == 1 and kinds["val"] + kinds["test"] + kinds["unlabelled"]
        return self.forced(flat=True) if complete else None

    def _layout(self, splits: Sequence[str], unlabelled: Sequence[str], others: Sequence[str]) -> Layout:
        ordered = sorted(splits, key=lambda name: _ORDER.index(self.names[name].kind))
        parts = [Part(self.folders[name], self.names[name].kind) for name in ordered]
        parts += [Part(self.folders[name], labelled=False) for name in unlabelled]
        return Layout(self.root, tuple(parts), tuple(join(self.root, name) for name in others))

    def _refuse_two(self, splits: Sequence[str]) -> None:
        kinds = Counter(self.names[name].kind for name in splits)
        for kind, number in kinds.items():
            if number > 1:
                names = [name for name in splits if self.names[name].kind == kind]
                raise DataError(
                    f"{self.what} has {number} folders for one split ({', '.join(names)}): name one with "
                    f"--data.{kind} {names[0]}, and the other splits likewise"
                )

    def _refuse_splits_as_classes(self, splits: Sequence[str]) -> None:
        for name in splits:
            inner = split_folders(self.tree.names(self.folders[name]))
            if len(inner) > 1:
                raise self.ambiguous(f"the split folder '{name}' contains the split folders {_names(inner)}")

    def ambiguous(self, reason: str) -> DataError:
        """Return the error that states what is unclear, and which options decide."""
        return DataError(f"{self.what}: {reason}: {' or '.join(self._options())}{self._hint()}")

    def _options(self) -> list[str]:
        """Return the options that are possible, as they are typed."""
        options = ["give --data.layout classes"]
        if self.of_kind(*_ORDER, nested=True):
            options.append("--data.layout splits")
        inner = [f"{name}/{child}" for name, folder in self.folders.items() for child in self.tree.names(folder)]
        candidates = {  # folders with class folders, also one level deeper
            name: kind
            for name in (*self.names, *inner)
            if (kind := split_name(name.rsplit("/", 1)[-1]).kind) in ("", "images", *_ORDER)
            and (classes := self.tree.names(join(self.root, name)))
            and len(split_folders(classes)) < 2
        }
        order = ("train", "", "images", "val", "test")
        train = min(candidates, key=lambda name: (order.index(candidates[name]), name), default=None)
        test = min(candidates.keys() - {train}, key=lambda name: (candidates[name] != "test", name), default=None)
        if train is not None:
            names = {"train": train} | ({"test": test} if test is not None else {})
            options.append(" ".join(f"--data.{split} {shlex.quote(name)}" for split, name in names.items()))
        return options

    def _hint(self) -> str:
        if any(self.classes.values()):
            return ""
        train = next((join(self.root, name) for name in self.names if self.names[name].kind == "train"), "")
        hint = class_hint([path for path in self.tree.images if path.startswith(Part(train).prefix)])
        return hint or "; splits need class folders, such as train/cat/1.jpg"

    def require_classes(self) -> None:
        """Raise if the folders, which would be read as classes, are probably something else.

        Raises:
            DataError: They look like splits, contain splits, or contain sub-folders of the same names.
        """
        self._refuse_names()
        self._refuse_shared_subfolders()

    def _refuse_names(self) -> None:
        names = self.names
        split_like = {name for name, meaning in names.items() if meaning.is_split}
        suspicious = {name for name, meaning in names.items() if meaning.kind not in ("", "images")}
        with_images = {name for name in names if self.tree.direct[join(self.root, name)]}
        nested = {name for name in split_like if self.classes[name]}
        kinds = {meaning.kind for meaning in names.values()}
        if (
            (len(kinds) > 1 and "" not in kinds)
            or any(len(split_folders(group)) > 1 for group in _by_rest(names).values())
            or (nested and len(suspicious) > 1)
            or any(name not in with_images and len(self.classes[name]) > 1 and with_images - {name} for name in nested)
        ):
            raise self.ambiguous(f"the folders {_names(names)} may be classes or splits")
        for name in names:
            inner = split_folders(self.tree.names(join(self.root, name)))
            if len(inner) > 1:
                raise self.ambiguous(
                    f"the folder '{name}' contains the split folders {_names(inner)}, so it may not be a class"
                )

    def _refuse_shared_subfolders(self) -> None:
        inner: dict[str, set[str]] = {name: set() for name in self.names}
        depth = self.root.count("/") + 1 if self.root else 0
        for folder in self.tree.direct:
            name, *rest = folder.split("/")[depth:] or [""]
            if name in inner:  # dated sub-folders, such as 2024-05, are recording sessions, not classes
                inner[name].update(itertools.takewhile(lambda part: not _DATED.fullmatch(part), rest))
        counts = Counter(itertools.chain(*inner.values()))
        shared = {name for name, number in counts.items() if number > 1}
        if (
            any(len(names & shared) > 1 for names in inner.values())
            or any(split_name(name).is_split for name in shared)
            or any(meaning.is_split and inner[name] & shared for name, meaning in self.names.items())
        ):
            raise self.ambiguous(
                f"the folders {_names(self.names)} contain sub-folders of the same names ({_names(sorted(shared))})"
            )


def _by_rest(names: Mapping[str, SplitName]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for name, meaning in names.items():
        groups.setdefault(meaning.rest, []).append(name)
    return groups


def split_folders(names: Sequence[str]) -> list[str]:
    """Return one of the names of folders for each split that they suggest."""
    return [*{meaning.kind: name for name in names if (meaning := split_name(name)).is_split}.values()]


def _names(names: Mapping[str, object] | Sequence[str]) -> str:
    return join_few([*map(repr, names)])
