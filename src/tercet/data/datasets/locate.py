"""Locate the images of a named data set: unpacked, in a zip that is read without unpacking, or in archives."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tercet.config.run import DataConfig
from tercet.core.errors import DataError, StorageError
from tercet.core.files import FileLock, natural_key
from tercet.core.unpacking import unpack, unpacked_folder
from tercet.data.datasets.download import report_progress
from tercet.data.datasets.info import DatasetInfo, find_files, find_folder, require_official
from tercet.data.readers.scan import Listing, scan_folder, scan_zip
from tercet.data.sources import FolderSource, ZipSource


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

    A single zip that contains the complete layout is read without unpacking.

    Args:
        info: The data set.
        config: `data_dir`.
        pattern: Matches the paths of the layout; its group `root` is the part before the layout.

    Raises:
        DataError: The files are missing and cannot be downloaded, are not the official ones, or are not safe.
        StorageError: There is not enough space, or no permission, to unpack an archive.
    """
    folder = find_folder(info, config)
    if (tree := _in_folder(folder, pattern)) is not None:
        return tree
    if (tree := _from_archives(info, _archives(info, folder), folder, pattern)) is not None:
        return tree
    if not info.files:
        raise DataError(f"{info.name} is not in {folder}, and its publishers require an account: {info.by_hand}")
    find_files(info, config)
    if (tree := _from_archives(info, _archives(info, folder), folder, pattern)) is not None:
        return tree
    raise DataError(f"{folder} does not hold the images of {info.name} in a known layout: {info.by_hand}")


def _archives(info: DatasetInfo, folder: Path) -> list[Path]:
    return [folder / name for name in info.archives if (folder / name).is_file()]


def _in_folder(folder: Path, pattern: re.Pattern[str]) -> ImageTree | None:
    return _tree(FolderSource(folder), scan_folder(folder), pattern) if folder.is_dir() else None


def _from_archives(
    info: DatasetInfo, paths: Sequence[Path], folder: Path, pattern: re.Pattern[str]
) -> ImageTree | None:
    official = {file.name: file for file in (*info.files, *info.more_files)}
    for path in paths:
        if path.name in official:
            require_official(info, official[path.name], path)
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
        with FileLock(path.with_name(f".{path.name}.lock"), busy=wait):
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
