"""What a bundle is for: classify images, and be measured on images it never saw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tercet.data.catalog import load_table
from tercet.data.loading import ImageLoader
from tercet.data.samples import SampleTable
from tercet.data.splits import assign_splits
from tercet.data.store import BadImage, ImageStore
from tercet.deploy.bundle import Bundle, load_bundle
from tercet.deploy.images import ImageLike
from tercet.evaluation.metrics import score
from tercet.evaluation.report import ResultRow
from tercet.ground.errors import DataError
from tercet.ground.runtime import choose_device
from tercet.models.classifier import Classifier
from tercet.models.summary import count_parameters
from tercet.records.config import DataConfig
from tercet.records.predictions import Ints, Predictions


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
    table, subset = _rows_to_score(load_table(data, config), loaded)
    known, extra = _known_rows(table, loaded.classes)
    table = table.take(known)
    store, bad = ImageStore.decode(table, config)
    unreadable = {image.id for image in bad}
    table = table.take(np.array([name not in unreadable for name in table.ids], dtype=np.bool_))
    index = {name: position for position, name in enumerate(loaded.classes)}
    labels = np.array([index[name] for name in table.label_names()], dtype=np.int64)
    specs = [member.classifier.spec for member in loaded.members]
    source = ImageLoader(
        store,
        np.arange(len(table)),
        ids=table.ids,
        labels=labels,
        num_classes=len(loaded.classes),
        specs=specs,
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
    shown = set(table.label_names())
    missing = tuple(name for name in loaded.classes if name not in shown)
    return Evaluation(tuple(rows), fused, missing, extra, tuple(bad), subset)


def _rows_to_score(table: SampleTable, bundle: Bundle) -> tuple[SampleTable, str]:
    trained_on = bundle.card.get("data", {})
    if table.splits is not None and "test" in table.splits:
        return table.take(table.rows_of("test")), "the data's own test split"
    if trained_on.get("fingerprint") == table.fingerprint():
        config = DataConfig(**trained_on["split"])
        held_out = assign_splits(table, config).rows_of("test")
        return table.take(held_out), "the test split held out when the bundle was trained on this data"
    return table, "all images"


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
    parameters = module.parameter_count() if isinstance(module, Bundle) else count_parameters(module)
    return ResultRow(
        name, "member" if isinstance(module, Classifier) else "ensemble", score(predictions), parameters=parameters
    )
