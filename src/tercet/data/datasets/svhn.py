"""SVHN from its MATLAB files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.io import loadmat

from tercet.config.run import DataConfig
from tercet.core.errors import DataError
from tercet.data.datasets.download import RemoteFile
from tercet.data.datasets.info import DATASETS, DatasetInfo, find_files
from tercet.data.datasets.parts import ArrayPart, table_of_parts
from tercet.data.pixel_values import Pixels
from tercet.data.table import Ints, SampleTable

_DIGITS = 10
_EXTRA = "extra"
_SPLITS = {"train": "train", _EXTRA: "train", "test": "test"}


def read_digits(path: Path, images: Pixels) -> Ints:
    """Read a file's images into an array, and return its labels (N); 10 in the file is the digit 0.

    Raises:
        DataError: The file is damaged, contains another number of images, or invalid labels.
    """
    try:
        variables = loadmat(path, variable_names=("X", "y"))
        pixels, labels = np.asarray(variables["X"]), np.asarray(variables["y"])
    except MemoryError:
        raise
    except Exception as error:  # scipy raises errors of many types for damaged files
        raise DataError(f"{path} is not a readable MATLAB file: {error or type(error).__name__}") from error
    if pixels.dtype != np.uint8 or pixels.shape != (*images.shape[1:], len(images)):
        raise DataError(
            f"{path}: X is {_description(pixels)}, expected 32 x 32 x 3 x {len(images)} of uint8: download it again"
        )
    if labels.shape != (len(images), 1) or labels.dtype.kind not in "uif":
        raise DataError(f"{path}: y is {_description(labels)}, expected {len(images)} x 1 numbers")
    if not np.isin(labels, np.arange(1, _DIGITS + 1)).all():
        raise DataError(f"{path} contains labels other than 1 to {_DIGITS}; download it again")
    images[...] = pixels.transpose(3, 0, 1, 2)
    return labels[:, 0].astype(np.int64) % _DIGITS


def _description(values: np.ndarray) -> str:
    return f"{' x '.join(map(str, values.shape))} of {values.dtype}"


def _read(info: DatasetInfo, config: DataConfig) -> SampleTable:
    """Read train, extra (only for the variant `extra`) and test."""
    files = {file.name.split("_")[0]: file for file in (*info.files, *info.more_files)}
    counts = {part: count for part, count in info.counts if part != _EXTRA or info.variant == _EXTRA}
    paths = find_files(info, config, [files[part] for part in counts])
    images = np.empty((sum(counts.values()), 32, 32, 3), dtype=np.uint8)  # allocated once: extra alone takes 1.6 GB
    parts: list[ArrayPart] = []
    start = 0
    for (part, count), path in zip(counts.items(), paths, strict=True):
        parts.append((part, _SPLITS[part], read_digits(path, images[start : start + count])))
        start += count
    return table_of_parts(images, parts, name=info.name, classes=info.classes)


SVHN = DatasetInfo(
    name="svhn",
    title="Street View House Numbers, cropped digits, 32 x 32 colour",
    page="http://ufldl.stanford.edu/housenumbers/",
    licence="for non-commercial use only",
    classes=tuple(str(digit) for digit in range(10)),
    counts=(("train", 73_257), (_EXTRA, 531_131), ("test", 26_032)),
    image_shape=(32, 32, 3),
    read=_read,
    files=(
        RemoteFile("train_32x32.mat", 182_040_794, "435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8"),
        RemoteFile("test_32x32.mat", 64_275_384, "cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b"),
    ),
    more_files=(
        RemoteFile(
            "extra_32x32.mat",
            1_329_278_602,
            "a133a4beb38a00fcdda90c9489e0c04f900b660ce8a316a5e854838379a71eb3",
            "svhn:extra",
        ),
    ),
    mirrors=("https://ufldl.stanford.edu/housenumbers",),
    layouts=("train_32x32.mat and test_32x32.mat, and for svhn:extra also extra_32x32.mat",),
    remarks=(
        "label 10 in the files is the digit 0, class '0' here",
        "the E2E-3M paper trains on train and extra together (604,388 images, svhn:extra) and validates on the test "
        "images, so its 0.9900 is optimistic; here validation images are held out of train and extra",
        "the paper starts at a learning rate of 1e-3 'instead of 1e4', a misprint of 1e-4; it does not use flips",
    ),
    variants={_EXTRA: "adds the 531,131 easier images of the extra part to the training split"},
)
DATASETS.register(SVHN.name)(SVHN)
