"""How good an exported file is: `tercet evaluate model.onnx DATA`. N images, M members, K classes."""

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
from tercet.inference.evaluation_rows import known_rows, known_sets, require_same_task, rows_to_score
from tercet.inference.multilabel import MultilabelEvaluation, MultilabelMemberOutput, score_rows
from tercet.inference.onnx_model import OnnxModel
from tercet.inference.outputs import in_batches
from tercet.inference.predict import Evaluation
from tercet.inference.predict_file import calibration_of, reject_options
from tercet.metrics.classification import score
from tercet.metrics.tables import ResultRow

_GREEDY = "the file names labels greedily; the bundle searches with a beam, and may name others"


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
    """Measure an exported file on labelled images, as `tercet.inference.predict.evaluate` measures a bundle.

    Raises:
        ConfigError: Views or a device were asked for.
        DataError: No image has a label that the file knows, images were used in training, or the data are of the other
            kind, sets or single classes.
        ModelError: It is no exported file, or was changed.
    """
    reject_options(tta, device)
    model = OnnxModel.load(file)
    table, store, bad, subset = rows_to_score(
        data,
        model.metadata.get("card", {}),
        config or DataConfig(),
        seen="include" if include_seen else "refuse",
    )
    require_same_task(data, table, file, sets=model.sets)
    if model.sets:
        return _evaluate_sets(model, table, store, bad, subset, batch_size)
    known = known_rows(table, model.classes)
    asked = _ask(model, store, known.rows, batch_size)

    def said(values: Floats) -> Predictions:
        shares = values / values.sum(axis=1, keepdims=True)
        return Predictions.of(shares, ids=known.ids, classes=model.classes, labels=known.truth)

    answers, several = said(asked.fused), len(model.member_names) > 1
    rows = [ResultRow(model.name, "ensemble" if several else "member", score(answers), parameters=model.parameters)]
    if several:
        rows += [
            ResultRow(name, "member", score(said(asked.members[:, place])), parameters=count)
            for place, (name, count) in enumerate(zip(model.member_names, model.member_parameters, strict=True))
        ]
    calibration = calibration_of(model)
    promises = {} if calibration is None else check_coverage(answers, calibration)
    return Evaluation(tuple(rows), answers, None, known.missing, known.extra, tuple(bad), subset, promises)


def _evaluate_sets(
    model: OnnxModel, table: SampleTable, store: CachedImages, bad: Sequence[BadImage], subset: str, batch_size: int
) -> MultilabelEvaluation:
    known = known_sets(table, model.classes)
    rule = MultilabelRule.from_dict(model.metadata["sets"], len(model.member_names))
    asked = _ask(model, store, known.rows, batch_size)

    def said(scores: Floats, chosen: LabelMatrix) -> MultilabelPredictions:
        return MultilabelPredictions(
            known.ids, model.classes, scores.clip(0.0, 1.0), chosen, known.truth.astype(np.int8)
        )

    members = [
        # the file compares in 32 bits
        MultilabelMemberOutput(name, said(scores, scores > np.float32(threshold)), count)
        for name, scores, threshold, count in zip(
            model.member_names, np.moveaxis(asked.members, 1, 0), rule.thresholds, model.member_parameters, strict=True
        )
    ]
    fused = MultilabelMemberOutput(model.name, said(asked.fused, asked.chosen), model.parameters)
    note = _GREEDY if model.metadata["sets"].get("search") == "greedy" else None
    return score_rows(fused, members, known, bad, subset, note=note)


@dataclass(frozen=True, eq=False)
class _Asked:
    """What a file says of N images."""

    fused: Floats
    """N K."""
    members: Floats
    """N M K."""
    chosen: LabelMatrix
    """N K; all false where one class an image is told."""


def _ask(model: OnnxModel, store: CachedImages, rows: Ints, size: int) -> _Asked:
    """Return what the file says of rows of a store."""
    shape = (len(rows), len(model.classes))
    fused, chosen = np.zeros(shape), np.zeros(shape, dtype=np.bool_)
    stack = np.zeros((len(rows), len(model.member_names), len(model.classes)))
    pictures = ((place, np.asarray(store.read(int(row)))) for place, row in enumerate(rows))
    for places, images in in_batches(pictures, size):
        output = model.run(images)
        fused[places], stack[places] = output.probabilities, output.members
        if output.chosen is not None:
            chosen[places] = output.chosen
    return _Asked(fused, stack, chosen)
