"""Kaggle's classify-leaves: leaves of 176 kinds of trees, with an unlabelled test split."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np

from tercet.config.run import DataConfig
from tercet.core.errors import DataError
from tercet.data.datasets.info import DATASETS, DatasetInfo, ImageTree, find_tree, size_mismatch_note
from tercet.data.readers.records import decode_table
from tercet.data.readers.table import read_table
from tercet.data.table import UNLABELLED, SampleTable

_LAYOUT = re.compile(r"^(?P<root>(?:[^/]+/)*?)train\.csv$")


def _read(info: DatasetInfo, config: DataConfig) -> SampleTable:
    tree = find_tree(info, config, _LAYOUT)
    plain = DataConfig(max_bad_fraction=config.max_bad_fraction)
    train = read_table(f"{tree.root}train.csv", tree.source, plain, name=info.name, what=f"{tree.root}train.csv")
    ids, locations = _read_test(tree)
    if train.num_classes != info.num_classes or UNLABELLED in train.labels:
        raise DataError(
            f"train.csv of leaves contains {train.num_classes} classes, expected {info.num_classes}: download it again"
        )
    if shared := set(train.locations) & set(locations):
        raise DataError(f"leaves: {min(shared)} is in train.csv and in test.csv: download them again")
    size_notes = (*size_mismatch_note(info, len(train), "train"), *size_mismatch_note(info, len(ids), "test"))
    return replace(
        train,
        ids=(*train.ids, *ids),
        locations=(*train.locations, *locations),
        labels=np.concatenate([train.labels, np.full(len(ids), UNLABELLED)]),
        splits=("train",) * len(train) + ("test",) * len(ids),
        notes=(*tree.notes, *train.notes, *size_notes),
    )


def _read_test(tree: ImageTree) -> tuple[list[str], list[str]]:
    """Return ids and locations of the test images, in the order of test.csv; empty if there is no test.csv."""
    name = f"{tree.root}test.csv"
    if name not in tree.listing.files:
        return [], []
    header, records = decode_table(tree.source.content(name), name=name)
    if "image" not in header:
        raise DataError(f"{name} has no column 'image' (columns: {', '.join(header)})")
    ids = [fields[header.index("image")] for _, fields in records]
    locations = [tree.source.find(tree.root + file) for file in ids]
    missing = [file for file, location in zip(ids, locations, strict=True) if location is None]
    if missing or len(set(ids)) < len(ids):
        problem = f"{len(missing)} images are missing, such as '{missing[0]}'" if missing else "an image occurs twice"
        raise DataError(f"{name}: {problem}: a submission needs the image of every row")
    return ids, [location for location in locations if location is not None]


LEAVES = DatasetInfo(
    name="leaves",
    title="Kaggle's classify-leaves, 176 kinds of leaves, 224 x 224 colour",
    page="https://www.kaggle.com/c/classify-leaves",
    licence="under the rules of Kaggle's competition",
    classes=(),
    num_classes=176,
    counts=(("train", 18_353), ("test", 8_800)),
    image_shape=(224, 224, 3),
    read=_read,
    layouts=("Kaggle's classify-leaves.zip (not unpacked), or its train.csv, test.csv and images/",),
    archives=("classify-leaves.zip",),
    entry_names=("train.csv", "classify-leaves"),
    remarks=(
        "the download requires a Kaggle account: join the competition and place the archive manually",
        "no checksum is published: the tables and the number of images are checked instead",
        "test.csv has no labels: its images are for a submission in the format of sample_submission.csv (image,label); "
        "the validation split is evaluated",
        "the published report uses a random stratified split of train with an unknown ratio; here the ratio is "
        "--data.val-fraction",
    ),
)
DATASETS.register(LEAVES.name)(LEAVES)
