"""CIFAR-10 and CIFAR-100 from their official archives or the files in them, in the binary or the Python version."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from tercet.config.run import DataConfig
from tercet.core.archives import read_members
from tercet.core.errors import DataError
from tercet.data.datasets.download import RemoteFile
from tercet.data.datasets.info import DATASETS, DatasetInfo, find_files, find_folder, require_official
from tercet.data.datasets.parts import ArrayPart, table_of_parts
from tercet.data.decode import open_regular
from tercet.data.pixel_values import Pixels
from tercet.data.table import Ints, SampleTable

_SIDE, _CHANNELS = 32, 3
_IMAGE_BYTES = _SIDE * _SIDE * _CHANNELS  # the red, green and blue planes, each row by row
_MAX_BYTES = 1 << 28  # per file; CIFAR-100's pickled training images take 155 MB

Records = tuple[Pixels, Ints]
"""Images as colour planes (N 3072) and labels (N)."""


def read_records(content: bytes, name: str, *, label_bytes: int) -> Records:
    """Read a file of the binary version; the last of the label bytes before an image is the (fine) label.

    Raises:
        DataError: The size is not a multiple of a record.
    """
    record = label_bytes + _IMAGE_BYTES
    if not content or len(content) % record:
        raise DataError(f"{name} has {len(content):,} bytes, expected a multiple of {record:,}: download it again")
    values = np.frombuffer(content, dtype=np.uint8).reshape(-1, record)
    return values[:, label_bytes:], values[:, label_bytes - 1].astype(np.int64)


def read_batch(content: bytes, name: str, *, key: str) -> Records:
    """Read a pickled batch of the Python version; no code in it runs.

    Raises:
        DataError: The content is not a CIFAR batch, is damaged, or could run code.
    """
    try:
        batch = _BatchReader(io.BytesIO(content), encoding="latin-1").load()
        values, labels = batch["data"].array(), batch[key]
    except Exception as error:  # damaged pickles raise errors of many types
        raise DataError(f"{name} is not a readable CIFAR batch: {error or type(error).__name__}") from error
    if values.ndim != 2 or values.shape[1] != _IMAGE_BYTES:
        raise DataError(f"{name} has no 'data' of N x {_IMAGE_BYTES} bytes: expected a CIFAR batch")
    if not isinstance(labels, list) or not all(type(label) is int and abs(label) < 1 << 31 for label in labels):
        raise DataError(f"{name} has no list of integers under '{key}': expected a CIFAR batch")
    return values, np.array(labels, dtype=np.int64)


class _PickledArray:
    """Stands in for every object of a pickle; as a NumPy array, its state is version, shape, dtype, order, bytes."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def array(self) -> Pixels:
        """Return the array.

        Raises:
            ValueError: It is not an array of bytes.
        """
        _, shape, dtype, fortran_order, content = self.state
        if dtype.arguments[0] != "u1":
            raise ValueError("an array that is not of unsigned bytes")
        values = np.frombuffer(content.encode("latin-1"), dtype=np.uint8)
        return values.reshape(shape, order="F" if fortran_order else "C")


class _BatchReader(pickle._Unpickler):
    """Reads plain values and arrays of bytes; creates no object of the file.

    The version in C would allocate memory as stated by a damaged file; this one is fast enough for lists of labels.
    """

    dispatch: ClassVar = {key: load for key, load in pickle._Unpickler.dispatch.items() if key != pickle.BYTEARRAY8[0]}
    _ARRAY = (("numpy.core.multiarray", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype"))

    def find_class(self, module: str, name: str) -> Any:
        """Return a stand-in for the parts of an array; anything else could run code."""
        if (module, name) not in self._ARRAY:
            raise pickle.UnpicklingError(f"it imports '{module} {name}', unlike the official files, and could run code")
        return lambda *arguments: _PickledArray(*arguments)  # a pickle may change it


@dataclass(frozen=True)
class _Version:
    """One of the two published formats."""

    folder: str
    """Folder within the archive."""
    train: tuple[str, ...]
    """Files with training images."""
    test: tuple[str, ...]
    """Files with test images."""
    read: Callable[[bytes, str], Records]
    """Reads the content of one file, given its name."""

    @property
    def names(self) -> tuple[str, ...]:
        """All file names."""
        return (*self.train, *self.test)

    def find(self, folder: Path) -> Path | None:
        """Return the folder with the unpacked files, or None."""
        folders = (folder / self.folder, folder)
        return next((path for path in folders if any((path / name).is_file() for name in self.names)), None)


def _read(versions: tuple[_Version, _Version], info: DatasetInfo, config: DataConfig) -> SampleTable:
    """Read unpacked files if there are any, else an archive; the binary version takes precedence."""
    folder = find_folder(info, config)
    for version in versions:
        if (unpacked := version.find(folder)) is not None:
            return _table(info, version, _folder_contents(unpacked, version))
    for version, archive in zip(versions, (*info.files, *info.more_files), strict=True):
        path = folder / archive.name
        if path.exists():
            require_official(info, path)
            return _table(info, version, _archive_contents(path, version))
    return _table(info, versions[0], _archive_contents(find_files(info, config)[0], versions[0]))


def _folder_contents(folder: Path, version: _Version) -> Iterator[tuple[str, bytes]]:
    for name in version.names:
        with open_regular(folder / name) as stream:
            content = stream.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise DataError(f"{folder / name} is too large to be a CIFAR file")
        yield f"{folder / name}", content


def _archive_contents(path: Path, version: _Version) -> Iterator[tuple[str, bytes]]:
    contents = read_members(path, dict.fromkeys(version.names, _MAX_BYTES))
    for name in version.names:
        yield f"{path}:{name}", contents.pop(name)


def _table(info: DatasetInfo, version: _Version, contents: Iterator[tuple[str, bytes]]) -> SampleTable:
    """Read the files in order, and check the number of images per class."""
    arrays: list[Pixels] = []
    parts: list[ArrayPart] = []
    for (split, count), names in zip(info.counts, (version.train, version.test), strict=True):
        file_labels: list[Ints] = []
        for _ in names:
            name, content = next(contents)
            planes, labels = version.read(content, name)
            if len(planes) != len(labels) or not np.isin(labels, np.arange(info.num_classes)).all():
                raise DataError(
                    f"{name} contains {len(planes)} images and {len(labels)} labels from {labels.min(initial=0)} to "
                    f"{labels.max(initial=0)}, expected labels from 0 to {info.num_classes - 1}"
                )
            arrays.append(planes.reshape(-1, _CHANNELS, _SIDE, _SIDE).transpose(0, 2, 3, 1))
            file_labels.append(labels)
        split_labels = np.concatenate(file_labels)
        counts = np.bincount(split_labels, minlength=info.num_classes)
        if len(split_labels) != count or (counts != count // info.num_classes).any():
            raise DataError(
                f"{name}: the {split} files contain {len(split_labels):,} images, {counts.min():,} to "
                f"{counts.max():,} per class, expected {count:,} with {count // info.num_classes:,} per class: "
                "download them again"
            )
        parts.append((split, split, split_labels))
    images = np.ascontiguousarray(np.concatenate(arrays))
    return table_of_parts(images, parts, name=info.name, classes=info.classes)


_PAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"
_MIRRORS = ("https://www.cs.toronto.edu/~kriz",)
_LICENCE = "none stated; the publishers ask to cite Krizhevsky 2009, Learning Multiple Layers of Features"


def _layouts(number: int, binary: str, pickled: str) -> tuple[str, ...]:
    return (
        f"cifar-{number}-binary.tar.gz, or its .bin files, also in {binary}/",
        f"cifar-{number}-python.tar.gz, or its files, also in {pickled}/ (read as data: no code in them runs)",
    )


_FINE_LABELS = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish
forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle
mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle wardrobe whale
willow_tree wolf woman worm
"""
_BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))

CIFAR10 = DatasetInfo(
    name="cifar10",
    title="CIFAR-10, objects, 32 x 32 colour",
    page=_PAGE,
    licence=_LICENCE,
    classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    counts=(("train", 50_000), ("test", 10_000)),
    image_shape=(32, 32, 3),
    read=partial(
        _read,
        (
            _Version(
                "cifar-10-batches-bin",
                tuple(f"{name}.bin" for name in _BATCHES),
                ("test_batch.bin",),
                partial(read_records, label_bytes=1),
            ),
            _Version("cifar-10-batches-py", _BATCHES, ("test_batch",), partial(read_batch, key="labels")),
        ),
    ),
    files=(
        RemoteFile(
            "cifar-10-binary.tar.gz", 170_052_171, "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
        ),
    ),
    more_files=(
        RemoteFile(
            "cifar-10-python.tar.gz",
            170_498_071,
            "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
            "used instead if already present",
        ),
    ),
    mirrors=_MIRRORS,
    layouts=_layouts(10, "cifar-10-batches-bin", "cifar-10-batches-py"),
    entry_names=("cifar-10-batches-bin", "cifar-10-batches-py", "test_batch.bin", "test_batch"),
    remarks=(
        "the E2E-3M paper validates on the test images, so its 0.9852 is optimistic; here validation images are held "
        "out of train, and the test images are used once",
        "the paper's images were enlarged in advance; its logs show 299 pixels, and 345 for EfficientNet-B5",
    ),
)

CIFAR100 = DatasetInfo(
    name="cifar100",
    title="CIFAR-100, objects (fine labels), 32 x 32 colour",
    page=_PAGE,
    licence=_LICENCE,
    classes=tuple(_FINE_LABELS.split()),
    counts=(("train", 50_000), ("test", 10_000)),
    image_shape=(32, 32, 3),
    read=partial(
        _read,
        (
            _Version("cifar-100-binary", ("train.bin",), ("test.bin",), partial(read_records, label_bytes=2)),
            _Version("cifar-100-python", ("train",), ("test",), partial(read_batch, key="fine_labels")),
        ),
    ),
    files=(
        RemoteFile(
            "cifar-100-binary.tar.gz", 168_513_733, "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec"
        ),
    ),
    more_files=(
        RemoteFile(
            "cifar-100-python.tar.gz",
            169_001_437,
            "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
            "used instead if already present",
        ),
    ),
    mirrors=_MIRRORS,
    layouts=_layouts(100, "cifar-100-binary", "cifar-100-python"),
    entry_names=("cifar-100-binary", "cifar-100-python", "train.bin"),
    remarks=(
        "the E2E-3M paper validates on the test images, so its 0.9027 is optimistic; here validation images are held "
        "out of train, and the test images are used once",
    ),
)

for _info in (CIFAR10, CIFAR100):
    DATASETS.register(_info.name)(_info)
