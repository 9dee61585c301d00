"""Kaggle's classify-leaves: leaves of 176 kinds of trees, with an unlabelled test."""

from __future__ import annotations

import re

import numpy as np

from tercet.config.run import DataConfig
from tercet.core.errors import DataError
from tercet.core.files import natural_key
from tercet.data.datasets.info import DatasetInfo
from tercet.data.datasets.locate import ImageTree, find_tree, size_mismatch_note
from tercet.data.readers.table import TableRows, parse_table, read_table
from tercet.data.table import UNLABELLED, SampleTable

_LAYOUT = re.compile(r"^(?P<root>(?:[^/]+/)*?)train\.csv$")


def _read(card: DatasetInfo, config: DataConfig) -> SampleTable:
    tree = find_tree(card, config, _LAYOUT)
    train = _read_train(tree, config)
    ids, locations = _read_test(tree)
    classes = tuple(sorted(set(train.labels), key=natural_key))
    if len(classes) != card.num_classes or "" in classes:
        raise DataError(f"train.csv of leaves names {len(classes)} classes, expected {card.num_classes}: get it again")
    if doubled := set(train.locations) & set(locations):
        raise DataError(f"leaves: {min(doubled)} is in train.csv and in test.csv: get them again")
    known = [classes.index(label) for label in train.labels]
    differences = (*size_mismatch_note(card, len(known), "train"), *size_mismatch_note(card, len(ids), "test"))
    return SampleTable(
        name=card.name,
        ids=(*train.ids, *ids),
        locations=(*train.locations, *locations),
        labels=np.array(known + [UNLABELLED] * len(ids), dtype=np.int64),
        classes=classes,
        source=tree.source,
        splits=("train",) * len(known) + ("test",) * len(ids),
        notes=(*tree.notes, *train.notes, *differences),
    )


def _read_train(tree: ImageTree, config: DataConfig) -> TableRows:
    name = f"{tree.root}train.csv"
    rows = read_table(
        tree.source.content(name), name=name, config=DataConfig(), find=lambda file: tree.source.find(tree.root + file)
    )
    if rows.num_missing > config.max_bad_fraction * (len(rows.ids) + rows.num_missing):
        raise DataError(f"{name}: {'; '.join(rows.notes)}: unpack images/ beside it")
    return rows


def _read_test(tree: ImageTree) -> tuple[list[str], list[str]]:
    """Return the test images' names and places, in the order that a submission needs; none where there is no table."""
    name = f"{tree.root}test.csv"
    if name not in tree.listing.files:
        return [], []
    header, records = parse_table(tree.source.content(name), name=name)
    if "image" not in header:
        raise DataError(f"{name} has no column 'image' (it has: {', '.join(header)})")
    ids = [fields[header.index("image")] for _, fields in records]
    found = [tree.source.find(tree.root + file) for file in ids]
    missing = [file for file, location in zip(ids, found, strict=True) if location is None]
    if missing or len(set(ids)) < len(ids):
        what = f"{len(missing)} images are not there, such as '{missing[0]}'" if missing else "an image is named twice"
        raise DataError(f"{name}: {what}: every row needs its image, else a submission cannot be whole")
    return ids, [location for location in found if location is not None]


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
    layouts=("Kaggle's classify-leaves.zip (read in place), or its train.csv, test.csv and images/",),
    archives=("classify-leaves.zip",),
    tops=("train.csv", "classify-leaves"),
    remarks=(
        "Kaggle gives it to its users only: join the competition and place the archive by hand",
        "no checksum is published: the tables and the number of images are checked instead",
        "test.csv has no labels: those images serve a submission in the form of sample_submission.csv (image,label); "
        "what is measured is the validation split",
        "the report that uses it splits train at random, stratified, but does not say in what ratio: here by "
        "--data.val-fraction",
    ),
)
