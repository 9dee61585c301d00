"""Named data sets: description, official files, and their location on this machine."""

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
    """Description, official files and reader of a named data set."""

    name: str
    """Name on the command line."""
    title: str
    page: str
    """Web page of the publishers."""
    licence: str
    """Terms of use, as stated by the publishers."""
    classes: tuple[str, ...]
    """Class names, in the order of the labels; empty if the files define them."""
    counts: tuple[tuple[str, int], ...]
    """Number of images per part: train and test, or all."""
    image_shape: tuple[int | None, int | None, int]
    """Height, width and channels; None if images differ."""
    read: Callable[[DatasetInfo, DataConfig], SampleTable]
    num_classes: int = 0
    """Number of classes; required if `classes` is empty."""
    files: tuple[RemoteFile, ...] = ()
    """Required official files; none if the data ship with a library or need an account."""
    more_files: tuple[RemoteFile, ...] = ()
    """Optional official files, read if present; their notes state the purpose."""
    plain_sha256: tuple[str, ...] = ()
    """SHA-256 of the decompressed `files`, in the same order, if these are accepted too."""
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
            return "no files needed: it ships with scikit-learn"
        names = ", ".join(file.name for file in self.files)
        return f"put {names} into a folder and give it with --data-dir (default: {_CACHE / self.name})"


def default_data_dir() -> Path:
    """Return the default folder of downloaded data sets."""
    return _CACHE.expanduser()


def find_folder(info: DatasetInfo, config: DataConfig) -> Path:
    """Return the folder of a data set's files: `data_dir/<name>`, or `data_dir` if it holds them directly."""
    root = default_data_dir() if config.data_dir is None else Path(config.data_dir).expanduser()
    default = root / info.name
    names = _entry_names(info)
    return next((folder for folder in (default, root) if any((folder / name).exists() for name in names)), default)


def _entry_names(info: DatasetInfo) -> list[str]:
    official = [file.name for file in (*info.files, *info.more_files)]
    plain = [name.removesuffix(".gz") for name in official] if info.plain_sha256 else []
    return [*official, *plain, *info.archives, *info.entry_names]


def find_files(info: DatasetInfo, config: DataConfig, files: Sequence[RemoteFile] | None = None) -> list[Path]:
    """Return the paths of official files, gzipped or not, after checking sizes and checksums; download missing ones.

    Args:
        info: The data set.
        config: `data_dir`.
        files: Which files (default: all required ones).

    Raises:
        DataError: A file is not the official one, or is missing and cannot be downloaded.
    """
    folder = find_folder(info, config)
    return [_find(info, file, folder) for file in (info.files if files is None else files)]


def _find(info: DatasetInfo, file: RemoteFile, folder: Path) -> Path:
    packed = folder / file.name
    if packed.exists():
        require_official(info, file, packed)
        return packed
    plain = folder / file.name.removesuffix(".gz")
    if info.plain_sha256 and plain.exists():
        require_official(info, RemoteFile(plain.name, None, None, info.plain_sha256[info.files.index(file)]), plain)
        return plain
    return fetch(file, folder, mirrors=info.mirrors)


def require_official(info: DatasetInfo, file: RemoteFile, path: Path) -> None:
    """Raise a `DataError` if a file is unreadable or differs from the official one in size or checksum."""
    try:
        mismatch = file.mismatch(path)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    if mismatch:
        raise DataError(
            f"{path} is not the official file of {info.name} ({mismatch}): give another folder with --data-dir, or "
            "move the file elsewhere so that the official one is downloaded"
        )
