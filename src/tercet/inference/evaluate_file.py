"""Evaluation of ONNX files. Shapes: N images, M members, K classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tercet.config.run import DataConfig
from tercet.core.multilabel import LabelMatrix, MultilabelPredictions
from tercet.core.predictions import Floats, Ints, Predictions
from tercet.data.image_cache import BadImage, CachedImages
from tercet.data.table import SampleTable
from tercet.ensemble.calibrate import check_coverage
from tercet.ensemble.multilabel import MultilabelRule
from tercet.inference.evaluation_rows import known_label_sets, known_rows, require_same_task, rows_to_score
from tercet.inference.multilabel import MultilabelEvaluation, MultilabelMemberOutput, score_rows
from tercet.inference.onnx_model import OnnxModel
from tercet.inference.outputs import in_batches
from tercet.inference.predict import Evaluation
from tercet.inference.predict_file import calibration_of, reject_options
from tercet.metrics.classification import score
from tercet.metrics.tables import ResultRow

_GREEDY = "the file decodes labels greedily; the bundle uses beam search, and its labels may differ"


def evaluate_file(
    file: str | Path,
    data: str | Path,
    *,
    config: DataConfig | None = None,
    tta: str | None = None,
    include_seen: bool = False,
    batch_size: int = 64,
    device: str = "auto",
) -> Evaluation | MultilabelEvaluation:
    """Evaluate an ONNX file on labelled images; see `tercet.inference.predict.evaluate`.

    Raises:
        ConfigError: TTA or a device other than the CPU is given.
        DataError: No image has a class of the model, images were used in training, or only one of data and model is
            multi-label.
        ModelError: The file is not an exported model, or was changed.
    """
    reject_options(tta, device)
    model = OnnxModel.load(file)
    table, images, bad, subset = rows_to_score(
        data,
        model.metadata.get("card", {}),
        config or DataConfig(),
        seen="include" if include_seen else "refuse",
    )
    require_same_task(data, table, file, sets=model.sets)
    if model.sets:
        return _evaluate_multilabel(model, table, images, bad, subset, batch_size)
    labelled = known_rows(table, model.classes)
    outputs = _run(model, images, labelled.rows, batch_size)

    def predictions(values: Floats) -> Predictions:
        probabilities = values / values.sum(axis=1, keepdims=True)
        return Predictions.of(probabilities, ids=labelled.ids, classes=model.classes, labels=labelled.truth)

    combined, several = predictions(outputs.combined), len(model.member_names) > 1
    rows = [ResultRow(model.name, "ensemble" if several else "member", score(combined), parameters=model.parameters)]
    if several:
        rows += [
            ResultRow(name, "member", score(predictions(outputs.members[:, index])), parameters=count)
            for index, (name, count) in enumerate(zip(model.member_names, model.member_parameters, strict=True))
        ]
    calibration = calibration_of(model)
    guarantees = {} if calibration is None else check_coverage(combined, calibration)
    return Evaluation(tuple(rows), combined, None, labelled.missing, labelled.extra, tuple(bad), subset, guarantees)


def _evaluate_multilabel(
    model: OnnxModel, table: SampleTable, images: CachedImages, bad: Sequence[BadImage], subset: str, batch_size: int
) -> MultilabelEvaluation:
    labelled = known_label_sets(table, model.classes)
    rule = MultilabelRule.from_dict(model.metadata["sets"], len(model.member_names))
    outputs = _run(model, images, labelled.rows, batch_size)

    def predictions(scores: Floats, chosen: LabelMatrix) -> MultilabelPredictions:
        truth = labelled.truth.astype(np.int8)
        return MultilabelPredictions(labelled.ids, model.classes, scores.clip(0.0, 1.0), chosen, truth)

    members = [
        # float32, as in the file
        MultilabelMemberOutput(name, predictions(scores, scores > np.float32(threshold)), count)
        for name, scores, threshold, count in zip(
            model.member_names,
            np.moveaxis(outputs.members, 1, 0),
            rule.thresholds,
            model.member_parameters,
            strict=True,
        )
    ]
    combined = MultilabelMemberOutput(model.name, predictions(outputs.combined, outputs.chosen), model.parameters)
    note = _GREEDY if model.metadata["sets"].get("search") == "greedy" else None
    return score_rows(combined, members, labelled, bad, subset, note=note)


@dataclass(frozen=True, eq=False)
class _Outputs:
    """Outputs of a model for N images."""

    combined: Floats
    """N K."""
    members: Floats
    """N M K."""
    chosen: LabelMatrix
    """N K: predicted labels of a multi-label model; otherwise all false."""


def _run(model: OnnxModel, images: CachedImages, rows: Ints, batch_size: int) -> _Outputs:
    shape = (len(rows), len(model.classes))
    combined, chosen = np.zeros(shape), np.zeros(shape, dtype=np.bool_)
    members = np.zeros((len(rows), len(model.member_names), len(model.classes)))
    pixels = ((index, np.asarray(images.read(int(row)))) for index, row in enumerate(rows))
    for indices, batch in in_batches(pixels, batch_size):
        output = model.run(batch)
        combined[indices], members[indices] = output.probabilities, output.members
        if output.chosen is not None:
            chosen[indices] = output.chosen
    return _Outputs(combined, members, chosen)
