"""How good an exported file is: `tercet evaluate model.onnx DATA`. N images, M members, K classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tercet.data.store import Store
from tercet.deploy.exported import ExportedModel, as_colour
from tercet.evaluation.calibration import kept_promises
from tercet.evaluation.metrics import score
from tercet.evaluation.report import ResultRow
from tercet.ground.errors import ConfigError, DataError
from tercet.records.config import DataConfig
from tercet.records.predictions import Floats, Ints, Predictions
from tercet.workflows.infer.classifying import calibration_of, refuse_options
from tercet.workflows.infer.held_out import rows_to_score
from tercet.workflows.infer.run import Evaluation, known_rows


def evaluate_file(
    file: str | Path,
    data: str | Path,
    *,
    config: DataConfig | None = None,
    tta: str | None = None,
    batch_size: int = 64,
    device: str = "auto",
) -> Evaluation:
    """Measure an exported file on labelled images, as `tercet.workflows.infer.run.evaluate` measures a bundle.

    Raises:
        ConfigError: Views or a device were asked for, or the file answers with sets of labels.
        DataError: No image has a label of a class that the file knows.
        ModelError: It is no exported file, or was changed.
    """
    refuse_options(tta, device)
    model = ExportedModel.load(file)
    if model.sets:
        raise ConfigError(f"{file} answers with sets of labels: evaluate the bundle that it was exported from")
    table, store, bad, subset = rows_to_score(data, model.metadata.get("card", {}), config or DataConfig())
    if table.membership is not None:
        raise DataError(f"{data} holds sets of labels, {file} tells one class an image")
    known = known_rows(table, model.classes)
    fused, stack = _asked(model, store, known.rows, batch_size)

    def said(values: Floats) -> Predictions:
        shares = values / values.sum(axis=1, keepdims=True)
        return Predictions.of(shares, ids=known.ids, classes=model.classes, labels=known.labels)

    answers = said(fused)
    rows = [ResultRow(model.name, "ensemble" if stack.shape[1] > 1 else "member", score(answers))]
    if stack.shape[1] > 1:
        rows += [
            ResultRow(name, "member", score(said(stack[:, place]))) for place, name in enumerate(model.member_names)
        ]
    calibration = calibration_of(model)
    promises = {} if calibration is None else kept_promises(answers, calibration)
    return Evaluation(tuple(rows), answers, None, known.missing, known.extra, tuple(bad), subset, promises)


def _asked(model: ExportedModel, store: Store, rows: Ints, size: int) -> tuple[Floats, Floats]:
    """Return what the file says of rows of a store: N K, and N M K; only images of one size are asked together."""
    fused = np.zeros((len(rows), len(model.classes)))
    stack = np.zeros((len(rows), len(model.member_names), len(model.classes)))
    waiting: list[tuple[int, np.ndarray]] = []

    def ask() -> None:
        places = [place for place, _ in waiting]
        output = model.run(np.stack([picture for _, picture in waiting]))
        fused[places], stack[places] = output.probabilities, output.members
        waiting.clear()

    for place, row in enumerate(rows):
        picture = as_colour(np.asarray(store.read(int(row))))
        if waiting and (len(waiting) == size or waiting[0][1].shape != picture.shape):
            ask()
        waiting.append((place, picture))
    ask()
    return fused, stack
