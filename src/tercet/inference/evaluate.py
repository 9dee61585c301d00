"""Evaluation of bundles and exported files of any format on labelled images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tercet.config.run import DataConfig
from tercet.config.tta import TTAConfig
from tercet.core.multilabel import MultilabelPredictions
from tercet.core.output import printable
from tercet.core.predictions import Predictions
from tercet.data.in_memory import DataLike, resolve_data
from tercet.data.inputs import LabelledImages
from tercet.data.read_ahead import BadImage
from tercet.data.readers.scan import SkippedFile, skipped_documents, summarise_skipped
from tercet.ensemble.calibrate import check_coverage
from tercet.inference.evaluation_rows import SeenCount, known_rows, require_same_task, rows_to_score
from tercet.inference.predictor import Predictor, model_label, open_predictor
from tercet.metrics.classification import score
from tercet.metrics.metric import Scores
from tercet.metrics.multilabel import score_multilabel
from tercet.metrics.significance import compare
from tercet.metrics.tables import ResultRow, classes_table, comparison_text, mistakes_text, results_table


@dataclass(frozen=True)
class _Task:
    """Scores and texts of a kind of labels."""

    score: Callable[[Any], Scores]
    details: Callable[[Any], Sequence[str]]
    missing: str
    extra: str


def _classes(predictions: Predictions | MultilabelPredictions, title: str) -> str:
    return classes_table(predictions, title=title).to_text()


_TASKS = {
    Predictions: _Task(
        score,
        lambda predictions: [_classes(predictions, "per class"), mistakes_text(predictions)],
        "classes without images in the data",
        "class '{}' is unknown to the model: {} image(s) were not scored",
    ),
    MultilabelPredictions: _Task(
        score_multilabel,
        lambda predictions: [_classes(predictions, "per label")],
        "labels without images in the data",
        "label '{}' is unknown to the model: ignored in {} image(s)",
    ),
}


@dataclass(frozen=True, repr=False)
class Evaluation:
    """Scores of a model on labelled data."""

    rows: tuple[ResultRow, ...]
    """The model, then its members if there are several."""
    predictions: Predictions | MultilabelPredictions
    """Of the scored images."""
    plain: Predictions | MultilabelPredictions | None
    """Predictions without test-time augmentation; None if the model uses none."""
    missing: tuple[str, ...]
    """Classes of the model without images in the data."""
    extra: dict[str, int]
    """Number of images per class that the model does not have; they are not scored, or such labels are ignored."""
    bad: tuple[BadImage, ...]
    """Unreadable images; they are not scored."""
    subset: str
    """Description of the scored images."""
    guarantees: dict[str, float | None]
    """Measured error rate and coverage of a calibrated model, see `check_coverage`; otherwise empty."""
    note: str | None = None
    """Why the predictions may differ from those of the bundle."""
    skipped: tuple[SkippedFile, ...] = ()
    """Files of the data that are not images."""
    seen: SeenCount | None = None
    """How many of the labelled images were used in training; None if the model has no digests of them."""

    def __repr__(self) -> str:
        return self.to_text().rstrip()

    def to_text(self) -> str:
        """Return tables for the terminal."""
        task = _TASKS[type(self.predictions)]
        table = results_table([*self.rows, *self._plain_row()], title=f"scored: {self.subset}")
        sections = [f"WARNING: {self.warning}\n"] if self.warning else []
        sections.append(table.to_text())
        if isinstance(self.plain, Predictions) and isinstance(self.predictions, Predictions):
            comparison = compare(self.predictions, self.plain)
            sections.append(comparison_text(comparison, "test-time augmentation", "plain") + "\n")
        if self.guarantees:
            values = (
                f"{name.replace('_', ' ')} {value:.4f}" for name, value in self.guarantees.items() if value is not None
            )
            sections.append(f"reject threshold and prediction sets: {', '.join(values)}\n")
        if self.missing:
            sections.append(f"{task.missing}: {', '.join(map(printable, self.missing))}\n")
        sections += [task.extra.format(printable(name), count) + "\n" for name, count in self.extra.items()]
        sections += [f"unreadable, not scored: {printable(str(image))}\n" for image in self.bad]
        sections += [f"{printable(text)}\n" for text in summarise_skipped(self.skipped)]
        sections += [f"{self.note}\n"] if self.note else []
        return "\n".join([*sections, *task.details(self.predictions)])

    @property
    def warning(self) -> str:
        """Why the scores may be optimistic; empty if all scored images are new to the model."""
        if self.seen is None:
            if "held out" in self.subset:
                return ""
            return "the model has no digests of its training images: whether images were used in training is unknown"
        return self.seen.to_text() if self.seen.scored and self.seen.images else ""

    def _plain_row(self) -> list[ResultRow]:
        if self.plain is None:
            return []
        first, scores = self.rows[0], _TASKS[type(self.plain)].score(self.plain)
        return [replace(first, name=f"{first.name}, plain", scores=scores)]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        first, *members = self.rows
        return {
            **first.to_dict(),
            "plain": next((row.to_dict() for row in self._plain_row()), None),
            "members": [row.to_dict() for row in members],
            "missing_classes": list(self.missing),
            "extra_classes": self.extra,
            "unreadable": [image.id for image in self.bad],
            "skipped": skipped_documents(self.skipped),
            "subset": self.subset,
            "guarantees": self.guarantees,
            "note": self.note,
            "seen": None if self.seen is None else self.seen.to_dict(),
            "warning": self.warning,
        }


def evaluate(
    model: str | Path | Predictor,
    data: DataLike,
    *,
    config: DataConfig | None = None,
    tta: str | TTAConfig | None = None,
    include_seen: bool = False,
    batch_size: int = 64,
    device: str = "auto",
) -> Evaluation:
    """Evaluate a model on labelled images; a multi-label model needs a table with label sets.

    The scored images are the test split of the data, if they have one, otherwise all. Images that were used in training
    (or validation, or calibration) of any part of the model are recognized by their files and pixels, and are left out.
    Classes are matched by name.

    Args:
        model: Folder of a bundle or run, an ONNX file, a torch program, or a loaded model.
        data: Folder, table, zip or name of a data set; or Python objects, as for `tercet.train`.
        config: How to read the data.
        tta: Test-time augmentation (default: that of the model); predictions without it are scored too.
        include_seen: Also score images that were used in training; the scores are then optimistic.
        batch_size: Images per forward pass.
        device: auto, cpu, cuda, cuda:N or mps.

    Raises:
        ConfigError: Invalid options, or options that an exported file does not support.
        DataError: No image has a class of the model, all images were used in training, or only one of data and model is
            multi-label.
        ModelError: The path is not a bundle or exported file, or was changed.
    """
    predictor, config = open_predictor(model, tta=tta), config or DataConfig()
    device, data = predictor.resolve_device(device), resolve_data(data, config)
    table, images, bad, subset, seen = rows_to_score(data, predictor.card, config, include_seen=include_seen)
    require_same_task(data, table, model_label(model), multilabel=predictor.multilabel)
    rows, truth, missing, extra = known_rows(table, predictor.classes)
    source = LabelledImages(images, rows, tuple(table.ids[row] for row in rows), truth, config.num_workers)
    combined, members = predictor.predict_with_members(source, batch_size=batch_size, device=device)
    plain = None
    if not predictor.plain:
        plain, _ = predictor.with_tta("none").predict_with_members(source, batch_size=batch_size, device=device)
    task, several = _TASKS[type(combined)], len(members) > 1
    kind = "ensemble" if several else "member"
    results = [ResultRow(predictor.name, kind, task.score(combined), parameters=predictor.parameters)]
    if several:
        results += [
            ResultRow(name, "member", task.score(predictions), parameters=count)
            for name, predictions, count in zip(
                predictor.member_names, members, predictor.member_parameters, strict=True
            )
        ]
    guarantees: dict[str, float | None] = {}
    if predictor.calibration is not None and isinstance(combined, Predictions):
        guarantees = check_coverage(combined, predictor.calibration)
    return Evaluation(
        tuple(results),
        combined,
        plain,
        missing,
        extra,
        tuple(bad),
        subset,
        guarantees,
        predictor.note,
        table.skipped,
        seen,
    )
