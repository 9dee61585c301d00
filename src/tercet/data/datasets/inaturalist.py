"""iNaturalist 2019: 1,010 species, by COCO-style annotations or by folders."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tercet.config.run import DataConfig
from tercet.core.archives import read_members
from tercet.core.errors import DataError
from tercet.data.datasets.download import RemoteFile
from tercet.data.datasets.info import DatasetInfo, check
from tercet.data.datasets.locate import ImageTree, find_tree, size_mismatch_note
from tercet.data.readers.formats import Annotations, read_annotations
from tercet.data.sources import FolderSource
from tercet.data.table import UNLABELLED, SampleTable

_LARGEST = 1 << 29  # bytes of an annotation file
_SPLITS = (("train", "train2019.json"), ("val", "val2019.json"), ("test", "test2019.json"))
_LAYOUT = re.compile(
    r"^(?P<root>(?:[^/]+/)*?)(?:train_val2019/)*(?P<group>[A-Z][a-z]+)[/_](?P<id>\d{1,4})/(?P<name>[^/]+\.jpe?g)$"
)

ImageRecord = tuple[str, str, int, str]
"""Id, location, category (-1 where unlabelled) and split."""


def _read(card: DatasetInfo, config: DataConfig) -> SampleTable:
    """Read by annotations where there are any, with their splits; else by folders, all images together."""
    tree = find_tree(card, config, _LAYOUT)
    annotated = {split: found for split, file in _SPLITS if (found := _annotations(card, tree, file)) is not None}
    notes = list(tree.notes)
    if "train" in annotated:
        rows, missing = _annotated_rows(tree, annotated)
        if missing:
            notes.append(f"{len(missing)} annotated images are not there, such as '{missing[0]}'")
        if len(missing) > config.max_bad_fraction * (len(missing) + len(rows)):
            raise DataError(f"{card.name}: {notes[-1]}: {card.by_hand}")
    else:
        rows = [(_path(match), match.string, int(match["id"]), "") for match in tree.matches]
        notes.append("there is no train2019.json: the images are taken from their folders, without given splits")
        notes += size_mismatch_note(card, len(rows), "train", "val")
    categories = sorted({category for _, _, category, _ in rows if category != UNLABELLED})
    if len(categories) != card.num_classes:
        raise DataError(f"{card.name} has {len(categories)} categories, expected {card.num_classes}: {card.by_hand}")
    index_of = {category: index for index, category in enumerate(categories)} | {UNLABELLED: UNLABELLED}
    group_of = {int(match["id"]): match["group"] for match in tree.matches}
    return SampleTable(
        name=card.name,
        ids=tuple(sample for sample, _, _, _ in rows),
        locations=tuple(location for _, location, _, _ in rows),
        labels=np.array([index_of[category] for _, _, category, _ in rows], dtype=np.int64),
        classes=tuple(f"{group_of.get(category, 'Species')}_{category}" for category in categories),
        source=tree.source,
        splits=tuple(split for _, _, _, split in rows) if "train" in annotated else None,
        notes=tuple(notes),
    )


def _path(match: re.Match[str]) -> str:
    return f"{match['group']}/{match['id']}/{match['name']}"


def _annotations(card: DatasetInfo, tree: ImageTree, file: str) -> Annotations | None:
    """Return the annotations of a split: from the JSON file, or from its official archive."""
    for location in tree.listing.files:
        if location.startswith(tree.root) and location.rpartition("/")[2] in (file, f"{file}.tar.gz"):
            content = _content(card, tree, location, file)
            return read_annotations(content, name=location)
    return None


def _content(card: DatasetInfo, tree: ImageTree, location: str, file: str) -> bytes:
    if not location.endswith(".gz") or not isinstance(tree.source, FolderSource):
        return tree.source.content(location)
    path = Path(tree.source.root) / location
    check(card, next(one for one in (*card.files, *card.more_files) if one.name == f"{file}.tar.gz"), path)
    found = read_members(path, {file: _LARGEST})
    if file not in found:
        raise DataError(f"{path} holds no {file}: get it again")
    return found[file]


def _annotated_rows(tree: ImageTree, annotated: dict[str, Annotations]) -> tuple[list[ImageRecord], list[str]]:
    """Return the rows whose images are there, and the names of the others."""
    location_of = {_path(match): match.string for match in tree.matches}
    location_of |= {
        f"test2019/{location.rpartition('/')[2]}": location
        for location in tree.listing.files
        if location.startswith(tree.root) and "test2019/" in location
    }
    rows: list[ImageRecord] = []
    missing: list[str] = []
    for split, key, file, category in _entries(annotated):
        location = location_of.get(file)
        if location is not None:
            rows.append((str(key) if split == "test" else file, location, category, split))
        elif split != "test":  # the test images come in an archive of their own
            missing.append(file)
    return rows, missing


def _entries(annotated: dict[str, Annotations]) -> Iterator[tuple[str, int, str, int]]:
    """Yield split, image number, file without the archive's folder, and category."""
    for split, found in annotated.items():
        for key, file in found.files.items():
            name = file if split == "test" else file.removeprefix("train_val2019/")
            if split != "test" and key not in found.labels:
                raise DataError(f"inaturalist: {split} has no category for the image {key}: get the annotations again")
            yield split, key, name if "/" in name else f"test2019/{name}", found.labels.get(key, UNLABELLED)


INATURALIST = DatasetInfo(
    name="inaturalist",
    title="iNaturalist 2019, 1,010 species, colour photos",
    page="https://github.com/visipedia/inat_comp/tree/master/2019",
    licence="for non-commercial research and education only; the images may not be passed on",
    classes=(),
    num_classes=1010,
    counts=(("train", 265_213), ("val", 3_030), ("test", 35_350)),
    image_shape=(None, None, 3),
    read=_read,
    files=(
        RemoteFile("train2019.json.tar.gz", None, "b06a6683537867c0d5c7a45f407a306d", None),
        RemoteFile("val2019.json.tar.gz", None, "5cc5509b0fe495f1c8c1362612448497", None),
        RemoteFile("train_val2019.tar.gz", None, "c60a6e2962c9b8ccbd458d12c8582644", None, "74 GB"),
    ),
    more_files=(
        RemoteFile("test2019.json.tar.gz", None, "f3208996d9f675462cb00d2f18cbb28c", None, "for a submission"),
        RemoteFile("test2019.tar.gz", None, "6966703cc589a877689dc8993bb3e55e", None, "for a submission, 8.6 GB"),
    ),
    mirrors=("https://ml-inat-competition-datasets.s3.amazonaws.com/2019",),
    layouts=(
        "the official archives, or train_val2019/<group>/<number>/*.jpg with train2019.json and val2019.json beside it",
        "that folder alone, or folders <group>_<number>: then there are no given splits",
        "Kaggle's inaturalist-2019-fgvc6.zip",
    ),
    archives=("inaturalist-2019-fgvc6.zip", "test2019.tar.gz", "train_val2019.tar.gz"),
    tops=("train_val2019", "inaturalist-2019-fgvc6", "train2019.json"),
    remarks=(
        "with annotations the official validation split is kept, and a test split is held out of train unless the "
        "unlabelled test images are there",
        "the E2E-3M paper pools train and val and splits them 80:20 at random; its logs show 80:20, 90:10, about 95:5 "
        "and 97.4:2.6: for the paper's protocol leave the annotations away and give --data.test-fraction 0.2",
        "the paper says no RNN and 1,024 dense units; its logs show BiLSTMs of 2,048 and 2,048 or 4,096 units",
        "a class is named after its folder, such as Plants_515: the number is its place in the list and the category "
        "that a submission (id,predicted) wants; the ids of test images are the numbers that it wants",
    ),
)
