"""Image files of a named data set wherever they lie: unpacked, in one zip that is read in place, or in archives."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tercet.config.run import DataConfig
from tercet.core.errors import DataError, StorageError
from tercet.core.files import natural_key
from tercet.core.locks import FileLock
from tercet.core.unpacking import unpack, unpacked_folder
from tercet.data.datasets.download import report_progress
from tercet.data.datasets.info import DatasetInfo, check, find_files, find_folder
from tercet.data.readers.folder import Listing, scan_folder
from tercet.data.readers.formats import scan_zip
from tercet.data.sources import FolderSource, ZipSource


@dataclass(frozen=True)
class ImageTree:
    """Files by path, and those among them that belong to the layout."""

    source: FolderSource | ZipSource
    listing: Listing
    root: str
    """The folders before the layout, with a closing slash."""
    matches: tuple[re.Match[str], ...]
    """One a file of the layout, in natural order of their paths."""
    notes: tuple[str, ...] = ()


def find_tree(card: DatasetInfo, config: DataConfig, pattern: re.Pattern[str]) -> ImageTree:
    """Find a data set's image files; archives are unpacked beside themselves, and missing ones downloaded.

    A single zip that holds the whole layout is read where it is.

    Args:
        card: The data set.
        config: Says where its files lie.
        pattern: Matches the path of a file of the layout; its group `root` is what comes before the layout.

    Raises:
        DataError: The files are not there and cannot be downloaded, are not the official ones, or are not safe.
        StorageError: An archive cannot be unpacked for want of space or permission.
    """
    folder = find_folder(card, config)
    if (tree := _in_folder(folder, pattern)) is not None:
        return tree
    if (tree := _from_archives(card, _archives(card, folder), folder, pattern)) is not None:
        return tree
    if not card.files:
        raise DataError(f"{card.name} is not in {folder}, and its publishers ask for an account: {card.by_hand}")
    find_files(card, config)
    if (tree := _from_archives(card, _archives(card, folder), folder, pattern)) is not None:
        return tree
    raise DataError(f"{folder} does not hold the images of {card.name} in a known layout: {card.by_hand}")


def _archives(card: DatasetInfo, folder: Path) -> list[Path]:
    return [folder / name for name in card.archives if (folder / name).is_file()]


def _in_folder(folder: Path, pattern: re.Pattern[str]) -> ImageTree | None:
    return _tree(FolderSource(folder), scan_folder(folder), pattern) if folder.is_dir() else None


def _from_archives(
    card: DatasetInfo, paths: Sequence[Path], folder: Path, pattern: re.Pattern[str]
) -> ImageTree | None:
    official = {file.name: file for file in (*card.files, *card.more_files)}
    for path in paths:
        if path.name in official:
            check(card, official[path.name], path)
    if len(paths) == 1 and paths[0].suffix == ".zip":
        source = ZipSource(paths[0])
        within = {name.rpartition("/")[2] for name in source.archive().namelist()}
        if not within & set(card.archives) and (tree := _tree(source, scan_zip(source), pattern)) is not None:
            return tree
    for path in paths:
        _unpack(path, card.archives)
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
    """Return the files that match; of several copies of the layout, the one that lies least deep."""
    found = [match for path in listing.files if (match := pattern.search(path))]
    if not found:
        return None
    root = min({match["root"] for match in found}, key=lambda prefix: (prefix.count("/"), natural_key(prefix)))
    own = [match for match in found if match["root"] == root]
    others = len(found) - len(own)
    notes = (f"{others} files of another copy of the data set are left out: {root or './'} is read",) if others else ()
    return ImageTree(source, listing, root, tuple(sorted(own, key=lambda match: natural_key(match.string))), notes)


def size_mismatch_note(card: DatasetInfo, found: int, *parts: str) -> tuple[str, ...]:
    """Return a sentence for the report where parts together do not have the official number of images."""
    expected = sum(dict(card.counts)[part] for part in parts)
    what = f"the official {expected:,} images of {' and '.join(parts)}"
    if found == expected:
        return ()
    return (f"{expected - found:,} of {what} are not here" if found < expected else f"{found:,} instead of {what}",)
