"""Prediction and evaluation with bundles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tercet.config.run import DataConfig
from tercet.config.tta import TTAConfig
from tercet.core.model_formats import is_onnx
from tercet.core.multilabel import MultilabelPredictions
from tercet.core.output import printable
from tercet.core.predictions import Predictions
from tercet.core.runtime import choose_device
from tercet.data.image_cache import BadImage
from tercet.data.in_memory import DataLike, resolve_data
from tercet.data.input_batches import InputBatches
from tercet.data.inputs import ImageLike
from tercet.data.loader import ImageLoader
from tercet.ensemble.bundle import Bundle, load_bundle
from tercet.ensemble.calibrate import check_coverage
from tercet.inference.evaluation_rows import known_rows, require_same_task, rows_to_score
from tercet.inference.multilabel import MultilabelEvaluation, evaluate_multilabel
from tercet.inference.onnx_model import OnnxModel
from tercet.inference.predict_file import check_output_path, predict_and_write, reject_options
from tercet.inference.results import MultilabelPredictionResult, PredictionResult
from tercet.metrics.classification import score
from tercet.metrics.significance import compare
from tercet.metrics.tables import (
    ResultRow,
    RowKind,
    as_text,
    classes_table,
    comparison_text,
    pairs_table,
    results_table,
)
from tercet.models.summary import count_parameters


def predict(
    bundle: str | Path | Bundle,
    images: ImageLike | Sequence[ImageLike],
    *,
    tta: str | TTAConfig | None = None,
    batch_size: int = 32,
    device: str = "auto",
) -> Predictions | MultilabelPredictions:
    """Classify images; a multi-label bundle returns `MultilabelPredictions`.

    Args:
        bundle: Folder of a bundle or run, an ONNX file, or a loaded bundle.
        images: Paths, folders, uint8 arrays (H W, H W 1 or H W 3) or PIL images; one or many, of any sizes.
        tta: Test-time augmentation, such as none or flip (default: that of the bundle).
        batch_size: Images per forward pass.
        device: auto, cpu, cuda, cuda:N or mps.

    Raises:
        ConfigError: Invalid test-time augmentation, or an option that an ONNX file does not support.
        ModelError: The path is not a bundle or ONNX file, or was changed.
        DataError: An image cannot be read.
    """
    if not isinstance(bundle, Bundle) and is_onnx(bundle):
        reject_options(tta, device)
        return OnnxModel.load(bundle, check=False).predict(images, batch_size=batch_size)
    device = choose_device(device)
    return _load(bundle, tta).predict(images, batch_size=batch_size, device=device)


def _load(bundle: str | Path | Bundle, tta: str | TTAConfig | None) -> Bundle:
    if isinstance(tta, str):
        TTAConfig.parse(tta)  # raises before the bundle is loaded
    loaded = bundle if isinstance(bundle, Bundle) else load_bundle(bundle)
    return loaded if tta is None else loaded.with_tta(tta)


def predict_files(
    bundle: str | Path,
    paths: Sequence[str | Path],
    *,
    csv: str | None = None,
    submission: str | None = None,
    top_k: int = 5,
    tta: str | None = None,
    batch_size: int = 64,
    device: str = "auto",
) -> PredictionResult | MultilabelPredictionResult:
    """Classify image files and folders; unreadable files are listed in the result and skipped.

    Args:
        bundle: Folder of a bundle or run.
        paths: Image files, or folders of image files.
        csv: Path of a CSV file for all probabilities.
        submission: Sample submission of a competition; `csv` is then written in its format.
        top_k: Classes listed per image.
        tta: Test-time augmentation (default: that of the bundle).
        batch_size: Images per forward pass.
        device: auto, cpu, cuda, cuda:N or mps.

    Raises:
        ConfigError: Invalid options.
        StorageError: `csv` is one of the input files, or is not writable.
        DataError: There are no readable images, or the sample submission has other images or classes.
        ModelError: The folder is not a bundle, or was changed.
    """
    check_output_path(submission, csv)
    device = choose_device(device)
    loaded = _load(bundle, tta)
    source = InputBatches(list(paths), loaded.specs, batch_size=batch_size, skip_bad=True)
    return predict_and_write(
        source,
        lambda: loaded.predict_batches(source, device=device),
        classes=loaded.classes,
        sets=loaded.sets is not None,
        calibration=loaded.calibration,
        csv=csv,
        submission=submission,
        top_k=top_k,
    )


@dataclass(frozen=True, repr=False)
class Evaluation:
    """Scores of a model on labelled data."""

    rows: tuple[ResultRow, ...]
    """The model, then its members if there are several."""
    predictions: Predictions
    """Of the scored images."""
    plain: Predictions | None
    """Predictions without test-time augmentation; None if the model uses none."""
    missing: tuple[str, ...]
    """Classes of the model without images in the data."""
    extra: dict[str, int]
    """Number of images per class that the model does not have; they are not scored."""
    bad: tuple[BadImage, ...]
    """Unreadable images; they are not scored."""
    subset: str
    """Description of the scored images."""
    guarantees: dict[str, float | None]
    """Measured error rate and coverage of a calibrated model, see `check_coverage`; otherwise empty."""

    def __repr__(self) -> str:
        return self.to_text().rstrip()

    def to_text(self) -> str:
        """Return tables for the terminal."""
        plain = self._plain_row()
        sections = [as_text(results_table([*self.rows, *plain], title=f"scored: {self.subset}"))]
        if self.plain is not None:
            comparison = compare(self.predictions, self.plain)
            sections.append(comparison_text(comparison, "test-time augmentation", "plain") + "\n")
        if self.guarantees:
            values = (
                f"{name.replace('_', ' ')} {value:.4f}" for name, value in self.guarantees.items() if value is not None
            )
            sections.append(f"reject threshold and prediction sets: {', '.join(values)}\n")
        if self.missing:
            sections.append(f"classes without images in the data: {', '.join(map(printable, self.missing))}\n")
        for name, count in self.extra.items():
            sections.append(f"class '{printable(name)}' is unknown to the model: {count} image(s) were not scored\n")
        sections += [f"unreadable, not scored: {printable(str(image))}\n" for image in self.bad]
        sections.append(as_text(classes_table(self.predictions, title="per class")))
        sections.append(as_text(pairs_table(self.predictions, limit=5, title="most frequent mistakes")))
        return "\n".join(sections)

    def _plain_row(self) -> list[ResultRow]:
        if self.plain is None:
            return []
        first = self.rows[0]
        return [replace(first, name=f"{first.name}, plain", scores=score(self.plain))]

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
            "subset": self.subset,
            "guarantees": self.guarantees,
        }


def evaluate(
    bundle: str | Path | Bundle,
    data: DataLike,
    *,
    config: DataConfig | None = None,
    tta: str | TTAConfig | None = None,
    include_seen: bool = False,
    batch_size: int = 64,
    device: str = "auto",
) -> Evaluation | MultilabelEvaluation:
    """Evaluate a bundle on labelled images; a multi-label bundle needs a table with label sets.

    The scored images are the test split of the data, if they have one; otherwise the test split that was held out, if
    the bundle was trained on these data; otherwise all images. Images that were used in training are detected by their
    content, and raise an error. Classes are matched by name.

    Args:
        bundle: Folder of a bundle or run, or a loaded bundle.
        data: Folder, table, zip or name of a data set; or Python objects, as for `tercet.train`.
        config: How to read the data.
        tta: Test-time augmentation (default: that of the bundle); predictions without it are scored too.
        include_seen: Also score images that were used in training.
        batch_size: Images per forward pass.
        device: auto, cpu, cuda, cuda:N or mps.

    Raises:
        ConfigError: Invalid test-time augmentation.
        DataError: No image has a class of the bundle, or images were used in training.
        ModelError: The folder is not a bundle, or was changed.
    """
    device, config = choose_device(device), config or DataConfig()
    data = resolve_data(data, config)
    loaded = _load(bundle, tta)
    table, images, bad, subset = rows_to_score(data, loaded.card, config, seen="include" if include_seen else "refuse")
    require_same_task(data, table, "the bundle", sets=loaded.sets is not None)
    if loaded.sets is not None:
        return evaluate_multilabel(
            loaded, table, images, bad, subset, batch_size=batch_size, config=config, device=device
        )
    labelled = known_rows(table, loaded.classes)

    def predict_members(bundle: Bundle) -> list[Predictions]:
        source = ImageLoader(
            images,
            labelled.rows,
            ids=labelled.ids,
            labels=labelled.truth,
            num_classes=len(loaded.classes),
            specs=bundle.specs,
            batch_size=batch_size,
            num_workers=config.num_workers,
        )
        return bundle.predict_member_batches(source, device=device)

    members = predict_members(loaded)
    combined = loaded.combine(members)
    plain = None if loaded.plain else loaded.combine(predict_members(loaded.with_tta("none")))
    kind: RowKind = "ensemble" if len(members) > 1 else "member"
    rows = [ResultRow(loaded.name, kind, score(combined), parameters=loaded.parameter_count())]
    if len(members) > 1:
        rows += [
            ResultRow(member.name, "member", score(predictions), parameters=count_parameters(member.classifier))
            for member, predictions in zip(loaded.members, members, strict=True)
        ]
    guarantees = check_coverage(combined, loaded.calibration) if loaded.calibration is not None else {}
    return Evaluation(tuple(rows), combined, plain, labelled.missing, labelled.extra, tuple(bad), subset, guarantees)
