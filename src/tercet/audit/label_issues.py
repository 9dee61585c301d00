"""Likely label errors by confident learning (cleanlab) on held-out predictions."""

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
    """Raise ConfigError if cleanlab is not installed."""
    if find_label_issues is None:
        raise ConfigError("checking labels with --run requires cleanlab: pip install 'tercet[audit]'")


def require_single_label(table: SampleTable) -> None:
    """Raise ConfigError if images may have several labels."""
    if table.membership is not None:
        raise ConfigError("labels of multi-label data cannot be checked with predictions: omit --run")


def check_labels(table: SampleTable, predictions: Predictions, *, run: str, description: str) -> LabelCheck:
    """Return the labels of a table that contradict held-out predictions.

    Args:
        table: The samples, with the labels to check.
        predictions: Held-out predictions of some of them; matched by id and class name.
        run: Run folder of the predictions, for the report.
        description: Which predictions they are, for the report.

    Raises:
        DataError: The predictions have other images or classes.
        ConfigError: The data are multi-label.
    """
    require_single_label(table)
    different = sorted(set(predictions.classes) ^ set(table.classes))
    if different:
        raise DataError(f"{run} was trained with other classes than {table.name} has, such as '{different[0]}'")
    row_of = {name: row for row, name in enumerate(table.ids)}
    column_of = {name: column for column, name in enumerate(table.classes)}
    rows = np.array([row_of.get(name, -1) for name in predictions.ids], dtype=np.int64)
    known = np.flatnonzero(rows >= 0)
    known = known[table.labels[rows[known]] != UNKNOWN]
    if not len(known):
        raise DataError(f"{run} has no predictions of labelled images of {table.name}: give a run on this data")
    order = np.argsort([column_of[name] for name in predictions.classes])
    probabilities = predictions.probabilities[known][:, order]
    labels = table.labels[rows[known]]
    present = np.unique(labels)  # cleanlab needs at least one image per class
    scores = probabilities[:, present]
    scores = scores / np.maximum(scores.sum(axis=1, keepdims=True), 1e-12)
    dense = np.searchsorted(present, labels)
    suspicious = _issues(dense, scores) if len(present) > 1 else np.zeros(0, dtype=np.int64)
    issues = []
    for index in suspicious.tolist():
        best = int(scores[index].argmax())
        issues.append(
            LabelIssue(
                id=predictions.ids[int(known[index])],
                label=table.classes[int(labels[index])],
                suggested=table.classes[int(present[best])],
                own_probability=round(float(probabilities[index, labels[index]]), 4),
                suggested_probability=round(float(probabilities[index, present[best]]), 4),
            )
        )
    return LabelCheck(run, description, len(known), tuple(issues))


def _issues(labels: Ints, probabilities: Floats) -> Ints:
    """Return the positions of likely label errors, the lowest self-confidence first."""
    require_cleanlab()
    ranked = find_label_issues(
        labels, probabilities, return_indices_ranked_by="self_confidence", n_jobs=1, verbose=False
    )
    positions = np.asarray(ranked, dtype=np.int64)
    # cleanlab may also report labels that are the predicted class
    contradicted = probabilities[positions].argmax(axis=1) != labels[positions]
    return np.asarray(positions[contradicted])


_RUN_KINDS = ("train", "crossval", "ensemble")


def held_out_predictions(path: str | Path) -> tuple[Predictions, str]:
    """Return held-out predictions of a run and their description.

    These are, in this order of preference: the pooled predictions of a cross-validation, averaged out-of-fold
    predictions of the training images, or predictions of the validation images. The test split is never used.

    Raises:
        StorageError: The folder is not a run, or the run is not finished.
        ModelError: The run has no such predictions.
        DataError: The run is multi-label, or a file is damaged.
    """
    reader = RunReader.open(path)
    run = reader.run
    if reader.kind not in _RUN_KINDS:
        raise ModelError(f"{path} is a run of tercet {reader.kind}: give a run of tercet train or tercet crossval")
    if reader.is_multilabel:
        raise DataError(f"{path} is a multi-label run, whose predictions cannot check labels: omit --run")
    pooled = run.predictions(CHOSEN, "pooled")
    if pooled.is_file():
        return Predictions.load(pooled), "all images, each predicted by the fold that held it out"
    names = [str(member["name"]) for member in reader.metrics["members"]]
    chosen = str(reader.metrics.get("chosen"))
    parts = [[fold.predictions for fold in run.member(name).folds()] for name in names]
    if all(files and all(file.is_file() for file in files) for files in parts):
        members = [concatenate([Predictions.load(file) for file in files]) for files in parts]
        return average([member.aligned_to(members[0]) for member in members]), "out-of-fold, of all training images"
    validation = run.predictions(chosen, "validation")
    if not validation.is_file():
        raise ModelError(f"{path} has no held-out predictions: give another run")
    return Predictions.load(validation), f"its validation images, predicted by {chosen}"
