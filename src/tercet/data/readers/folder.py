"""Class folders, with or without split folders."""

from __future__ import annotations

import itertools
import os
import re
import stat
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tercet.core.errors import DataError
from tercet.core.files import natural_key
from tercet.data.decode import EXTENSIONS

EXAMPLE = (
    "expected ROOT/<class>/*.jpg or ROOT/{train,val,test}/<class>/*.jpg, such as pets/cat/1.jpg and pets/dog/1.jpg"
)
SPLIT_NAMES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val", "test": "test"}
"""Names of split folders, in lower case, and the split each stands for."""
_LIKE = {
    "train": "train training trn trainval",
    "val": "val valid validation validate dev",
    "test": "test testing tst eval evaluation holdout heldout",
    "more": "unlabeled unlabelled preview augmented augmentation aug extra pred prediction predictions pseudo",
    "images": "images image imgs img photos pictures pics data files jpg jpeg png part",
}
"""Words in names of folders that look like splits, like what is kept beside splits, or like plain stores of images."""
_KIND_OF = {word: kind for kind, words in _LIKE.items() for word in words.split()}
_DATED = re.compile(r"(19|20)\d\d([\W_].*|\d{4})?")
_TRAINING_TABLE = re.compile(r"(?i)train(ing)?([\W_]*(set|data|labels?|images?|v?\d+))*")

SkippedFiles = tuple[str, str]
"""A path and the reason why it was skipped."""


@dataclass(frozen=True)
class Listing:
    """Everything visible under a root, as paths with forward slashes relative to it."""

    files: tuple[str, ...]
    folders: tuple[str, ...] = ()
    skipped: tuple[SkippedFiles, ...] = ()


@dataclass(frozen=True)
class FolderLayout:
    """Images by class and, where there are split folders, by split."""

    ids: tuple[str, ...]
    locations: tuple[str, ...]
    names: tuple[str, ...]
    """Class name of each image."""
    splits: tuple[str, ...] | None
    skipped: tuple[SkippedFiles, ...]
    empty: tuple[str, ...]
    """Class folders without an image."""


def hidden(name: str) -> bool:
    """Return whether a path component is bookkeeping of a system or a notebook rather than data."""
    return name.startswith(".") or name in ("__MACOSX", "Thumbs.db", "desktop.ini")


def is_image(path: str) -> bool:
    """Return whether a file announces itself as an image by its ending."""
    return PurePosixPath(path).suffix.lower() in EXTENSIONS


def summarise(skipped: Iterable[SkippedFiles]) -> tuple[str, ...]:
    """Return one sentence a reason, with its number and the first five paths."""
    by_reason: dict[str, list[str]] = defaultdict(list)
    for path, reason in skipped:
        by_reason[reason].append(path)
    return tuple(f"{len(paths)} skipped, {reason}: {_few(paths)}" for reason, paths in sorted(by_reason.items()))


def _few(paths: Sequence[str]) -> str:
    return ", ".join(repr(path) for path in paths[:5]) + (", ..." if len(paths) > 5 else "")


def single_subfolder(listing: Listing) -> str:
    """Return the folders that only wrap the data (`pets/` around `pets/cat/1.jpg`), with a closing slash, or ''.

    A folder wraps when it is the only one at its level and its images lie two levels below it at least.
    """
    prefix = ""
    while True:
        inner = [path[len(prefix) :] for path in listing.files if path.startswith(prefix) and is_image(path)]
        tops = {path.split("/", 1)[0] for path in inner}
        below = {path[len(prefix) :].split("/")[0] for path in listing.folders if path.startswith(prefix)} - {""}
        if len(tops) != 1 or below - tops or min(path.count("/") for path in inner) < 2:
            return prefix
        prefix += f"{tops.pop()}/"


def find_layout(listing: Listing, *, what: str, tables: Sequence[str] = ()) -> FolderLayout:
    """Read class folders, within split folders where there are such.

    Args:
        listing: What lies under the root.
        what: The root's name, for messages.
        tables: Tables beside the folders, which are not read.

    Raises:
        DataError: No image, images outside class folders only, or folders of which it is unclear whether they are
            classes or splits.
    """
    prefix = single_subfolder(listing)
    paths = sorted(
        (path for path in listing.files if path.startswith(prefix)), key=lambda path: (natural_key(path), path)
    )
    skipped = [*listing.skipped, *((path, "not an image by its ending") for path in paths if not is_image(path))]
    images = [path for path in paths if is_image(path)]
    if not images:
        raise DataError(f"{what} holds no images: {EXAMPLE}")
    split_of = _split_folders([path[len(prefix) :] for path in images], what=what)
    if not split_of:
        _refuse_unclear([path[len(prefix) :] for path in images], tables, what=what)
    depth = 2 if split_of else 1  # folders above an image
    rows = []
    for path in images:
        parts = path[len(prefix) :].split("/")
        if len(parts) <= depth:
            skipped.append((path, "not in a class folder"))
        else:
            rows.append((path, parts[depth - 1], split_of.get(parts[0], "")))
    if not rows:
        raise DataError(f"{what} has {len(images)} images but none in a class folder: {EXAMPLE}")
    used = {path.rsplit("/", 1)[0] for path, _, _ in rows}
    return FolderLayout(
        ids=tuple(path[len(prefix) :] for path, _, _ in rows),
        locations=tuple(path for path, _, _ in rows),
        names=tuple(name for _, name, _ in rows),
        splits=tuple(split for _, _, split in rows) if split_of else None,
        skipped=tuple(skipped),
        empty=_empty_folders(listing, prefix, depth, used),
    )


def _empty_folders(listing: Listing, prefix: str, depth: int, used: set[str]) -> tuple[str, ...]:
    level = prefix.count("/") + depth - 1
    candidates = [path for path in listing.folders if path.startswith(prefix) and path.count("/") == level]
    return tuple(path for path in candidates if not any(f"{folder}/".startswith(f"{path}/") for folder in used))


def _split_folders(images: Sequence[str], *, what: str) -> dict[str, str]:
    """Return top folder -> split where the top folders are splits, or nothing where they are classes."""
    tops = sorted({path.split("/")[0] for path in images if "/" in path})
    deep = {path.split("/")[0] for path in images if path.count("/") >= 2}
    split_of = {top: SPLIT_NAMES[top.casefold()] for top in tops if top in deep and top.casefold() in SPLIT_NAMES}
    others = [top for top in tops if top not in split_of]
    if others and len(split_of) > 1:
        raise DataError(
            f"{what} mixes split folders ({', '.join(split_of)}) with others ({', '.join(others[:5])}): {EXAMPLE}"
        )
    if others:
        return {}
    if len(set(split_of.values())) < len(split_of):
        raise DataError(f"{what} has two folders for one split ({', '.join(split_of)}): keep one")
    return split_of


def _kinds(name: str) -> set[str]:
    """Return what the words of a folder's name look like: train, val, test, more, images."""
    joined = re.sub(r"(?i)\b(hold|held)[\W_]*out", "holdout", name.replace("_", " "))
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", joined)
    words = [word.casefold() for word in words if len(word) > 1]
    stems = [re.sub(r"(?<=.)(set|split|data|images|imgs|folder)$", "", word) for word in words]
    found = [_KIND_OF.get(word) or _KIND_OF.get(stem) for word, stem in zip(words, stems, strict=True)]
    if set(found) <= {"images", None} and None in found:  # 'photos' stores images, 'holiday photos' may be a class
        return set()
    return {kind for kind in found if kind}


def _refuse_unclear(images: Sequence[str], tables: Sequence[str], *, what: str) -> None:
    """Refuse top folders that would be read as classes and look like something else.

    Raises:
        DataError: They look like splits or hold sub-folders of the same names, or a table lies beside them.
    """
    folders = [path.split("/")[:-1] for path in images if "/" in path]
    kinds = {name: _kinds(name) for name in sorted({parts[0] for parts in folders})}
    split_like = {name for name, kind in kinds.items() if kind & {"train", "val", "test"}}
    names = _few([*kinds])
    listed = [path for path in tables if _TRAINING_TABLE.fullmatch(PurePosixPath(path).stem)]
    if tables and kinds and (listed or all(kinds.values())):
        table, folder = (listed or [*tables])[0], min(kinds, key=lambda name: "train" not in kinds[name])
        raise DataError(
            f"{what} holds the table {table!r} beside folders of images ({names}): give --data.image-column and, where "
            f"paths lack the folder, --data.image-pattern '{folder}/{{...}}' to read the table, or name one "
            "folder, or move the table elsewhere to read the folders as classes"
        )
    inner: dict[str, set[str]] = {name: set() for name in kinds}
    for name, *rest in folders:
        inner[name].update(itertools.takewhile(lambda folder: not _DATED.fullmatch(folder), rest))
    flat = {parts[0] for parts in folders if len(parts) == 1}
    counts = Counter(itertools.chain(*inner.values()))
    shared = {name for name, count in counts.items() if count > 1}
    alike = set().union(*kinds.values()) - {"images"}
    nested = {name for name in split_like if inner[name]}
    beside = {name for name, kind in kinds.items() if kind - {"images"}}
    if (
        (split_like and all(kind - {"images"} for kind in kinds.values()) and len(alike) > 1)
        or (nested and len(beside) > 1)
        or any(name not in flat and len(inner[name]) > 1 and flat - {name} for name in nested)
    ):
        raise DataError(
            f"{what}: the folders {names} are classes or splits: rename splits to 'train', 'val' and 'test', each with "
            "class folders, and move other folders elsewhere; or name one of them, or a table of images, as the data"
        )
    if (
        any(len(names_inside & shared) > 1 for names_inside in inner.values())
        or any(_kinds(name) & {"train", "val", "test"} for name in shared)
        or any(inner[name] & shared for name in nested)
    ):
        raise DataError(
            f"{what}: sub-folders of the same names ({_few(sorted(shared))}) lie in the folders {names}: are these "
            "classes? rename splits to 'train', 'val' and 'test', or name one of them, or a table of images, as the "
            "data; a class folder holds its images without sub-folders"
        )


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
        self.skipped: list[SkippedFiles] = []
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
