"""CIFAR-10 and CIFAR-100: records of label bytes and a picture, or pickled batches; both held as planes.

Shapes: N images, 32 x 32 pixels, 3 channels.
"""

from __future__ import annotations

import numpy as np

from tercet.data.images import Pixels
from tercet.data.readers.pickled import read_pickled_mapping
from tercet.data.samples import Ints
from tercet.ground.errors import DataError

SIDE, CHANNELS = 32, 3
PICTURE = SIDE * SIDE * CHANNELS
"""Bytes of a picture: the red plane row by row, then the green one, then the blue one."""


def read_records(content: bytes, *, name: str, label_bytes: int, num_classes: int) -> tuple[Pixels, Ints]:
    """Read a file of the binary version.

    Args:
        content: Its bytes.
        name: Its name, for messages.
        label_bytes: Label bytes before a picture, of which the last one counts: 1 for CIFAR-10, 2 for CIFAR-100
            (coarse, then fine).
        num_classes: Labels lie below it.

    Returns:
        Images (N 32 32 3) and labels (N).

    Raises:
        DataError: Its size is no multiple of a record, or a label is too large.
    """
    record = label_bytes + PICTURE
    if not content or len(content) % record:
        raise DataError(f"{name} has {len(content):,} bytes, expected a multiple of {record:,}: get it again")
    values = np.frombuffer(content, dtype=np.uint8).reshape(-1, record)
    return _upright(values[:, label_bytes:]), _checked(values[:, label_bytes - 1].astype(np.int64), name, num_classes)


def read_batch(content: bytes, *, name: str, key: str, num_classes: int) -> tuple[Pixels, Ints]:
    """Read a pickled batch of the Python version, without unpickling (see `pickled`).

    Args:
        content: Its bytes.
        name: Its name, for messages.
        key: Where the labels are: `labels` for CIFAR-10, `fine_labels` for CIFAR-100.
        num_classes: Labels lie below it.

    Returns:
        Images (N 32 32 3) and labels (N).

    Raises:
        DataError: It is no such batch.
    """
    batch = read_pickled_mapping(content, name=name)
    values, labels = batch.get("data"), batch.get(key)
    if not isinstance(values, np.ndarray) or values.ndim != 2 or values.shape[1] != PICTURE:
        raise DataError(f"{name} holds no 'data' of N x {PICTURE} bytes: expected a batch of CIFAR")
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise DataError(f"{name} holds no whole numbers under '{key}': expected a batch of CIFAR")
    if len(labels) != len(values) or not labels:
        raise DataError(f"{name} holds {len(values)} images and {len(labels)} labels")
    if not all(0 <= label < num_classes for label in labels):
        raise DataError(f"{name} holds the label {max(labels, key=abs)}, expected 0 to {num_classes - 1}")
    return _upright(values), np.array(labels, dtype=np.int64)


def _upright(planes: Pixels) -> Pixels:
    """Turn planes (N 3072) into images (N 32 32 3)."""
    images = planes.reshape(-1, CHANNELS, SIDE, SIDE).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images)


def _checked(labels: Ints, name: str, num_classes: int) -> Ints:
    if labels.max() >= num_classes:
        raise DataError(f"{name} holds the label {labels.max()}, expected 0 to {num_classes - 1}")
    return labels
