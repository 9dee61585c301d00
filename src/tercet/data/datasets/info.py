"""Named data sets: description, official files, and their images on this machine."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tercet.config.run import DataConfig
from tercet.core.archives import unpack, unpacked_folder
from tercet.core.errors import DataError, StorageError
from tercet.core.files import file_lock, natural_key
from tercet.core.registry import PARTS, Registry
from tercet.data.datasets.download import RemoteFile, fetch, report_progress
from tercet.data.readers.scan import Listing, scan_folder, scan_zip
from tercet.data.sources import FolderSource, ZipSource
from tercet.data.table import SampleTable

_CACHE = Path("~/.cache/tercet")


@dataclass(frozen=True)
class DatasetInfo:
    """Description, official files and reader of a named data set."""

    name: str
    """Name on the command line."""
    title: str
    read: Callable[[DatasetInfo, DataConfig], SampleTable]
    page: str = ""
    """Web page of the publishers."""
    licence: str = ""
    """Terms of use, as stated by the publishers."""
    classes: tuple[str, ...] = ()
    """Class names, in the order of the labels; empty if the files define them."""
    counts: tuple[tuple[str, int], ...] = ()
    """Number of images per part: train and test, or all."""
    image_shape: tuple[int | None, int | None, int] = (None, None, 3)
    """Height, width and channels; None if images differ."""
    num_classes: int = 0
    """Number of classes; required if `classes` is empty."""
    files: tuple[RemoteFile, ...] = ()
    """Required official files; none if the data ship with a library or need an account."""
    more_files: tuple[RemoteFile, ...] = ()
    """Optional official files, read if present; their notes state the purpose."""
    plain_files: tuple[RemoteFile, ...] = ()
    """The decompressed `files`, in the same order, if these are accepted too."""
    mirrors: tuple[str, ...] = ()
    """Base URLs of the files."""
    layouts: tuple[str, ...] = ()
    """Accepted contents of the data folder, one phrase each."""
    archives: tuple[str, ...] = ()
    """Names of archives with images, including Kaggle's; the indispensable one is last."""
    entry_names: tuple[str, ...] = ()
    """Names of unpacked files and folders that identify the data, in addition to the official files."""
    remarks: tuple[str, ...] = ()
    """Evaluation protocol, and the source that is followed if sources disagree."""
    variants: Mapping[str, str] = field(default_factory=dict)
    """Descriptions by variant; `NAME:VARIANT` selects one."""
    variant: str = ""
    """The selected variant; empty for the default."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "num_classes", self.num_classes or len(self.classes))

    @property
    def num_images(self) -> int:
        """Total number of images."""
        return sum(count for _, count in self.counts)

    @property
    def by_hand(self) -> str:
        """Instructions for placing the files without a network."""
        if self.layouts:
            return f"{'; or '.join(self.layouts)}: in a folder given with --data-dir (default: {_CACHE / self.name})"
        if not self.files:
            return "no files needed"
        names = ", ".join(file.name for file in self.files)
        return f"put {names} into a folder and give it with --data-dir (default: {_CACHE / self.name})"

    def official(self, name: str) -> RemoteFile | None:
        """Return the official file of a name."""
        files = (*self.files, *self.more_files, *self.plain_files)
        return next((file for file in files if file.name == name), None)


DATASETS: Registry[DatasetInfo | Callable[[DataConfig], Any]] = PARTS["dataset"]
"""Built-in descriptions, and the caller's: descriptions, or functions that return the data (see `data.load`)."""


def find_folder(info: DatasetInfo, config: DataConfig) -> Path:
    """Return the folder of a data set's files: `data_dir/<name>`, or `data_dir` if it holds them directly."""
    root = (_CACHE if config.data_dir is None else Path(config.data_dir)).expanduser()
    default = root / info.name
    official = [file.name for file in (*info.files, *info.more_files, *info.plain_files)]
    names = (*official, *info.archives, *info.entry_names)
    return next((folder for folder in (default, root) if any((folder / name).exists() for name in names)), default)


def find_files(info: DatasetInfo, config: DataConfig, files: Sequence[RemoteFile] | None = None) -> list[Path]:
    """Return the paths of official files, gzipped or not, after checking sizes and checksums; download missing ones.

    Raises:
        DataError: A file is not the official one, or is missing and cannot be downloaded.
    """
    folder = find_folder(info, config)
    paths = []
    for file in info.files if files is None else files:
        names = [file.name, *(plain.name for plain in info.plain_files if f"{plain.name}.gz" == file.name)]
        path = next((folder / name for name in names if (folder / name).exists()), None)
        if path is not None:
            require_official(info, path)
        paths.append(path or fetch(file, folder, mirrors=info.mirrors))
    return paths


def require_official(info: DatasetInfo, path: Path) -> None:
    """Raise a `DataError` if a file is unreadable or differs in size or checksum from the official one of its name."""
    file = info.official(path.name)
    try:
        mismatch = file.mismatch(path) if file is not None else ""
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    if mismatch:
        raise DataError(
            f"{path} is not the official file of {info.name} ({mismatch}): give another folder with --data-dir, or "
            "move the file elsewhere so that the official one is downloaded"
        )


@dataclass(frozen=True)
class ImageTree:
    """Files of a folder or zip archive, and the paths that match a data set's layout."""

    source: FolderSource | ZipSource
    listing: Listing
    root: str
    """Path of the layout within the source, with a trailing slash."""
    matches: tuple[re.Match[str], ...]
    """One match per file of the layout, in natural order of the paths."""
    notes: tuple[str, ...] = ()


def find_tree(info: DatasetInfo, config: DataConfig, pattern: re.Pattern[str]) -> ImageTree:
    """Find a data set's image files; unpack archives beside themselves, and download missing ones.

    A single zip that contains the complete layout is read without unpacking. The pattern matches the paths of the
    layout; its group `root` is the part before the layout.

    Raises:
        DataError: The files are missing and cannot be downloaded, are not the official ones, or are not safe.
        StorageError: There is not enough space, or no permission, to unpack an archive.
    """
    folder = find_folder(info, config)
    tree = _in_folder(folder, pattern) or _in_archives(info, folder, pattern)
    if tree is None and not info.files:
        raise DataError(f"{info.name} is not in {folder}, and its publishers require an account: {info.by_hand}")
    if tree is None:
        find_files(info, config)
        tree = _in_archives(info, folder, pattern)
    if tree is None:
        raise DataError(f"{folder} does not hold the images of {info.name} in a known layout: {info.by_hand}")
    return tree


def _in_folder(folder: Path, pattern: re.Pattern[str]) -> ImageTree | None:
    return _tree(FolderSource(folder), scan_folder(folder), pattern) if folder.is_dir() else None


def _in_archives(info: DatasetInfo, folder: Path, pattern: re.Pattern[str]) -> ImageTree | None:
    paths = [folder / name for name in info.archives if (folder / name).is_file()]
    for path in paths:
        require_official(info, path)
    if len(paths) == 1 and paths[0].suffix == ".zip":
        source = ZipSource(paths[0])
        members = {name.rpartition("/")[2] for name in source.archive().namelist()}
        if not members & set(info.archives) and (tree := _tree(source, scan_zip(source), pattern)) is not None:
            return tree
    for path in paths:
        _unpack(path, info.archives)
    return _in_folder(folder, pattern) if paths else None


def _unpack(path: Path, nested: Sequence[str]) -> None:
    target = unpacked_folder(path)

    def wait(owner: str) -> None:
        report_progress(f"process {owner} is unpacking {path}: waiting for it")

    try:
        with file_lock(path.with_name(f".{path.name}.lock"), busy=wait):
            if not target.exists():
                report_progress(f"unpacking {path} to {target}")
                unpack(path, target, nested)
    except StorageError:
        raise
    except OSError as error:
        raise StorageError(f"cannot unpack into {path.parent}: {error.strerror or error}") from error


def _tree(source: FolderSource | ZipSource, listing: Listing, pattern: re.Pattern[str]) -> ImageTree | None:
    """Return the matching files; of several copies of the layout, those of the least nested one."""
    matches = [match for path in listing.files if (match := pattern.search(path))]
    if not matches:
        return None
    root = min({match["root"] for match in matches}, key=lambda prefix: (prefix.count("/"), natural_key(prefix)))
    selected = [match for match in matches if match["root"] == root]
    others = len(matches) - len(selected)
    notes = (f"{others} files of another copy of the data set are ignored: {root or './'} is used",) if others else ()
    return ImageTree(source, listing, root, tuple(sorted(selected, key=lambda match: natural_key(match.string))), notes)


def size_mismatch_note(info: DatasetInfo, count: int, *parts: str) -> tuple[str, ...]:
    """Return a sentence for the report if the number of images of some parts is not the official one."""
    expected = sum(dict(info.counts)[part] for part in parts)
    official = f"the official {expected:,} images of {' and '.join(parts)}"
    if count == expected:
        return ()
    return (
        f"{expected - count:,} of {official} are missing" if count < expected else f"{count:,} instead of {official}",
    )
