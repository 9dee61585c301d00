"""Tables of images that are given as Python objects: arrays, paths, PIL images, data frames, datasets.

Shapes: N images, H x W pixels, C channels, K classes.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tercet.config.run import DataConfig
from tercet.core.errors import ConfigError, DataError
from tercet.data.inputs import as_sequence, dataset_item, image_column, is_dataset, is_frame, to_bytes, to_image
from tercet.data.memory_sources import ArraySource
from tercet.data.pixel_values import Pixels
from tercet.data.readers.columns import membership_of, sort_classes
from tercet.data.readers.side_columns import fill_groups
from tercet.data.readers.table import read_table, refuse_table_options
from tercet.data.sources import FolderSource, ImageSource
from tercet.data.table import UNLABELLED, Ints, SampleTable
from tercet.data.unpacked import data_stem

DataLike: TypeAlias = Any
"""Labelled images: a folder, table, zip or data set name; `(images, labels)` with arrays N H W C, paths or PIL images;
a DataFrame with a column of paths; a Dataset of pairs (image, label); or a `SampleTable`."""
_EXPECTED = "expected a folder, table, arrays or Dataset"
_FILES = FolderSource(Path("."))


def resolve_data(data: DataLike, config: DataConfig) -> str | Path | SampleTable:
    """Return paths and names as they are, and the table of other data.

    Args:
        data: Labelled images.
        config: Columns of a DataFrame, and the memory for the images of a Dataset.

    Raises:
        DataError: The data are of another type, have no labels, or an image or label is invalid.
        ConfigError: An option does not apply to the data.
    """
    if isinstance(data, (str, Path, SampleTable)):
        return data
    if is_frame(data):
        return _table_of_frame(data, config)
    pair = isinstance(data, (tuple, list)) and len(data) == 2 and not isinstance(data[0], (str, Path, Image.Image))
    if not pair and is_dataset(data):
        refuse_table_options(config, f"a {type(data).__name__}")
        return _table_of_dataset(data, config)
    if not pair:
        raise DataError(f"{_EXPECTED}, got {describe_type(data)}{_hint(data)}")
    refuse_table_options(config, "the pair of images and labels")
    images, labels = data
    if labels is None:
        raise DataError(f"{_EXPECTED}, got a pair without labels")
    return table_from_arrays(images, labels)


def data_name(data: str | Path | SampleTable) -> str:
    """Return the name of data for their run folder."""
    return data.name if isinstance(data, SampleTable) else data_stem(Path(str(data)))


def describe_type(value: Any) -> str:
    """Return the type of a value, and shape and element type of an array."""
    text = type(value).__name__
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        text += f" of shape {tuple(value.shape)} and type {str(value.dtype).removeprefix('torch.')}"
    return text


def _hint(data: Any) -> str:
    if isinstance(data, (list, np.ndarray)) or hasattr(data, "shape"):
        return ": give images and labels as a pair (X, y)"
    if hasattr(type(data), "__iter__") and hasattr(data, "dataset"):
        return ": give its dataset"
    return ""


def table_from_arrays(
    images: Any,
    labels: Any = None,
    *,
    classes: Sequence[str] | None = None,
    ids: Sequence[str] | None = None,
    splits: Sequence[str] | None = None,
    groups: Sequence[str] | None = None,
    name: str = "arrays",
) -> SampleTable:
    """Return the table of images and labels; arrays of uint8 are not copied.

    Args:
        images: Array N H W or N H W C with C 1 or 3, tensor N C H W, paths, arrays of any sizes, PIL images, a
            DataFrame with a column of paths, or a Dataset. Pixels are uint8, or floats that are multiples of 1/255.
        labels: N class names (empty: unlabelled) or integers (-1: unlabelled); for multi-label data an array N K of 0
            and 1, or N sets of names; None: all unlabelled.
        classes: Class names; integers are then their indices (default: the sorted names, or numbers as text).
        ids: N unique sample names (default: the paths, or `image-00000` and so on).
        splits: N times train, val or test.
        groups: N group names; an empty one is a group of its own.
        name: Name of the data.

    Raises:
        DataError: Images or labels are of another type or shape, or the columns differ in length.
    """
    source, locations, names = _read_images(images)
    membership, class_names = None, tuple(classes or ())
    indices: Ints = np.full(len(locations), UNLABELLED)
    if labels is not None:
        values = _label_values(labels, len(locations))
        if values.ndim == 2 or any(_is_label_set(value) for value in values):
            membership, class_names = _memberships(values, classes)
            indices = np.zeros(len(locations), dtype=np.int64)
        else:
            indices, class_names = _class_indices(values, classes)
    if len(set(names)) < len(names) and groups is None:
        groups = names  # copies of a file stay in one split
    unique = names if len(set(names)) == len(names) else [f"{name} ({row})" for row, name in enumerate(names)]
    row_ids = tuple(unique if ids is None else ids)
    return SampleTable(
        name=name,
        ids=row_ids,
        locations=tuple(locations),
        labels=indices,
        classes=class_names,
        source=source,
        groups=None if groups is None else fill_groups(groups, row_ids),
        splits=None if splits is None else tuple(splits),
        membership=membership,
    )


def _read_images(images: Any) -> tuple[ImageSource, Sequence[str], Sequence[str]]:
    """Return the source of images, their locations and their names."""
    if is_dataset(images):
        images = [dataset_item(images, index)[0] for index in range(len(images))]
    images = as_sequence(images)
    if isinstance(images, np.ndarray):
        return _numbered(_check_array(images))
    if not isinstance(images, Sequence) or isinstance(images, str):
        raise DataError(f"{_EXPECTED}, got {describe_type(images)} as images")
    if not images:
        raise DataError("there are no images")
    if all(isinstance(image, (str, Path)) for image in images):
        paths = [os.fspath(image) for image in images]
        missing = [path for path in paths if not os.path.isfile(path)]
        if missing:
            raise DataError(f"{len(missing)} of {len(paths)} images are not files, such as {missing[0]}")
        return _FILES, [os.path.abspath(path) for path in paths], paths
    return _numbered([_image_at(index, image) for index, image in enumerate(images)])


def _check_array(images: NDArray[Any]) -> Pixels:
    shape: tuple[int, ...] = images.shape
    if images.ndim not in (3, 4) or (images.ndim == 4 and shape[3] not in (1, 3)):
        first = images.ndim == 4 and shape[1] in (1, 3)
        hint = ": move the channels last with X.transpose(0, 2, 3, 1)" if first else ""
        hint = ": reshape the rows to images, such as X.reshape(-1, 8, 8)" if images.ndim == 2 else hint
        raise DataError(
            f"{_EXPECTED}, got {describe_type(images)}, expected uint8 N H W, N H W 1 or N H W 3 as images{hint}"
        )
    if not images.size:
        raise DataError(f"there are no images in the array of shape {shape}")
    return to_bytes(images if images.ndim == 4 else images[..., None], "X")


def _image_at(index: int, image: Any) -> Pixels:
    try:
        return to_image(image)
    except DataError as error:
        raise DataError(f"image {index}: {error}") from error


def _numbered(images: Pixels | Sequence[Pixels]) -> tuple[ArraySource, Sequence[str], Sequence[str]]:
    if not isinstance(images, np.ndarray) and len({image.shape for image in images}) == 1:
        images = np.stack(images)
    numbers = range(len(images))
    return ArraySource(images), [str(row) for row in numbers], [f"image-{row:05d}" for row in numbers]


def _label_values(labels: Any, count: int) -> NDArray[Any]:
    """Return labels as an array N or N K, checked for length and missing values."""
    labels = as_sequence(labels)
    if isinstance(labels, str) or not hasattr(labels, "__len__"):
        raise DataError(f"labels are {describe_type(labels)}, expected one label per image")
    values = labels if isinstance(labels, np.ndarray) else _label_array(list(labels))
    if len(values) != count:
        raise DataError(f"{len(values)} labels for {count} images")
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    for row, value in enumerate(values if values.dtype.kind in "OUf" and values.ndim == 1 else ()):
        if value is None or value == "nan" or (isinstance(value, (float, np.floating)) and np.isnan(value)):
            raise DataError(f"label {row} is {value}: remove the unlabelled images, or give '' as their label")
    if values.dtype.kind not in "iubOU" or values.ndim > 2 or (values.ndim == 2 and not np.isin(values, (0, 1)).all()):
        raise DataError(
            f"labels have shape {values.shape} and type {values.dtype}, expected N class names or integers "
            "(y.astype(int)), N K of 0 and 1, or N sets of names"
        )
    return values


def _label_array(labels: list[Any]) -> NDArray[Any]:
    """Return names and sets of names as an array of objects N, numbers as an array N or N K."""
    if not any(isinstance(name, str) for label in labels for name in (label if _is_label_set(label) else [label])):
        try:
            return np.asarray(labels)
        except ValueError as error:  # lists of different lengths
            raise DataError(f"labels are not an array: {error}") from error
    return np.fromiter(labels, dtype=object, count=len(labels))


def _is_label_set(value: Any) -> bool:
    return isinstance(value, Collection) and not isinstance(value, str)


def _memberships(values: NDArray[Any], classes: Sequence[str] | None) -> tuple[NDArray[np.bool_], tuple[str, ...]]:
    if values.ndim == 2:
        return values.astype(np.bool_), tuple(classes or map(str, range(values.shape[1])))
    single = [row for row, value in enumerate(values) if not _is_label_set(value)]
    if single:
        raise DataError(f"label {single[0]} is {values[single[0]]!r}, and other labels are sets")
    sets = [tuple(str(name) for name in value) for value in values]
    names = tuple(classes or sort_classes([name for labels in sets for name in labels]))
    try:
        return membership_of(sets, names), names
    except KeyError as error:
        raise DataError(f"label {error} is not one of the classes {', '.join(names)}") from error


def _class_indices(values: NDArray[Any], classes: Sequence[str] | None) -> tuple[Ints, tuple[str, ...]]:
    if values.dtype.kind in "iu" and classes is not None:
        return values.astype(np.int64), tuple(classes)
    integers = values.dtype.kind in "iu"
    texts = ["" if integers and value == UNLABELLED else str(value) for value in values.tolist()]
    names = tuple(classes) if classes is not None else sort_classes(texts)
    index_of = {name: index for index, name in enumerate(names)}
    unknown = sorted(set(texts) - set(names) - {""})
    if unknown:
        raise DataError(f"label '{unknown[0]}' is not one of the classes {', '.join(names)}")
    return np.array([index_of.get(text, UNLABELLED) for text in texts], dtype=np.int64), names


@dataclass(frozen=True)
class _FrameFiles(FolderSource):
    """A DataFrame as a CSV file, and the files that it lists."""

    csv: bytes = b""

    def content(self, location: str) -> bytes:
        """Return the CSV file."""
        return self.csv

    def find(self, name: str) -> str | None:
        """Return the absolute path of a file."""
        return os.path.abspath(name) if os.path.isfile(name) else None


def _table_of_frame(frame: Any, config: DataConfig) -> SampleTable:
    """Read a DataFrame as the CSV file that it would be written to; relative paths start at the current folder."""
    if not len(frame):
        raise DataError("the DataFrame has no rows")
    image_column(frame, config.image_column)  # raises with the name of the option's value
    content = frame.to_csv(index=False).encode("utf-8", "surrogateescape")
    table = read_table("frame.csv", _FrameFiles(Path("."), csv=content), config, name="frame", what="the DataFrame")
    return replace(table, source=_FILES)


def _table_of_dataset(dataset: Any, config: DataConfig) -> SampleTable:
    """Read all items of a Dataset; integers are indices of its `classes`, if it has them."""
    kind, size, channels = type(dataset).__name__, 0, 1
    images: list[Pixels] = []
    labels: list[Any] = []
    for index in range(len(dataset)):
        image, label = dataset_item(dataset, index)
        if label is None:
            raise DataError(f"item {index} of {kind} has no label: expected pairs (image, label)")
        images.append(_image_at(index, image))
        labels.append(label.item() if hasattr(label, "item") and np.ndim(label) == 0 else as_sequence(label))
        size, channels = size + images[-1][..., 0].size, max(channels, images[-1].shape[2])
        if size * channels > config.memory_budget:
            raise ConfigError(
                f"the images of {kind} exceed data.memory_budget {config.memory_budget}: raise it, or give image files"
            )
    names: Sequence[Any] = getattr(dataset, "classes", ())
    named = bool(names) and all(isinstance(name, str) for name in names)
    indices = all(isinstance(label, int) and 0 <= label < len(names) for label in labels)
    return table_from_arrays(images, labels, classes=names if named and indices else None, name=kind)
