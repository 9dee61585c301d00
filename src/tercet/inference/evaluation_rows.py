"""Which images are scored, and their known labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tercet.config.parser import CommandOptions
from tercet.config.run import DataConfig
from tercet.core.errors import ConfigError, DataError, ModelError
from tercet.core.predictions import UNKNOWN, Ints
from tercet.data.data_module import drop_unreadable, held_out_digest, prepare_data, unpack_digests
from tercet.data.image_cache import BadImage, CachedImages, ImageCache
from tercet.data.load import load_table
from tercet.data.table import UNLABELLED, SampleTable

_DIVISION = CommandOptions("data", groups=[("", DataConfig)])
Seen = Literal["refuse", "include", "ignore"]
"""What is done where images to score were used in training: refuse, score them on request, or not look."""


def rows_to_score(
    data: str | Path, card: Mapping[str, Any], config: DataConfig, *, seen: Seen = "refuse"
) -> tuple[SampleTable, CachedImages, list[BadImage], str]:
    """Return the table whose rows are the store's, with all rows unlabelled that are not to be scored.

    Args:
        data: Folder, table, zip or name of a data set.
        card: The bundle's, or that of a file exported from it, which tells what it was trained on.
        config: How to read the data.
        seen: What is done with images that were used in training; "include" scores all images of the training data.

    Raises:
        DataError: Images were used in training and are not to be included, or the held-out ones cannot be found again.
        ModelError: The bundle records its data in a way that this version does not understand.
    """
    table, trained_on = load_table(data, config, min_classes=1), card.get("data", {})
    if table.splits is not None and "test" in table.splits:
        part = table.take(table.rows_of("test"))
        found = _seen_in(part, trained_on, data) if seen != "ignore" else ""
        if found and seen == "refuse" and trained_on.get("fingerprint") == table.fingerprint():
            found = ""  # divided as in training: copies among its own splits are the data's
        return _decoded(part, data, config, "the data's own test split", found, seen)
    if seen == "include" or trained_on.get("fingerprint") != table.fingerprint():
        found = _seen_in(table, trained_on, data) if seen != "ignore" else ""
        return _decoded(table, data, config, "all images", found, seen)
    config = _as_divided(config, trained_on)
    prepared = prepare_data(data, config, multilabel=True)
    table, held_out = prepared.table, prepared.rows("test")
    if held_out_digest(table) != trained_on.get("held_out"):
        raise DataError(
            f"the bundle was trained on {data}, and the images that were held out cannot be told from the others any "
            "more (a fold of a cross-validation, or read by another version): evaluate it on other images, or give "
            "--include-seen"
        )
    if not len(held_out):
        raise DataError(
            f"the bundle was trained on all of {data}, and nothing was held out: evaluate it on other images, or give "
            "--include-seen to score images that it was trained on"
        )
    scored = np.full(len(table), UNKNOWN)
    scored[held_out] = table.labels[held_out]
    subset = "the test split that was held out when the bundle was trained on this data"
    return replace(table, labels=scored), prepared.images, list(prepared.bad), subset


def _decoded(
    table: SampleTable, data: str | Path, config: DataConfig, subset: str, found: str, seen: Seen
) -> tuple[SampleTable, CachedImages, list[BadImage], str]:
    if found and seen == "refuse":
        raise DataError(f"{found}: evaluate it on other images, or give --include-seen to score all of {data}")
    store, bad = ImageCache.decode(table, config)
    return drop_unreadable(table, bad), store, bad, f"{subset}; {found}" if found else subset


def _seen_in(table: SampleTable, trained_on: Mapping[str, Any], data: str | Path) -> str:
    """Return which labelled images trained or chose the model, in words; empty where none did, or nothing is known.

    Images are compared by their stored bytes. A bundle of version 0.1.0 records only where its images were.
    """
    rows = np.flatnonzero(table.labels != UNLABELLED)
    if "seen" not in trained_on:
        source = trained_on.get("source")
        same = source is not None and (str(source) == str(data) or Path(source).resolve() == Path(data).resolve())
        return f"{data} has changed since the bundle was trained on it" if same else ""
    try:
        known = unpack_digests(trained_on["seen"])
    except (TypeError, ValueError) as error:
        raise ModelError(f"the bundle's list of training images cannot be read: {error}") from error
    count = sum(digest in known for digest in table.digests(rows))
    return f"{count} of {len(rows)} images of {data} were used in training" if count else ""


def require_same_task(data: str | Path, table: SampleTable, model: str | Path, *, sets: bool) -> None:
    """Refuse data that tell sets of labels where the model tells one class an image, and the other way round.

    Args:
        data: How the user called the data.
        table: What was read of them.
        model: How the model is called in messages.
        sets: Whether it answers with sets of labels.

    Raises:
        DataError: They are of different kinds.
    """
    if (table.membership is not None) == sets:
        return
    kinds = ("one class an image", "sets of labels")
    raise DataError(
        f"{data} holds {kinds[not sets]}, and {model} tells {kinds[sets]}: see --data.label-columns, "
        "--data.label-separator"
    )


def _as_divided(config: DataConfig, trained_on: Mapping[str, Any]) -> DataConfig:
    """Return `config` with groups and fractions as they were when a bundle's data were divided.

    Raises:
        ModelError: The bundle tells of options that there are not, as one of a later version may.
    """
    try:
        return _DIVISION.parse_object(trained_on["options"], base=[config]).of(DataConfig)
    except (ConfigError, KeyError, AttributeError) as error:
        raise ModelError(
            f"the bundle does not tell how its data were divided in a way that this version understands ({error}): "
            "evaluate it on other images, or with the version that made it"
        ) from error


_TOLD = 5  # names in a message


@dataclass(frozen=True, eq=False)
class KnownRows:
    """The rows of a table that a model knows, as it numbers its K classes or labels."""

    rows: Ints
    """N positions in the table."""
    ids: tuple[str, ...]
    """N names of the images."""
    truth: Ints
    """N classes; or N K, 1 for the labels that an image has and 0 for the others."""
    missing: tuple[str, ...]
    """What the model knows and the table does not show."""
    extra: dict[str, int]
    """What the table shows and the model does not know, and the number of its images."""


def known_rows(table: SampleTable, classes: Sequence[str]) -> KnownRows:
    """Return the rows whose class the model knows.

    Raises:
        DataError: There is none.
    """
    names, index = table.label_names(), {name: position for position, name in enumerate(classes)}
    extra: dict[str, int] = {}
    for name in names:
        if name and name not in index:
            extra[name] = extra.get(name, 0) + 1
    known = np.array([row for row, name in enumerate(names) if name in index], dtype=np.int64)
    if not len(known):
        raise _nothing_known(table, sorted({name for name in names if name}), classes, what="classes")
    truth = np.array([index[names[row]] for row in known], dtype=np.int64)
    missing = tuple(np.array(classes, dtype=object)[np.bincount(truth, minlength=len(classes)) == 0])
    return KnownRows(known, tuple(table.ids[row] for row in known), truth, missing, extra)


def known_sets(table: SampleTable, classes: Sequence[str]) -> KnownRows:
    """Return the rows whose sets of labels are known.

    Raises:
        DataError: The table shows no label that the model knows.
    """
    known = np.flatnonzero(table.labels != UNLABELLED)
    shown = table.classes_in(known)
    place = {name: column for column, name in enumerate(table.classes) if column in shown}
    if not place.keys() & set(classes):
        raise _nothing_known(table, place, classes, what="labels")
    given = table.targets(known)
    truth = np.zeros((len(known), len(classes)), dtype=np.int64)
    for column, name in enumerate(classes):
        if name in place:
            truth[:, column] = given[:, place[name]]
    missing = tuple(name for name in classes if name not in place)
    extra = {name: int((given[:, column] == 1).sum()) for name, column in place.items() if name not in classes}
    return KnownRows(known, tuple(table.ids[row] for row in known), truth, missing, extra)


def _nothing_known(table: SampleTable, shown: Iterable[str], classes: Sequence[str], *, what: str) -> DataError:
    return DataError(
        f"{table.name}: no image has a label that the model knows (labels: {_first([*shown]) or 'none'}; "
        f"the model: {_first(classes)}); {what} are matched by name"
    )


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:_TOLD]) + (", ..." if len(names) > _TOLD else "")
