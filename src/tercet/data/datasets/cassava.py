"""iCassava 2019: leaves of cassava plants; Kaggle's folders with an unlabelled test, or the labelled three splits."""

from __future__ import annotations

import re

import numpy as np

from tercet.config.run import DataConfig
from tercet.core.errors import DataError
from tercet.data.datasets.download import RemoteFile
from tercet.data.datasets.info import DatasetInfo
from tercet.data.datasets.locate import find_tree, size_mismatch_note
from tercet.data.readers.folder import SPLIT_NAMES, summarise
from tercet.data.table import UNLABELLED, SampleTable

_CLASSES = ("cbb", "cbsd", "cgm", "cmd", "healthy")
_LAYOUT = re.compile(
    r"^(?P<root>(?:[^/]+/)*?)(?P<split>train|validation|test)/(?:(?P=split)/)?"  # Kaggle's archives double the folder
    rf"(?:(?P<label>{'|'.join(_CLASSES)}|0)/)?(?P<name>[^/]+\.jpe?g)$",
    re.IGNORECASE,
)


def _read(card: DatasetInfo, config: DataConfig) -> SampleTable:
    tree = find_tree(card, config, _LAYOUT)
    rows: dict[str, tuple[str, int, str]] = {}
    skipped = []
    for match in tree.matches:
        split, label = SPLIT_NAMES[match["split"].casefold()], match["label"] or "0"
        index = UNLABELLED if label == "0" else _CLASSES.index(label.casefold())
        sample = f"{match['split']}/{label}/{match['name']}"
        if sample in rows:
            raise DataError(f"{tree.root}{sample} is there twice, also as {match.string}: keep one")
        if index == UNLABELLED and split != "test":
            skipped.append((match.string, "not in a class folder"))
        else:
            rows[sample] = (match.string, index, split)
    splits = [split for _, _, split in rows.values()]
    labels = np.array([index for _, index, _ in rows.values()], dtype=np.int64)
    if not set(labels[[split == "train" for split in splits]].tolist()) >= set(range(len(_CLASSES))):
        raise DataError(f"cassava has not the class folders {', '.join(_CLASSES)} in train: {card.by_hand}")
    return SampleTable(
        name=card.name,
        ids=tuple(rows),
        locations=tuple(location for location, _, _ in rows.values()),
        labels=labels,
        classes=card.classes,
        source=tree.source,
        splits=tuple(splits),
        notes=(*tree.notes, *summarise(skipped), *size_mismatch_note(card, splits.count("train"), "train")),
    )


CASSAVA = DatasetInfo(
    name="cassava",
    title="iCassava 2019, diseases of cassava leaves, colour photos",
    page="https://www.kaggle.com/c/cassava-disease",
    licence="none stated with the files; Kaggle's copy is under the rules of its competition",
    classes=_CLASSES,
    counts=(("train", 5_656), ("validation", 1_889), ("test", 1_885)),
    image_shape=(None, None, 3),
    read=_read,
    files=(
        RemoteFile(
            "cassavaleafdata.zip",
            1_354_096_203,
            None,
            "8ae63d2ef7dee0899d252a748523e603f97e2ae7022f103f92fc42a9fce74d95",
        ),
    ),
    mirrors=("https://storage.googleapis.com/emcassavadata",),
    layouts=(
        "cassavaleafdata.zip (read in place) or its folders train, validation and test with a folder a class",
        "Kaggle's cassava-disease.zip, or its train.zip and test.zip, or their folders train/<class>/ and test/0/",
    ),
    archives=("cassavaleafdata.zip", "cassava-disease.zip", "test.zip", "train.zip"),
    tops=("cassavaleafdata", "cassava-disease", "train"),
    remarks=(
        "Kaggle's test (3,774 images) has no labels and serves submissions only; the other archive has the same number "
        "as labelled validation and test, under other names",
        "the E2E-3M paper counts 9,436 labelled images, which is train and test together: its logs train on 5,656",
        "the paper's folds are five slices of each class that leave out up to four images a class: here every image is "
        "validated once",
        "the paper describes rates 1e-4, 1e-5 and 1e-6; its logs for this set use 2e-4, 1e-5 and again 1e-5",
    ),
)
