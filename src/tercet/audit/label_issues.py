"""Suspicious labels by confident learning on held-out predictions."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tercet.audit.result import LabelCheck, LabelIssue
from tercet.core.errors import ConfigError, DataError, ModelError
from tercet.core.predictions import UNKNOWN, Floats, Ints, Predictions, concatenate
from tercet.data.run_reader import CHOSEN, RunReader
from tercet.data.table import SampleTable
from tercet.ensemble.combine import average

try:
    from cleanlab.filter import find_label_issues
except ImportError:  # an extra: `pip install tercet[audit]`
    find_label_issues = None


def require_cleanlab() -> None:
    """Refuse to judge labels without cleanlab.

    Raises:
        ConfigError: It is not installed.
    """
    if find_label_issues is None:
        raise ConfigError("suspicious labels need cleanlab, which is not installed: pip install 'tercet[audit]'")


def require_one_label(table: SampleTable) -> None:
    """Refuse to judge sets of labels.

    Raises:
        ConfigError: Images have sets.
    """
    if table.membership is not None:
        raise ConfigError("suspicious labels are told of one class an image, and here are label sets: leave --run out")


def check_labels(table: SampleTable, said: Predictions, *, run: str, predictions: str) -> LabelCheck:
    """Return the labels of a table that predictions contradict.

    Args:
        table: The samples, with the labels as they are now.
        said: Predictions of some of them by networks that were not trained on them; matched by id and class name.
        run: Where the predictions are from.
        predictions: Which ones they are, in words.

    Raises:
        DataError: The predictions are of other images, or of other classes.
        ConfigError: Images have sets of labels.
    """
    require_one_label(table)
    unknown = sorted(set(said.classes) ^ set(table.classes))
    if unknown:
        raise DataError(f"{run} was trained with other classes than {table.name} has, such as '{unknown[0]}'")
    row_of = {name: row for row, name in enumerate(table.ids)}
    index_of = {name: index for index, name in enumerate(table.classes)}
    places = np.array([row_of.get(name, -1) for name in said.ids], dtype=np.int64)
    known = np.flatnonzero(places >= 0)
    known = known[table.labels[places[known]] != UNKNOWN]
    if not len(known):
        raise DataError(f"{run} predicted no labelled image of {table.name}: name a run on this very data")
    columns = np.argsort([index_of[name] for name in said.classes])
    probabilities = said.probabilities[known][:, columns]
    labels = table.labels[places[known]]
    shown = np.unique(labels)  # what no image shows cannot be judged
    shares = probabilities[:, shown]
    shares = shares / np.maximum(shares.sum(axis=1, keepdims=True), 1e-12)
    dense = np.searchsorted(shown, labels)
    worst = _worst(dense, shares) if len(shown) > 1 else np.zeros(0, dtype=np.int64)
    issues = []
    for place in worst.tolist():
        best = int(shares[place].argmax())
        issues.append(
            LabelIssue(
                id=said.ids[int(known[place])],
                label=table.classes[int(labels[place])],
                suggested=table.classes[int(shown[best])],
                own_probability=round(float(probabilities[place, labels[place]]), 4),
                suggested_probability=round(float(probabilities[place, shown[best]]), 4),
            )
        )
    return LabelCheck(run, predictions, len(known), tuple(issues))


def _worst(labels: Ints, probabilities: Floats) -> Ints:
    """Return the positions of suspicious labels, the least believed first; labels that are the answer are none."""
    require_cleanlab()
    found = find_label_issues(
        labels, probabilities, return_indices_ranked_by="self_confidence", n_jobs=1, verbose=False
    )
    positions = np.asarray(found, dtype=np.int64)
    contradicted = probabilities[positions].argmax(axis=1) != labels[positions]
    return np.asarray(positions[contradicted])


_JUDGES = ("train", "crossval", "ensemble")


def held_out_predictions(path: str | Path) -> tuple[Predictions, str]:
    """Return predictions of images that were held out, and which ones they are, in words.

    Of a cross-validation all images that a fold held out; of a training its out-of-fold predictions where the fusion
    asked for them, else those of its validation images. The test split is never used.

    Raises:
        StorageError: The folder is no run, or that of a run which is not finished.
        ModelError: It is not of a verb that leaves such predictions.
        DataError: It predicts sets of labels, or a file is damaged.
    """
    record = RunReader.open(path)
    run = record.run
    if record.kind not in _JUDGES:
        raise ModelError(f"{path} is a run of tercet {record.kind}: name a run of tercet train or tercet crossval")
    if record.is_multilabel:
        raise DataError(f"{path} predicts sets of labels, which are not judged: leave --run out")
    pooled = run.predictions(CHOSEN, "pooled")
    if pooled.is_file():
        return Predictions.load(pooled), "all images that a fold held out, by that fold's choice"
    names, chosen = [str(member["name"]) for member in record.metrics["members"]], str(record.metrics.get("chosen"))
    parts = [[fold.predictions for fold in run.member(name).folds()] for name in names]
    if all(files and all(file.is_file() for file in files) for files in parts):
        said = [concatenate([Predictions.load(file) for file in files]) for files in parts]
        return average([one.aligned_to(said[0]) for one in said]), "out-of-fold, of all training images"
    validation = run.predictions(chosen, "validation")
    if not validation.is_file():
        raise ModelError(f"{path} has no predictions of images that it held out: name another run")
    return Predictions.load(validation), f"its validation images, by {chosen}"
