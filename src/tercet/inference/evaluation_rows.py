"""Selection of the images that are scored, and their labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from tercet.config.parser import CommandOptions
from tercet.config.run import DataConfig
from tercet.core.errors import ConfigError, DataError, ModelError
from tercet.core.predictions import UNKNOWN, Ints
from tercet.data.data_module import drop_unreadable, held_out_digest, prepare_data, unpack_digests
from tercet.data.decoding import model_config
from tercet.data.image_cache import CachedImages, ImageCache
from tercet.data.load import load_table
from tercet.data.read_ahead import BadImage
from tercet.data.table import UNLABELLED, SampleTable

_DATA_OPTIONS = CommandOptions(DataConfig)
SeenPolicy = Literal["refuse", "include", "ignore"]
"""Images that were used in training raise an error (refuse), are scored with a note (include), or are not detected."""


def rows_to_score(
    data: str | Path | SampleTable, card: Mapping[str, Any], config: DataConfig, *, seen: SeenPolicy = "refuse"
) -> tuple[SampleTable, CachedImages, list[BadImage], str]:
    """Return the table, its decoded images, the unreadable images, and a description of the images to score.

    The labels of all other rows are `UNKNOWN`.

    Args:
        data: Folder, table, zip or name of a data set.
        card: The card of the bundle or exported file, which describes the training data.
        config: How to read the data.
        seen: Treatment of images that were used in training; "include" scores all images of the training data.

    Raises:
        DataError: Images were used in training and `seen` is "refuse", or the held-out split cannot be reproduced.
        ModelError: The record of the training data is damaged, or of an unknown version.
    """
    config = model_config(config, card)
    table, trained_on = load_table(data, config, min_classes=1), card.get("data", {})
    if table.splits is not None and "test" in table.splits:
        test = table.take(table.rows_of("test"))
        overlap = _training_overlap(test, trained_on, data) if seen != "ignore" else ""
        if overlap and seen == "refuse" and trained_on.get("fingerprint") == table.fingerprint():
            overlap = ""  # same splits as in training: the data themselves have copies in several splits
        return _decoded(test, data, config, "the test split of the data", overlap, seen)
    if seen == "include" or trained_on.get("fingerprint") != table.fingerprint():
        overlap = _training_overlap(table, trained_on, data) if seen != "ignore" else ""
        return _decoded(table, data, config, "all images", overlap, seen)
    config = _training_config(config, trained_on)
    prepared = prepare_data(data, config, multilabel=True)
    table, held_out = prepared.table, prepared.rows("test")
    if held_out_digest(table) != trained_on.get("held_out"):
        raise DataError(
            f"the bundle was trained on {data}, and its held-out images cannot be determined (a fold of a "
            "cross-validation, or another version): evaluate it on other images, or give --include-seen"
        )
    if not len(held_out):
        raise DataError(
            f"the bundle was trained on all of {data}, and nothing was held out: evaluate it on other images, or "
            "give --include-seen"
        )
    labels = np.full(len(table), UNKNOWN)
    labels[held_out] = table.labels[held_out]
    subset = "the test split that was held out when the bundle was trained on this data"
    return replace(table, labels=labels), prepared.images, list(prepared.bad), subset


def _decoded(
    table: SampleTable, data: str | Path | SampleTable, config: DataConfig, subset: str, overlap: str, seen: SeenPolicy
) -> tuple[SampleTable, CachedImages, list[BadImage], str]:
    if overlap and seen == "refuse":
        raise DataError(f"{overlap}: evaluate it on other images, or give --include-seen to score all of {data}")
    images, bad = ImageCache.decode(table, config)
    return drop_unreadable(table, bad), images, bad, f"{subset}; {overlap}" if overlap else subset


def _training_overlap(table: SampleTable, trained_on: Mapping[str, Any], data: str | Path | SampleTable) -> str:
    """Describe the overlap of the labelled images with the training and validation images; empty if there is none.

    Images are compared by their bytes. Bundles of version 0.1.0 record only the path of their data.
    """
    rows = np.flatnonzero(table.labels != UNLABELLED)
    if "seen" not in trained_on:
        source = trained_on.get("source")
        same = source is not None and (str(source) == str(data) or Path(source).resolve() == Path(str(data)).resolve())
        return f"{data} has changed since the bundle was trained on it" if same else ""
    try:
        digests = unpack_digests(trained_on["seen"])
    except (TypeError, ValueError) as error:
        raise ModelError(f"the bundle's list of training images cannot be read: {error}") from error
    count = sum(digest in digests for digest in table.digests(rows))
    return f"{count} of {len(rows)} images of {data} were used in training" if count else ""


def require_same_task(data: str | Path | SampleTable, table: SampleTable, model: str, *, multilabel: bool) -> None:
    """Raise a DataError if only one of data and model is multi-label.

    Args:
        data: Name of the data in messages.
        table: The data.
        model: Name of the model in messages.
        multilabel: Whether the model is multi-label.
    """
    if (table.membership is not None) == multilabel:
        return
    kinds = ("one class per image", "label sets")
    raise DataError(
        f"{data} has {kinds[not multilabel]}, and {model} predicts {kinds[multilabel]}: see --data.label-columns, "
        "--data.label-separator and --data.task"
    )


def _training_config(config: DataConfig, trained_on: Mapping[str, Any]) -> DataConfig:
    """Return `config` with the groups and fractions with which the training data were split.

    Raises:
        ModelError: The bundle records options that this version does not have.
    """
    try:
        options = dict(trained_on["options"])
        return _DATA_OPTIONS.parse_object({"data": options}, base=[config]).of(DataConfig)
    except (ConfigError, KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"this version cannot reproduce the split of the bundle's training data ({error}): evaluate it on other "
            "images, or with the version of tercet that wrote it"
        ) from error


_MAX_NAMES = 5  # in a message


class KnownRows(NamedTuple):
    """The rows of a table with labels of a model, whose K classes or labels number them."""

    rows: Ints
    """N row indices of the table."""
    truth: Ints
    """N class indices; or N K of a multi-label table, 1 for the labels of an image, otherwise 0."""
    missing: tuple[str, ...]
    """Classes of the model without images in the table."""
    extra: dict[str, int]
    """Number of images per class of the table that the model does not have."""


def known_rows(table: SampleTable, classes: Sequence[str]) -> KnownRows:
    """Return the rows whose class is one of the model's `classes`; of a multi-label table, those with label sets.

    Raises:
        DataError: There are none, or a multi-label table has none of the model's labels.
    """
    if table.membership is not None:
        return _known_label_sets(table, classes)
    names, index = table.label_names(), {name: position for position, name in enumerate(classes)}
    extra = Counter(name for name in names if name and name not in index)
    rows = np.array([row for row, name in enumerate(names) if name in index], dtype=np.int64)
    if not len(rows):
        raise _no_labels_error(table, sorted({name for name in names if name}), classes, what="classes")
    truth = np.array([index[names[row]] for row in rows], dtype=np.int64)
    missing = tuple(np.array(classes, dtype=object)[np.bincount(truth, minlength=len(classes)) == 0])
    return KnownRows(rows, truth, missing, dict(extra))


def _known_label_sets(table: SampleTable, classes: Sequence[str]) -> KnownRows:
    rows = np.flatnonzero(table.labels != UNLABELLED)
    used = table.classes_in(rows)
    columns = {name: column for column, name in enumerate(table.classes) if column in used}
    if not columns.keys() & set(classes):
        raise _no_labels_error(table, columns, classes, what="labels")
    targets = table.targets(rows)
    truth = np.zeros((len(rows), len(classes)), dtype=np.int64)
    for index, name in enumerate(classes):
        if name in columns:
            truth[:, index] = targets[:, columns[name]]
    missing = tuple(name for name in classes if name not in columns)
    extra = {name: int((targets[:, column] == 1).sum()) for name, column in columns.items() if name not in classes}
    return KnownRows(rows, truth, missing, extra)


def _no_labels_error(table: SampleTable, names: Iterable[str], classes: Sequence[str], *, what: str) -> DataError:
    return DataError(
        f"{table.name}: no image has a label of the model (labels: {_listing([*names]) or 'none'}; "
        f"the model: {_listing(classes)}); {what} are matched by name"
    )


def _listing(names: Sequence[str]) -> str:
    return ", ".join(names[:_MAX_NAMES]) + (", ..." if len(names) > _MAX_NAMES else "")
