"""iNaturalist 2019: 1,010 species, read from COCO annotations or from folders."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from tercet.config.run import DataConfig
from tercet.core.archives import read_members
from tercet.core.errors import DataError
from tercet.data.datasets.download import RemoteFile
from tercet.data.datasets.info import DATASETS, DatasetInfo, ImageTree, find_tree, require_official, size_mismatch_note
from tercet.data.sources import FolderSource
from tercet.data.table import UNLABELLED, SampleTable

_MAX_BYTES = 1 << 29  # size of an annotation file
_SPLITS = (("train", "train2019.json"), ("val", "val2019.json"), ("test", "test2019.json"))
_LAYOUT = re.compile(
    r"^(?P<root>(?:[^/]+/)*?)(?:train_val2019/)*(?P<group>[A-Z][a-z]+)[/_](?P<id>\d{1,4})/(?P<name>[^/]+\.jpe?g)$"
)

ImageRecord = tuple[str, str, int, str]
"""Id, location, category (-1 if unlabelled) and split."""


Annotations = Mapping[int, tuple[str, int]]
"""File name and category (-1 if unlabelled) by image id."""


def read_annotations(content: bytes, *, name: str) -> Annotations:
    """Read a COCO annotation file.

    Raises:
        DataError: The content is not JSON of this form, or an image is duplicated or does not have one category.
    """
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name} is not a JSON document: {error}") from error
    if not isinstance(document, dict):
        raise DataError(f"{name} is not an annotation file: expected a mapping with 'images'")
    files: dict[int, str] = {}
    for image in _list(document, "images", name):
        key, file = _field(image, "id", int, name), _field(image, "file_name", str, name)
        if key in files:
            raise DataError(f"{name}: the image {key} occurs twice")
        files[key] = file
    categories = set(_field(item, "id", int, name) for item in _list(document, "categories", name))
    labels: dict[int, int] = {}
    for item in _list(document, "annotations", name):
        key, category = _field(item, "image_id", int, name), _field(item, "category_id", int, name)
        if key not in files or (categories and category not in categories):
            raise DataError(f"{name}: an annotation has the image {key} and category {category}, not both are defined")
        if labels.setdefault(key, category) != category:
            raise DataError(f"{name}: the image {key} is both {labels[key]} and {category}")
    if labels and len(labels) < len(files):
        raise DataError(f"{name}: the image {min(set(files) - set(labels))} has no category")
    return {key: (file, labels.get(key, UNLABELLED)) for key, file in files.items()}


def _list(document: dict[str, Any], key: str, name: str) -> list[Any]:
    items = document.get(key, [])
    if not isinstance(items, list):
        raise DataError(f"{name}: '{key}' is not a list")
    return items


def _field(item: Any, key: str, kind: type, name: str) -> Any:
    value = item.get(key) if isinstance(item, dict) else None
    if type(value) is not kind:
        raise DataError(f"{name}: an entry has no '{key}' of the type {kind.__name__}: {str(item)[:60]}")
    return value


def _read(info: DatasetInfo, config: DataConfig) -> SampleTable:
    """Read annotations with their splits if there are any, else folders without splits."""
    tree = find_tree(info, config, _LAYOUT)
    by_split = {split: content for split, file in _SPLITS if (content := _annotations(info, tree, file)) is not None}
    notes = list(tree.notes)
    if "train" in by_split:
        rows, missing = _annotated_rows(tree, by_split)
        if missing:
            notes.append(f"{len(missing)} annotated images are missing, such as '{missing[0]}'")
        if len(missing) > config.max_bad(len(missing) + len(rows)):
            raise DataError(f"{info.name}: {notes[-1]}: {info.by_hand}")
    else:
        rows = [(_path(match), match.string, int(match["id"]), "") for match in tree.matches]
        notes.append("there is no train2019.json: labels are taken from the folders, and there are no given splits")
        notes += size_mismatch_note(info, len(rows), "train", "val")
    categories = sorted({category for _, _, category, _ in rows if category != UNLABELLED})
    if len(categories) != info.num_classes:
        raise DataError(f"{info.name} has {len(categories)} categories, expected {info.num_classes}: {info.by_hand}")
    index_of = {category: index for index, category in enumerate(categories)} | {UNLABELLED: UNLABELLED}
    group_of = {int(match["id"]): match["group"] for match in tree.matches}
    return SampleTable(
        name=info.name,
        ids=tuple(sample for sample, _, _, _ in rows),
        locations=tuple(location for _, location, _, _ in rows),
        labels=np.array([index_of[category] for _, _, category, _ in rows], dtype=np.int64),
        classes=tuple(f"{group_of.get(category, 'Species')}_{category}" for category in categories),
        source=tree.source,
        splits=tuple(split for _, _, _, split in rows) if "train" in by_split else None,
        notes=tuple(notes),
    )


def _path(match: re.Match[str]) -> str:
    return f"{match['group']}/{match['id']}/{match['name']}"


def _annotations(info: DatasetInfo, tree: ImageTree, file: str) -> Annotations | None:
    """Return the annotations of a split, from the JSON file or its official archive."""
    for location in tree.listing.files:
        if location.startswith(tree.root) and location.rpartition("/")[2] in (file, f"{file}.tar.gz"):
            if not location.endswith(".gz") or not isinstance(tree.source, FolderSource):
                return read_annotations(tree.source.content(location), name=location)
            path = tree.source.root / location
            require_official(info, path)
            return read_annotations(read_members(path, {file: _MAX_BYTES})[file], name=location)
    return None


def _annotated_rows(tree: ImageTree, by_split: Mapping[str, Annotations]) -> tuple[list[ImageRecord], list[str]]:
    """Return the rows whose images exist, and the names of missing images."""
    location_of = {_path(match): match.string for match in tree.matches}
    test_locations = {
        location.rpartition("/")[2]: location
        for location in tree.listing.files
        if location.startswith(tree.root) and "test2019/" in location
    }
    rows: list[ImageRecord] = []
    missing: list[str] = []
    for split, images in by_split.items():
        for key, (file, category) in images.items():
            name = file.removeprefix("train_val2019/")
            if split == "test":  # the test images are in a separate, optional archive
                if (location := test_locations.get(file.rpartition("/")[2])) is not None:
                    rows.append((str(key), location, category, split))
            elif category == UNLABELLED:
                raise DataError(
                    f"inaturalist: the image {key} of {split} has no category: download the annotations again"
                )
            elif name in location_of:
                rows.append((name, location_of[name], category, split))
            else:
                missing.append(name)
    return rows, missing


INATURALIST = DatasetInfo(
    name="inaturalist",
    title="iNaturalist 2019, 1,010 species, colour photos",
    page="https://github.com/visipedia/inat_comp/tree/master/2019",
    licence="for non-commercial research and education only; the images may not be redistributed",
    classes=(),
    num_classes=1010,
    counts=(("train", 265_213), ("val", 3_030), ("test", 35_350)),
    image_shape=(None, None, 3),
    read=_read,
    files=(
        RemoteFile("train2019.json.tar.gz", None, "md5:b06a6683537867c0d5c7a45f407a306d"),
        RemoteFile("val2019.json.tar.gz", None, "md5:5cc5509b0fe495f1c8c1362612448497"),
        RemoteFile("train_val2019.tar.gz", None, "md5:c60a6e2962c9b8ccbd458d12c8582644", "74 GB"),
    ),
    more_files=(
        RemoteFile("test2019.json.tar.gz", None, "md5:f3208996d9f675462cb00d2f18cbb28c", "for a submission"),
        RemoteFile("test2019.tar.gz", None, "md5:6966703cc589a877689dc8993bb3e55e", "for a submission, 8.6 GB"),
    ),
    mirrors=("https://ml-inat-competition-datasets.s3.amazonaws.com/2019",),
    layouts=(
        "the official archives, or train_val2019/<group>/<number>/*.jpg with train2019.json and val2019.json beside it",
        "that folder alone, or folders <group>_<number>, without given splits",
        "Kaggle's inaturalist-2019-fgvc6.zip",
    ),
    archives=("inaturalist-2019-fgvc6.zip", "test2019.tar.gz", "train_val2019.tar.gz"),
    entry_names=("train_val2019", "inaturalist-2019-fgvc6", "train2019.json"),
    remarks=(
        "with annotations the official validation split is kept, and a test split is held out of train unless the "
        "unlabelled test images are present",
        "the E2E-3M paper pools train and val and splits them 80:20 at random; its logs show 80:20, 90:10, about 95:5 "
        "and 97.4:2.6; for the paper's protocol remove the annotations and give --data.test-fraction 0.2",
        "the paper describes no RNN and 1,024 dense units; its logs show BiLSTMs of 2,048 and 2,048 or 4,096 units",
        "class names are folder names, such as Plants_515, where 515 is the category for a submission (id,predicted); "
        "the sample ids of test images are the ids for a submission",
    ),
)
DATASETS.register(INATURALIST.name)(INATURALIST)
