"""What a run said of images that it was not trained on, which is what can judge their labels."""

from __future__ import annotations

from pathlib import Path

from tercet.evaluation.combining import average
from tercet.ground.errors import DataError, ModelError
from tercet.records.predictions import Predictions, join
from tercet.workflows.report.record import CHOSEN, Record

_JUDGES = ("train", "crossval", "ensemble")


def unseen_predictions(path: str | Path) -> tuple[Predictions, str]:
    """Return predictions of images that were held out, and which ones they are, in words.

    Of a cross-validation all images that a fold held out; of a training its out-of-fold predictions where the fusion
    asked for them, else those of its validation images. The test split is never used.

    Raises:
        StorageError: The folder is no run, or that of a run which is not finished.
        ModelError: It is not of a verb that leaves such predictions.
        DataError: It predicts sets of labels, or a file is damaged.
    """
    record = Record.open(path)
    run = record.run
    if record.kind not in _JUDGES:
        raise ModelError(f"{path} is a run of tercet {record.kind}: name a run of tercet train or tercet crossval")
    if record.sets:
        raise DataError(f"{path} predicts sets of labels, which are not judged: leave --run out")
    pooled = run.predictions(CHOSEN, "pooled")
    if pooled.is_file():
        return Predictions.load(pooled), "all images that a fold held out, by that fold's choice"
    names, chosen = [str(member["name"]) for member in record.document["members"]], str(record.document.get("chosen"))
    parts = [[fold.predictions for fold in run.member(name).folds()] for name in names]
    if all(files and all(file.is_file() for file in files) for files in parts):
        said = [join([Predictions.load(file) for file in files]) for files in parts]
        return average([one.aligned_to(said[0]) for one in said]), "out-of-fold, of all training images"
    validation = run.predictions(chosen, "validation")
    if not validation.is_file():
        raise ModelError(f"{path} has no predictions of images that it held out: name another run")
    return Predictions.load(validation), f"its validation images, by {chosen}"
