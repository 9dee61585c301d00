"""iCassava 2019: Kaggle's folders with an unlabelled test split, or the archive with three labelled splits."""

from __future__ import annotations

import re

import numpy as np

from tercet.config.run import DataConfig
from tercet.core.errors import DataError
from tercet.data.datasets.download import RemoteFile
from tercet.data.datasets.info import DATASETS, DatasetInfo, find_tree, size_mismatch_note
from tercet.data.readers.scan import summarise_skipped
from tercet.data.table import UNLABELLED, SampleTable

_CLASSES = ("cbb", "cbsd", "cgm", "cmd", "healthy")
_LAYOUT = re.compile(
    r"^(?P<root>(?:[^/]+/)*?)(?P<split>train|validation|test)/(?:(?P=split)/)?"  # Kaggle's archives repeat the folder
    rf"(?:(?P<label>{'|'.join(_CLASSES)}|0)/)?(?P<name>[^/]+\.jpe?g)$",
    re.IGNORECASE,
)


def _read(info: DatasetInfo, config: DataConfig) -> SampleTable:
    tree = find_tree(info, config, _LAYOUT)
    rows: dict[str, tuple[str, int, str]] = {}
    skipped = []
    for match in tree.matches:
        word, label = match["split"].casefold(), match["label"] or "0"
        split = "val" if word == "validation" else word
        index = UNLABELLED if label == "0" else _CLASSES.index(label.casefold())
        sample = f"{match['split']}/{label}/{match['name']}"
        if sample in rows:
            raise DataError(f"{tree.root}{sample} exists twice, also as {match.string}: keep one")
        if index == UNLABELLED and split != "test":
            skipped.append((match.string, "not in a class folder"))
        else:
            rows[sample] = (match.string, index, split)
    splits = [split for _, _, split in rows.values()]
    labels = np.array([index for _, index, _ in rows.values()], dtype=np.int64)
    if not set(labels[[split == "train" for split in splits]].tolist()) >= set(range(len(_CLASSES))):
        raise DataError(f"cassava lacks class folders in train, expected {', '.join(_CLASSES)}: {info.by_hand}")
    return SampleTable(
        name=info.name,
        ids=tuple(rows),
        locations=tuple(location for location, _, _ in rows.values()),
        labels=labels,
        classes=info.classes,
        source=tree.source,
        splits=tuple(splits),
        notes=(*tree.notes, *summarise_skipped(skipped), *size_mismatch_note(info, splits.count("train"), "train")),
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
            "cassavaleafdata.zip", 1_354_096_203, "8ae63d2ef7dee0899d252a748523e603f97e2ae7022f103f92fc42a9fce74d95"
        ),
    ),
    mirrors=("https://storage.googleapis.com/emcassavadata",),
    layouts=(
        "cassavaleafdata.zip (not unpacked), or its folders train, validation and test with one folder per class",
        "Kaggle's cassava-disease.zip, or its train.zip and test.zip, or their folders train/<class>/ and test/0/",
    ),
    archives=("cassavaleafdata.zip", "cassava-disease.zip", "test.zip", "train.zip"),
    entry_names=("cassavaleafdata", "cassava-disease", "train"),
    remarks=(
        "Kaggle's test split (3,774 images) is unlabelled, for submissions only; the other archive contains as many "
        "labelled validation and test images under other names",
        "the E2E-3M paper counts 9,436 labelled images, which is train and test together; its logs train on 5,656",
        "the paper's five folds omit up to four images per class; here every image is held out once",
        "the paper describes learning rates 1e-4, 1e-5 and 1e-6; its logs for this data set use 2e-4, 1e-5 and 1e-5",
    ),
)
DATASETS.register(CASSAVA.name)(CASSAVA)
