"""Named data sets: what each one is, where its files come from, and how they are found on this machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tercet.data.download import RemoteFile, fetch
from tercet.data.samples import SampleTable
from tercet.ground.errors import DataError
from tercet.ground.files import sha256
from tercet.records.config import DataConfig

_CACHE = Path("~/.cache/tercet")


@dataclass(frozen=True)
class DatasetCard:
    """What a user should know about a named data set, and how it is read."""

    name: str
    """Name on the command line."""
    title: str
    """Name in words."""
    page: str
    """Its publishers' page."""
    licence: str
    """Terms of use, as its publishers state them."""
    classes: tuple[str, ...]
    """Class names, in the order of the labels."""
    counts: tuple[tuple[str, int], ...]
    """Images a part: train and test, or all."""
    image_shape: tuple[int, int, int]
    """Height, width and channels."""
    read: Callable[[DatasetCard, DataConfig], SampleTable]
    """Reads it."""
    files: tuple[RemoteFile, ...] = ()
    """Official files; none where it ships with the software."""
    plain_sha256: tuple[str, ...] = ()
    """SHA-256 of the same files without gzip, in the same order."""
    mirrors: tuple[str, ...] = ()
    """Folders on the web that hold the files."""

    @property
    def num_images(self) -> int:
        """All images."""
        return sum(count for _, count in self.counts)

    @property
    def by_hand(self) -> str:
        """How to place the files where no network is."""
        if not self.files:
            return "nothing to place: it ships with scikit-learn"
        names = ", ".join(file.name for file in self.files)
        return f"put {names} into a folder and name it with --data-dir (default: {_CACHE / self.name})"


def default_data_dir() -> Path:
    """Return the folder that keeps downloaded data sets."""
    return _CACHE.expanduser()


def find_files(card: DatasetCard, config: DataConfig) -> list[Path]:
    """Return the files of a data set, in the card's order; what is missing is downloaded.

    They may lie in `data_dir` or in `data_dir/<name>`, gzipped or not; each one's SHA-256 is checked.

    Raises:
        DataError: A file is not the official one, or is missing and cannot be downloaded.
    """
    root = default_data_dir() if config.data_dir is None else Path(config.data_dir).expanduser()
    own = root / card.name
    folder = next((place for place in (own, root) if any(_present(file, place) for file in card.files)), own)
    return [_find(card, index, folder) for index in range(len(card.files))]


def _present(file: RemoteFile, folder: Path) -> bool:
    return (folder / file.name).exists() or (folder / file.name).with_suffix("").exists()


def _find(card: DatasetCard, index: int, folder: Path) -> Path:
    file = card.files[index]
    packed = folder / file.name
    if not _present(file, folder):
        return fetch(file, folder, mirrors=card.mirrors)
    path, expected = (packed, file.sha256) if packed.exists() else (packed.with_suffix(""), card.plain_sha256[index])
    try:
        found = sha256(path)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    if found != expected:
        raise DataError(
            f"{path} is not the official file of {card.name} (SHA-256 {found}, expected {expected}): name another "
            "folder with --data-dir, or move the file away so that the right one is downloaded"
        )
    return path
