"""The handwritten digits that ship with scikit-learn."""

from __future__ import annotations

import importlib

import numpy as np

from tercet.config.run import DataConfig
from tercet.data.datasets.info import DATASETS, DatasetInfo
from tercet.data.datasets.parts import table_of_parts
from tercet.data.table import SampleTable


def _read(info: DatasetInfo, config: DataConfig) -> SampleTable:
    # Imported on use: listing the data sets loads no heavy library.
    digits = importlib.import_module("sklearn.datasets").load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]  # values 0..16; N 8 8 1
    labels = digits.target.astype(np.int64)
    return table_of_parts(images, [("image", "", labels)], name=info.name, classes=info.classes)


DIGITS = DatasetInfo(
    name="digits",
    title="Handwritten digits (UCI, test part), 8 x 8 grey",
    page="https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits",
    licence="CC BY 4.0",
    classes=tuple(str(digit) for digit in range(10)),
    counts=(("all", 1797),),
    image_shape=(8, 8, 1),
    read=_read,
    remarks=("ships with scikit-learn",),
)
DATASETS.register(DIGITS.name)(DIGITS)
