"""Named data sets: what each one is, where its files come from, and how they are found on this machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tercet.config.run import DataConfig
from tercet.core.errors import DataError
from tercet.data.datasets.download import RemoteFile, fetch
from tercet.data.table import SampleTable

_CACHE = Path("~/.cache/tercet")


@dataclass(frozen=True)
class DatasetInfo:
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
    """Class names, in the order of the labels; empty where its files name them."""
    counts: tuple[tuple[str, int], ...]
    """Images a part: train and test, or all."""
    image_shape: tuple[int | None, int | None, int]
    """Height, width and channels; None where images differ."""
    read: Callable[[DatasetInfo, DataConfig], SampleTable]
    """Reads it."""
    num_classes: int = 0
    """Number of classes; given where `classes` is empty."""
    files: tuple[RemoteFile, ...] = ()
    """Official files that are needed; none where it ships with the software or needs an account."""
    more_files: tuple[RemoteFile, ...] = ()
    """Other official files that are read where they are found; each note says what for."""
    plain_sha256: tuple[str, ...] = ()
    """SHA-256 of the files without gzip, in the same order, where they may lie so."""
    mirrors: tuple[str, ...] = ()
    """Folders on the web that hold the files."""
    layouts: tuple[str, ...] = ()
    """What may lie in the data folder, one sentence each."""
    archives: tuple[str, ...] = ()
    """Names of the archives with its images, Kaggle's among them; the one without which there are none comes last."""
    tops: tuple[str, ...] = ()
    """Names of unpacked files and folders by which the data is known, beside the official files."""
    remarks: tuple[str, ...] = ()
    """How it is measured, and which source is followed where they disagree."""
    variants: Mapping[str, str] = field(default_factory=dict)
    """Variants, each with a description; `NAME:VARIANT` selects one."""
    variant: str = ""
    """The selected variant; empty for the default."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "num_classes", self.num_classes or len(self.classes))

    @property
    def num_images(self) -> int:
        """All images."""
        return sum(count for _, count in self.counts)

    @property
    def by_hand(self) -> str:
        """How to place the files where no network is."""
        if self.layouts:
            return f"{'; or '.join(self.layouts)}: in a folder named with --data-dir (default: {_CACHE / self.name})"
        if not self.files:
            return "nothing to place: it ships with scikit-learn"
        names = ", ".join(file.name for file in self.files)
        return f"put {names} into a folder and name it with --data-dir (default: {_CACHE / self.name})"


def default_data_dir() -> Path:
    """Return the folder that keeps downloaded data sets."""
    return _CACHE.expanduser()


def find_folder(card: DatasetInfo, config: DataConfig) -> Path:
    """Return the folder with a data set's files: `data_dir/<name>`, or `data_dir` where they lie in it directly."""
    root = default_data_dir() if config.data_dir is None else Path(config.data_dir).expanduser()
    own = root / card.name
    return next((place for place in (own, root) if any((place / name).exists() for name in _names(card))), own)


def _names(card: DatasetInfo) -> list[str]:
    official = [file.name for file in (*card.files, *card.more_files)]
    plain = [name.removesuffix(".gz") for name in official] if card.plain_sha256 else []
    return [*official, *plain, *card.archives, *card.tops]


def find_files(card: DatasetInfo, config: DataConfig, files: Sequence[RemoteFile] | None = None) -> list[Path]:
    """Return official files of a data set, in their order; what is missing is downloaded.

    They may lie in `data_dir` or in `data_dir/<name>`, gzipped or not; each one's size and checksum are checked.

    Args:
        card: The data set.
        config: Says where its files lie.
        files: Which; all that are needed by default.

    Raises:
        DataError: A file is not the official one, or is missing and cannot be downloaded.
    """
    folder = find_folder(card, config)
    return [_find(card, file, folder) for file in (card.files if files is None else files)]


def _find(card: DatasetInfo, file: RemoteFile, folder: Path) -> Path:
    packed = folder / file.name
    if packed.exists():
        check(card, file, packed)
        return packed
    plain = folder / file.name.removesuffix(".gz")
    if card.plain_sha256 and plain.exists():
        check(card, RemoteFile(plain.name, None, None, card.plain_sha256[card.files.index(file)]), plain)
        return plain
    return fetch(file, folder, mirrors=card.mirrors)


def check(card: DatasetInfo, file: RemoteFile, path: Path) -> None:
    """Refuse a file that is not the official one.

    Raises:
        DataError: It has another size or checksum, or cannot be read.
    """
    try:
        fault = file.fault(path)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    if fault:
        raise DataError(
            f"{path} is not the official file of {card.name} ({fault}): name another folder with --data-dir, or move "
            "the file away so that the right one is downloaded"
        )
