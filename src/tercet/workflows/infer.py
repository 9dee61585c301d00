"""What a bundle is for: classify images, and be measured on images it never saw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tercet.data.catalog import load_table
from tercet.data.loading import ImageLoader
from tercet.data.samples import SampleTable
from tercet.data.store import BadImage, ImageStore, Store
from tercet.deploy.bundle import Bundle, load_bundle
from tercet.deploy.images import ImageLike, LooseImages
from tercet.evaluation.metrics import score
from tercet.evaluation.report import ResultRow, as_text, classes_table, pairs_table, results_table
from tercet.ground.errors import DataError
from tercet.ground.runtime import choose_device
from tercet.ground.streams import printable
from tercet.models.classifier import Classifier
from tercet.models.summary import count_parameters
from tercet.records.config import DataConfig
from tercet.records.prediction_files import write_csv
from tercet.records.predictions import UNKNOWN, Ints, Predictions
from tercet.workflows.prepared import held_out_digest, prepare_data, without


def predict(
    bundle: str | Path | Bundle,
    images: ImageLike | Sequence[ImageLike],
    *,
    batch_size: int = 32,
    device: str = "auto",
) -> Predictions:
    """Classify images with a bundle.

    Args:
        bundle: A bundle's folder, a run's folder, or a loaded bundle.
        images: Paths, folders, uint8 arrays (H W, H W 1 or H W 3) or PIL images; one or many, of any sizes.
        batch_size: Images a forward pass.
        device: auto, cpu, cuda, cuda:N or mps.

    Raises:
        ModelError: It is no bundle, or was changed.
        DataError: An image cannot be read.
    """
    device = choose_device(device)
    loaded = bundle if isinstance(bundle, Bundle) else load_bundle(bundle)
    return loaded.predict(images, batch_size=batch_size, device=device)


@dataclass(frozen=True)
class Classified:
    """What a bundle said of some files."""

    predictions: Predictions
    """The files that could be read."""
    bad: tuple[BadImage, ...]
    """Those that could not."""
    top: int
    """Classes told for each image."""

    def best(self, row: int) -> list[tuple[str, float]]:
        """Return the most probable classes of an image with their probabilities."""
        probabilities = self.predictions.probabilities[row]
        order = np.argsort(-probabilities, kind="stable")[: self.top]
        return [(self.predictions.classes[index], float(probabilities[index])) for index in order]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "images": [
                {
                    "id": name,
                    "predicted": self.predictions.predicted_names[row],
                    "probabilities": dict(self.best(row)),
                }
                for row, name in enumerate(self.predictions.ids)
            ],
            "unreadable": [{"id": image.id, "reason": image.reason} for image in self.bad],
        }

    def to_text(self) -> str:
        """Return one line an image."""
        lines = []
        for row, name in enumerate(self.predictions.ids):
            said = "  ".join(f"{printable(label)} {share:.3f}" for label, share in self.best(row))
            lines.append(f"{printable(name)}: {said}\n")
        lines += [f"{printable(image.location)}: UNREADABLE ({image.reason})\n" for image in self.bad]
        return "".join(lines)


def predict_files(
    bundle: str | Path,
    paths: Sequence[str | Path],
    *,
    csv: str | None = None,
    top: int = 5,
    batch_size: int = 64,
    device: str = "auto",
) -> Classified:
    """Classify files and folders of images; files that cannot be read are named and left out.

    Args:
        bundle: A bundle's folder, or a run's.
        paths: Image files, or folders of them.
        csv: Where to write a CSV file with all probabilities.
        top: Classes told for each image.
        batch_size: Images a forward pass.
        device: auto, cpu, cuda, cuda:N or mps.

    Raises:
        DataError: There is no image, or none could be read.
        ModelError: It is no bundle, or was changed.
    """
    device = choose_device(device)
    loaded = load_bundle(bundle)
    source = LooseImages(list(paths), loaded.specs, batch_size=batch_size, skip_bad=True)
    try:
        predictions = loaded.combine(loaded.predict_source(source, device=device))
    except DataError as error:
        if len(source.bad) < len(source.items):
            raise
        named = ", ".join(map(str, source.bad[:5])) + (", ..." if len(source.bad) > 5 else "")
        raise DataError(f"none of the {len(source.bad)} image(s) can be read: {named}") from error
    if csv is not None:
        write_csv(predictions, Path(csv))
    return Classified(predictions, tuple(source.bad), top)


@dataclass(frozen=True)
class Evaluation:
    """How good a bundle is on some data."""

    rows: tuple[ResultRow, ...]
    """The bundle, then its members where it has several."""
    predictions: Predictions
    """What the bundle said of the images whose class it knows."""
    missing: tuple[str, ...]
    """Classes of the bundle that the data does not show."""
    extra: dict[str, int]
    """Classes of the data that the bundle does not know, and their images, which are left out."""
    bad: tuple[BadImage, ...]
    """Images that could not be read and are left out."""
    subset: str
    """Which images were scored, and why these."""

    def to_text(self) -> str:
        """Return what people read."""
        parts = [as_text(results_table(self.rows, title=f"scored: {self.subset}"))]
        if self.missing:
            parts.append(f"classes that the data does not show: {', '.join(map(printable, self.missing))}\n")
        for name, count in self.extra.items():
            parts.append(f"class '{printable(name)}' is unknown to the bundle: its {count} image(s) were left out\n")
        parts += [f"unreadable, left out: {printable(str(image))}\n" for image in self.bad]
        parts.append(as_text(classes_table(self.predictions, title="by class")))
        parts.append(as_text(pairs_table(self.predictions, most=5, title="most frequent mistakes")))
        return "\n".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        first, *members = self.rows
        return {
            **first.to_dict(),
            "members": [row.to_dict() for row in members],
            "missing_classes": list(self.missing),
            "extra_classes": self.extra,
            "unreadable": [image.id for image in self.bad],
            "subset": self.subset,
        }


def evaluate(
    bundle: str | Path | Bundle,
    data: str | Path,
    *,
    config: DataConfig | None = None,
    batch_size: int = 64,
    device: str = "auto",
) -> Evaluation:
    """Measure a bundle on labelled images.

    Scored are the data's own test split where it has one; else the test split that was held out if the bundle was
    trained on this very data; else all images. Classes are matched by name.

    Args:
        bundle: A bundle's folder, a run's folder, or a loaded bundle.
        data: Folder, table, zip or name of a data set.
        config: How to read the data.
        batch_size: Images a forward pass.
        device: auto, cpu, cuda, cuda:N or mps.

    Raises:
        DataError: No image has a label of a class that the bundle knows.
        ModelError: It is no bundle, or was changed.
    """
    device, config = choose_device(device), config or DataConfig()
    loaded = bundle if isinstance(bundle, Bundle) else load_bundle(bundle)
    table, store, bad, subset = _rows_to_score(data, loaded, config)
    known, extra = _known_rows(table, loaded.classes)
    index = {name: position for position, name in enumerate(loaded.classes)}
    names = table.label_names()
    source = ImageLoader(
        store,
        known,
        ids=[table.ids[row] for row in known],
        labels=np.array([index[names[row]] for row in known], dtype=np.int64),
        num_classes=len(loaded.classes),
        specs=loaded.specs,
        batch_size=batch_size,
        num_workers=config.num_workers,
    )
    members = loaded.predict_source(source, device=device)
    fused = loaded.combine(members)
    rows = [_row(loaded.name, loaded, fused)]
    if len(members) > 1:
        rows += [
            _row(member.name, member.classifier, said) for member, said in zip(loaded.members, members, strict=True)
        ]
    shown = {names[row] for row in known}
    missing = tuple(name for name in loaded.classes if name not in shown)
    return Evaluation(tuple(rows), fused, missing, extra, tuple(bad), subset)


def _rows_to_score(
    data: str | Path, bundle: Bundle, config: DataConfig
) -> tuple[SampleTable, Store, list[BadImage], str]:
    """Return the table whose rows are the store's, with all rows unlabelled that are not to be scored."""
    table = load_table(data, config, min_classes=1)
    if table.splits is not None and "test" in table.splits:
        table = table.take(table.rows_of("test"))
        store, bad = ImageStore.decode(table, config)
        return without(table, bad), store, bad, "the data's own test split"
    trained_on = bundle.card.get("data", {})
    if trained_on.get("fingerprint") != table.fingerprint():
        store, bad = ImageStore.decode(table, config)
        return without(table, bad), store, bad, "all images"
    config = replace(config, **trained_on["options"])  # groups and fractions as they were when the split was made
    prepared = prepare_data(data, config)
    table, held_out = prepared.table, prepared.rows("test")
    if held_out_digest(table) != trained_on["held_out"]:
        raise DataError(
            f"the bundle was trained on {data}, and the images that were held out cannot be told from the others any "
            "more (read by another version?): evaluate it on other images"
        )
    scored = np.full(len(table), UNKNOWN)
    scored[held_out] = table.labels[held_out]
    subset = "the test split that was held out when the bundle was trained on this data"
    return replace(table, labels=scored), prepared.store, list(prepared.bad), subset


def _known_rows(table: SampleTable, classes: Sequence[str]) -> tuple[Ints, dict[str, int]]:
    """Return the rows whose class the bundle knows, and the images of each class it does not."""
    names = table.label_names()
    extra: dict[str, int] = {}
    for name in names:
        if name and name not in classes:
            extra[name] = extra.get(name, 0) + 1
    known = np.array([row for row, name in enumerate(names) if name in set(classes)], dtype=np.int64)
    if not len(known):
        shown = ", ".join(sorted({name for name in names if name})[:5]) or "none"
        raise DataError(
            f"{table.name}: no image has a label that the bundle knows (labels: {shown}; the bundle: "
            f"{', '.join(classes[:5])}{', ...' if len(classes) > 5 else ''}); classes are matched by name"
        )
    return known, extra


def _row(name: str, module: Bundle | Classifier, predictions: Predictions) -> ResultRow:
    fused = isinstance(module, Bundle) and len(module.members) > 1
    parameters = module.parameter_count() if isinstance(module, Bundle) else count_parameters(module)
    return ResultRow(name, "ensemble" if fused else "member", score(predictions), parameters=parameters)
