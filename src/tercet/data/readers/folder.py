"""Layout of class folders, with or without split folders."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from tercet.core.errors import DataError
from tercet.core.files import natural_key
from tercet.core.output import join_few
from tercet.data.readers.scan import NO_EXTENSION, Listing, SkippedFile, is_image, no_images

EXAMPLE = (
    "expected ROOT/<class>/*.jpg or ROOT/{train,val,test}/<class>/*.jpg, such as pets/cat/1.jpg and pets/dog/1.jpg"
)
SPLIT_NAMES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val", "test": "test"}
"""Split by the lower-case name of a split folder."""
_KIND_WORDS = {
    "train": "train training trn trainval",
    "val": "val valid validation validate dev",
    "test": "test testing tst eval evaluation holdout heldout",
    "more": "unlabeled unlabelled preview augmented augmentation aug extra pred prediction predictions pseudo",
    "images": "images image imgs img photos pictures pics data files jpg jpeg png part",
}
"""Words in folder names that suggest a split, additional data beside splits, or a plain image folder."""
_KIND_OF = {word: kind for kind, words in _KIND_WORDS.items() for word in words.split()}
_DATED = re.compile(r"(19|20)\d\d([\W_].*|\d{4})?")
_TRAINING_TABLE = re.compile(r"(?i)train(ing)?([\W_]*(set|data|labels?|images?|v?\d+))*")


@dataclass(frozen=True)
class FolderLayout:
    """Images by class and, if there are split folders, by split."""

    ids: tuple[str, ...]
    locations: tuple[str, ...]
    class_names: tuple[str, ...]
    """Class name of each image."""
    splits: tuple[str, ...] | None
    skipped: tuple[SkippedFile, ...]
    empty: tuple[str, ...]
    """Class folders without an image."""


def wrapper_prefix(listing: Listing) -> str:
    """Return the prefix of folders that only wrap the data (`pets/` of `pets/cat/1.jpg`), or ''.

    A wrapper is the only folder of its level, and all its images are at least two levels deeper.
    """
    prefix = ""
    while True:
        images = [path[len(prefix) :] for path in listing.files if path.startswith(prefix) and is_image(path)]
        parents = {path.split("/", 1)[0] for path in images}
        folders = {path[len(prefix) :].split("/")[0] for path in listing.folders if path.startswith(prefix)} - {""}
        if len(parents) != 1 or folders - parents or min(path.count("/") for path in images) < 2:
            return prefix
        prefix += f"{parents.pop()}/"


def find_layout(listing: Listing, *, what: str, tables: Sequence[str] = ()) -> FolderLayout:
    """Find class folders, within split folders if there are any.

    Raises:
        DataError: There are no images, none in a class folder, or it is unclear whether folders are classes or splits.
    """
    prefix = wrapper_prefix(listing)
    paths = sorted(
        (path for path in listing.files if path.startswith(prefix)), key=lambda path: (natural_key(path), path)
    )
    skipped = [*listing.skipped, *((path, NO_EXTENSION) for path in paths if not is_image(path))]
    images = [path for path in paths if is_image(path)]
    if not images:
        raise DataError(f"{no_images(what, skipped)}: {EXAMPLE}")
    split_of = _split_folders([path[len(prefix) :] for path in images], what=what)
    if not split_of:
        _refuse_ambiguous([path[len(prefix) :] for path in images], tables, what=what)
    depth = 2 if split_of else 1  # folder levels above an image
    rows = []
    for path in images:
        parts = path[len(prefix) :].split("/")
        if len(parts) <= depth:
            skipped.append((path, "not in a class folder"))
        else:
            rows.append((path, parts[depth - 1], split_of.get(parts[0], "")))
    if not rows:
        raise DataError(f"{what} has {len(images)} images but none in a class folder: {EXAMPLE}")
    image_folders = {path.rsplit("/", 1)[0] for path, _, _ in rows}
    return FolderLayout(
        ids=tuple(path[len(prefix) :] for path, _, _ in rows),
        locations=tuple(path for path, _, _ in rows),
        class_names=tuple(name for _, name, _ in rows),
        splits=tuple(split for _, _, split in rows) if split_of else None,
        skipped=tuple(skipped),
        empty=_empty_folders(listing, prefix, depth, image_folders),
    )


def _empty_folders(listing: Listing, prefix: str, depth: int, image_folders: set[str]) -> tuple[str, ...]:
    level = prefix.count("/") + depth - 1
    class_folders = [path for path in listing.folders if path.startswith(prefix) and path.count("/") == level]
    return tuple(
        path for path in class_folders if not any(f"{folder}/".startswith(f"{path}/") for folder in image_folders)
    )


def _split_folders(images: Sequence[str], *, what: str) -> dict[str, str]:
    """Return the split of each top folder, or nothing if the top folders are classes."""
    folders = sorted({path.split("/")[0] for path in images if "/" in path})
    nested = {path.split("/")[0] for path in images if path.count("/") >= 2}
    split_of = {
        folder: SPLIT_NAMES[folder.casefold()]
        for folder in folders
        if folder in nested and folder.casefold() in SPLIT_NAMES
    }
    others = [folder for folder in folders if folder not in split_of]
    if others and len(split_of) > 1:
        raise DataError(
            f"{what} mixes split folders ({', '.join(split_of)}) with other folders ({', '.join(others[:5])}): "
            f"{EXAMPLE}"
        )
    if others:
        return {}
    if len(set(split_of.values())) < len(split_of):
        raise DataError(f"{what} has two folders for one split ({', '.join(split_of)}): keep one")
    return split_of


def _kinds(name: str) -> set[str]:
    """Return the kinds that the words of a folder's name suggest: train, val, test, more, images."""
    joined = re.sub(r"(?i)\b(hold|held)[\W_]*out", "holdout", name.replace("_", " "))
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", joined)
    words = [word.casefold() for word in words if len(word) > 1]
    stems = [re.sub(r"(?<=.)(set|split|data|images|imgs|folder)$", "", word) for word in words]
    kinds = [_KIND_OF.get(word) or _KIND_OF.get(stem) for word, stem in zip(words, stems, strict=True)]
    if set(kinds) <= {"images", None} and None in kinds:  # 'photos' is an image folder, 'holiday photos' may be a class
        return set()
    return {kind for kind in kinds if kind}


def _refuse_ambiguous(images: Sequence[str], tables: Sequence[str], *, what: str) -> None:
    """Raise if top folders, which would be read as classes, are probably something else.

    Raises:
        DataError: They look like splits, contain sub-folders of the same names, or are beside a table.
    """
    folders = [path.split("/")[:-1] for path in images if "/" in path]
    kinds = {name: _kinds(name) for name in sorted({parts[0] for parts in folders})}
    split_like = {name for name, kind in kinds.items() if kind & {"train", "val", "test"}}
    names = join_few([*map(repr, kinds)])
    training_tables = [path for path in tables if _TRAINING_TABLE.fullmatch(PurePosixPath(path).stem)]
    if tables and kinds and (training_tables or all(kinds.values())):
        table, folder = (training_tables or [*tables])[0], min(kinds, key=lambda name: "train" not in kinds[name])
        raise DataError(
            f"{what} holds the table {table!r} beside folders of images ({names}): give --data.image-column (and "
            f"--data.image-pattern '{folder}/{{...}}' if its paths lack the folder) to read the table, or give one "
            "folder as the data, or move the table elsewhere to read the folders as classes"
        )
    subfolders: dict[str, set[str]] = {name: set() for name in kinds}
    for name, *rest in folders:  # dated sub-folders, such as 2024-05, are recording sessions, not classes
        subfolders[name].update(itertools.takewhile(lambda folder: not _DATED.fullmatch(folder), rest))
    with_images = {parts[0] for parts in folders if len(parts) == 1}
    counts = Counter(itertools.chain(*subfolders.values()))
    shared = {name for name, count in counts.items() if count > 1}
    all_kinds = set().union(*kinds.values()) - {"images"}
    nested = {name for name in split_like if subfolders[name]}
    suspicious = {name for name, kind in kinds.items() if kind - {"images"}}
    if (
        (split_like and all(kind - {"images"} for kind in kinds.values()) and len(all_kinds) > 1)
        or (nested and len(suspicious) > 1)
        or any(name not in with_images and len(subfolders[name]) > 1 and with_images - {name} for name in nested)
    ):
        raise DataError(
            f"{what}: the folders {names} may be classes or splits: rename splits to 'train', 'val' and 'test', each "
            "with class folders, and move other folders elsewhere; or use one folder, or a table of images, as the data"
        )
    if (
        any(len(inner & shared) > 1 for inner in subfolders.values())
        or any(_kinds(name) & {"train", "val", "test"} for name in shared)
        or any(subfolders[name] & shared for name in nested)
    ):
        raise DataError(
            f"{what}: the folders {names} contain sub-folders of the same names "
            f"({join_few([*map(repr, sorted(shared))])}): are the folders classes? rename splits to 'train', 'val' and "
            "'test', or give one folder, or a table of images, as the data; a class folder must hold its images "
            "without sub-folders"
        )
