"""What a bundle is for: classify images, and be measured on images it never saw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tercet.config.run import DataConfig
from tercet.config.tta import TTAConfig
from tercet.core.model_formats import is_onnx
from tercet.core.multilabel import MultilabelPredictions
from tercet.core.predictions import Predictions
from tercet.core.runtime import choose_device
from tercet.core.streams import printable
from tercet.data.image_cache import BadImage
from tercet.data.inputs import ImageLike, InputBatches
from tercet.data.loader import ImageLoader
from tercet.ensemble.bundle import Bundle, load_bundle
from tercet.ensemble.calibrate import check_coverage
from tercet.inference.evaluation_rows import known_rows, require_same_task, rows_to_score
from tercet.inference.multilabel import MultilabelEvaluation, evaluate_multilabel
from tercet.inference.onnx_model import OnnxModel
from tercet.inference.predict_file import check_output_path, predict_rows_of_file, reject_options
from tercet.inference.results import MultilabelPredictionResult, PredictionResult
from tercet.metrics.classification import score
from tercet.metrics.significance import compare
from tercet.metrics.tables import ResultRow, as_text, classes_table, comparison_text, pairs_table, results_table
from tercet.models.classifier import Classifier
from tercet.models.summary import count_parameters


def predict(
    bundle: str | Path | Bundle,
    images: ImageLike | Sequence[ImageLike],
    *,
    tta: str | TTAConfig | None = None,
    batch_size: int = 32,
    device: str = "auto",
) -> Predictions | MultilabelPredictions:
    """Classify images with a bundle; one that answers with sets of labels returns `MultilabelPredictions`.

    Args:
        bundle: A bundle's folder, a run's folder, an exported file, or a loaded bundle.
        images: Paths, folders, uint8 arrays (H W, H W 1 or H W 3) or PIL images; one or many, of any sizes.
        tta: Test-time augmentation, such as none or flip; None: what the bundle was chosen with.
        batch_size: Images a forward pass.
        device: auto, cpu, cuda, cuda:N or mps.

    Raises:
        ConfigError: Test-time augmentation that cannot be.
        ModelError: It is no bundle, or was changed.
        DataError: An image cannot be read.
    """
    if not isinstance(bundle, Bundle) and is_onnx(bundle):
        reject_options(tta, device)
        return OnnxModel.load(bundle, check=False).predict(images, batch_size=batch_size)
    device = choose_device(device)
    loaded = _load(bundle, tta)
    return loaded.predict(images, batch_size=batch_size, device=device)


def _load(bundle: str | Path | Bundle, tta: str | TTAConfig | None) -> Bundle:
    if isinstance(tta, str):
        TTAConfig.parse(tta)  # a slip is told before anything is loaded
    loaded = bundle if isinstance(bundle, Bundle) else load_bundle(bundle)
    return loaded if tta is None else loaded.with_views(tta)


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
    """Classify files and folders of images; files that cannot be read are named and left out.

    Args:
        bundle: A bundle's folder, or a run's.
        paths: Image files, or folders of them.
        csv: Where to write a CSV file with all probabilities.
        submission: A competition's sample file; `csv` then is written in its form, and names every image of it once.
        top_k: Classes told for each image.
        tta: Test-time augmentation; None: what the bundle was chosen with.
        batch_size: Images a forward pass.
        device: auto, cpu, cuda, cuda:N or mps.

    Raises:
        ConfigError: Options that cannot be.
        DataError: There is no image, or none could be read; a sample file that names other images or classes.
        ModelError: It is no bundle, or was changed.
    """
    check_output_path(submission, csv)
    device = choose_device(device)
    loaded = _load(bundle, tta)
    source = InputBatches(list(paths), loaded.specs, batch_size=batch_size, skip_bad=True)
    return predict_rows_of_file(
        source,
        lambda: loaded.answer(source, device=device),
        classes=loaded.classes,
        sets=loaded.sets is not None,
        calibration=loaded.calibration,
        csv=csv,
        submission=submission,
        top_k=top_k,
    )


@dataclass(frozen=True)
class Evaluation:
    """How good a bundle is on some data."""

    rows: tuple[ResultRow, ...]
    """The bundle, then its members where it has several."""
    predictions: Predictions
    """What the bundle said of the images whose class it knows."""
    plain: Predictions | None
    """What it says without test-time augmentation, where it was measured with it."""
    missing: tuple[str, ...]
    """Classes of the bundle that the data does not show."""
    extra: dict[str, int]
    """Classes of the data that the bundle does not know, and their images, which are left out."""
    bad: tuple[BadImage, ...]
    """Images that could not be read and are left out."""
    subset: str
    """Which images were scored, and why these."""
    promises: dict[str, float | None]
    """What the bundle's reject threshold and prediction sets do on them; empty where it has none."""

    def to_text(self) -> str:
        """Return what people read."""
        plain = self._plain_row()
        parts = [as_text(results_table([*self.rows, *plain], title=f"scored: {self.subset}"))]
        if self.plain is not None:
            comparison = compare(self.predictions, self.plain)
            parts.append(comparison_text(comparison, "test-time augmentation", "plain") + "\n")
        if self.promises:
            told = (
                f"{name.replace('_', ' ')} {value:.4f}" for name, value in self.promises.items() if value is not None
            )
            parts.append(f"reject threshold and prediction sets: {', '.join(told)}\n")
        if self.missing:
            parts.append(f"classes that the data does not show: {', '.join(map(printable, self.missing))}\n")
        for name, count in self.extra.items():
            parts.append(f"class '{printable(name)}' is unknown to the bundle: its {count} image(s) were left out\n")
        parts += [f"unreadable, left out: {printable(str(image))}\n" for image in self.bad]
        parts.append(as_text(classes_table(self.predictions, title="by class")))
        parts.append(as_text(pairs_table(self.predictions, limit=5, title="most frequent mistakes")))
        return "\n".join(parts)

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
            "promises": self.promises,
        }


def evaluate(
    bundle: str | Path | Bundle,
    data: str | Path,
    *,
    config: DataConfig | None = None,
    tta: str | TTAConfig | None = None,
    include_seen: bool = False,
    batch_size: int = 64,
    device: str = "auto",
) -> Evaluation | MultilabelEvaluation:
    """Measure a bundle on labelled images; one that answers with sets of labels needs a table of sets.

    Scored are the data's own test split where it has one; else the test split that was held out if the bundle was
    trained on this very data; else all images. Images that were used in training are refused, and recognised by
    their content. Classes are matched by name.

    Args:
        bundle: A bundle's folder, a run's folder, or a loaded bundle.
        data: Folder, table, zip or name of a data set.
        config: How to read the data.
        tta: Test-time augmentation, beside which plain prediction is measured too; None: what the bundle was chosen
            with.
        include_seen: Score images that were used in training too; of the training data, all images.
        batch_size: Images a forward pass.
        device: auto, cpu, cuda, cuda:N or mps.

    Raises:
        ConfigError: Test-time augmentation that cannot be.
        DataError: No image has a label of a class that the bundle knows, or images were used in training.
        ModelError: It is no bundle, or was changed.
    """
    device, config = choose_device(device), config or DataConfig()
    loaded = _load(bundle, tta)
    table, store, bad, subset = rows_to_score(data, loaded.card, config, seen="include" if include_seen else "refuse")
    require_same_task(data, table, "the bundle", sets=loaded.sets is not None)
    if loaded.sets is not None:
        return evaluate_multilabel(
            loaded, table, store, bad, subset, batch_size=batch_size, config=config, device=device
        )
    known = known_rows(table, loaded.classes)

    def members_of(shown: Bundle) -> list[Predictions]:
        source = ImageLoader(
            store,
            known.rows,
            ids=known.ids,
            labels=known.truth,
            num_classes=len(loaded.classes),
            specs=shown.specs,
            batch_size=batch_size,
            num_workers=config.num_workers,
        )
        return shown.predict_source(source, device=device)

    members = members_of(loaded)
    fused = loaded.combine(members)
    plain = None if loaded.plain else loaded.combine(members_of(loaded.with_views("none")))
    rows = [_row(loaded.name, loaded, fused)]
    if len(members) > 1:
        rows += [
            _row(member.name, member.classifier, said) for member, said in zip(loaded.members, members, strict=True)
        ]
    promises = check_coverage(fused, loaded.calibration) if loaded.calibration is not None else {}
    return Evaluation(tuple(rows), fused, plain, known.missing, known.extra, tuple(bad), subset, promises)


def _row(name: str, module: Bundle | Classifier, predictions: Predictions) -> ResultRow:
    fused = isinstance(module, Bundle) and len(module.members) > 1
    parameters = module.parameter_count() if isinstance(module, Bundle) else count_parameters(module)
    return ResultRow(name, "ensemble" if fused else "member", score(predictions), parameters=parameters)
