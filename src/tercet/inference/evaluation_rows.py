"""Selection of the images that are scored, and their labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tercet.config.parser import CommandOptions
from tercet.config.run import DataConfig
from tercet.core.errors import ConfigError, DataError, ModelError
from tercet.core.predictions import UNKNOWN, Ints
from tercet.data.copies import with_pixels
from tercet.data.data_module import drop_unreadable, held_out_digest, prepare_data
from tercet.data.decoding import model_config
from tercet.data.image_cache import CachedImages, ImageCache
from tercet.data.load import load_table
from tercet.data.read_ahead import BadImage
from tercet.data.seen_images import SeenImages
from tercet.data.table import UNLABELLED, SampleTable

_DATA_OPTIONS = CommandOptions(DataConfig)


@dataclass(frozen=True)
class SeenCount:
    """How many of the labelled images were used in training, and whether they are scored."""

    images: int
    of: int
    scored: bool
    compared: tuple[str, ...]
    """The kinds of digests that were compared: files, pixels, or both."""

    def to_text(self) -> str:
        """Return a sentence without a stop."""
        effect = "are scored, too: the scores are optimistic" if self.scored else "are left out"
        return f"{self.images} of {self.of} images were used in training and {effect}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {**asdict(self), "compared": list(self.compared)}


class ScoredRows(NamedTuple):
    """The images to score; the labels of all other rows are `UNKNOWN`."""

    table: SampleTable
    images: CachedImages
    bad: list[BadImage]
    subset: str
    """Description of the images to score."""
    seen: SeenCount | None
    """None if the model has no digests of its training images."""


def rows_to_score(
    data: str | Path | SampleTable, card: Mapping[str, Any], config: DataConfig, *, include_seen: bool = False
) -> ScoredRows:
    """Return the images to score: the test split of the data, if they have one, else all; without those of training.

    Images of training are those that trained, validated or calibrated a part of the model. They are recognized by the
    digests in the card. Without digests, data that equal the training data are divided as in training.

    Args:
        data: Folder, table, zip or name of a data set.
        card: The card of the bundle or exported file, which describes the training data.
        config: How to read the data.
        include_seen: Score images of training, too.

    Raises:
        DataError: All images were used in training, or it cannot be determined which.
        ModelError: The record of the training data is damaged, or of an unknown version.
    """
    config = model_config(config, card)
    table, trained_on = load_table(data, config, min_classes=1), card.get("data", {})
    seen, unchanged = SeenImages.read(trained_on), trained_on.get("fingerprint") == table.fingerprint()
    has_test = table.splits is not None and "test" in table.splits
    if seen is None and not include_seen:
        if unchanged and not has_test:
            return _held_out(data, config, trained_on)
        if not unchanged and _is_training_path(data, trained_on):
            raise DataError(
                f"{data} has changed since the bundle was trained on it, and the bundle has no digests of its training "
                f"images: evaluate it on other images, or give --include-seen to score all of {data}"
            )
    if has_test:
        table = table.take(table.rows_of("test"))
    subset = "the test split of the data" if has_test else "all images"
    images, bad = ImageCache.decode(table, replace(config, find_copies="none"))
    table = drop_unreadable(table, bad)
    if seen is None:
        return ScoredRows(table, images, bad, subset, None)
    assert images.traits is not None
    return _without_seen(
        ScoredRows(with_pixels(table, images.traits), images, bad, subset, None), seen, data, include_seen=include_seen
    )


def _without_seen(
    chosen: ScoredRows, seen: SeenImages, data: str | Path | SampleTable, *, include_seen: bool
) -> ScoredRows:
    table = chosen.table
    rows = np.flatnonzero(table.labels != UNLABELLED)
    known = rows[seen.among(table, rows)]
    count = SeenCount(len(known), len(rows), include_seen, seen.kinds)
    if not len(known):
        return chosen._replace(seen=count)
    if include_seen:
        return chosen._replace(subset=f"{chosen.subset}; {count.to_text()}", seen=count)
    if len(known) == len(rows):
        raise DataError(
            f"all {len(rows)} labelled images of {data} were used in training: evaluate on other images, or give "
            "--include-seen to score them"
        )
    labels = table.labels.copy()
    labels[known] = UNKNOWN
    subset = f"{chosen.subset} that the model has not seen; {count.to_text()}"
    return chosen._replace(table=replace(table, labels=labels), subset=subset, seen=count)


def _held_out(data: str | Path | SampleTable, config: DataConfig, trained_on: Mapping[str, Any]) -> ScoredRows:
    """Return the test split that was held out of unchanged training data, for a model without digests."""
    prepared = prepare_data(data, _training_config(config, trained_on), multilabel=True)
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
    return ScoredRows(replace(table, labels=labels), prepared.images, list(prepared.bad), subset, None)


def _is_training_path(data: str | Path | SampleTable, trained_on: Mapping[str, Any]) -> bool:
    source = trained_on.get("source")
    return source is not None and (str(source) == str(data) or Path(source).resolve() == Path(str(data)).resolve())


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
        options = {"keep_copies_together": False, **trained_on["options"]}  # older versions divided copies
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
