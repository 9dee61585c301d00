"""How good a bundle is that answers with sets of labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tercet.data.loading import ImageLoader
from tercet.data.samples import UNLABELLED, SampleTable
from tercet.data.store import BadImage, Store
from tercet.deploy.bundle import Bundle
from tercet.evaluation.report import as_text
from tercet.evaluation.set_metrics import score_sets
from tercet.evaluation.set_report import SetRow, labels_table, set_results_table
from tercet.ground.errors import DataError
from tercet.ground.streams import printable
from tercet.models.summary import count_parameters
from tercet.records.config import DataConfig
from tercet.records.label_sets import SetPredictions


@dataclass(frozen=True)
class SetEvaluation:
    """How good a bundle is on some data."""

    rows: tuple[SetRow, ...]
    """The bundle, then its members where it has several."""
    predictions: SetPredictions
    """What the bundle said of the images whose set is known."""
    missing: tuple[str, ...]
    """Labels of the bundle that the data does not show."""
    extra: dict[str, int]
    """Labels of the data that the bundle does not know, and their images; they are left out of the sets."""
    bad: tuple[BadImage, ...]
    """Images that could not be read and are left out."""
    subset: str
    """Which images were scored, and why these."""

    def to_text(self) -> str:
        """Return what people read."""
        parts = [as_text(set_results_table(self.rows, title=f"scored: {self.subset}"))]
        if self.missing:
            parts.append(f"labels that the data does not show: {', '.join(map(printable, self.missing))}\n")
        for name, count in self.extra.items():
            parts.append(f"label '{printable(name)}' is unknown to the bundle: left out of {count} image(s)\n")
        parts += [f"unreadable, left out: {printable(str(image))}\n" for image in self.bad]
        parts.append(as_text(labels_table(self.predictions, title="by label")))
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


def evaluate_sets(
    bundle: Bundle,
    table: SampleTable,
    store: Store,
    bad: Sequence[BadImage],
    subset: str,
    *,
    batch_size: int,
    config: DataConfig,
    device: str,
) -> SetEvaluation:
    """Measure a bundle on the rows of a table whose sets are known; labels are matched by name.

    Raises:
        DataError: The table shows no label that the bundle knows.
    """
    known = np.flatnonzero(table.labels != UNLABELLED)
    shown = table.shown(known)
    place = {name: column for column, name in enumerate(table.classes) if column in shown}
    if not place.keys() & set(bundle.classes):
        told, others = ", ".join([*place][:5]) or "none", ", ..." if len(bundle.classes) > 5 else ""
        raise DataError(
            f"{table.name}: no image has a label that the bundle knows (labels: {told}; the bundle: "
            f"{', '.join(bundle.classes[:5])}{others}); labels are matched by name"
        )
    given = table.targets(known)
    truth = np.zeros((len(known), len(bundle.classes)), dtype=np.int64)
    for column, name in enumerate(bundle.classes):
        if name in place:
            truth[:, column] = given[:, place[name]]
    source = ImageLoader(
        store,
        known,
        ids=[table.ids[row] for row in known],
        labels=truth,
        num_classes=len(bundle.classes),
        specs=bundle.specs,
        batch_size=batch_size,
        num_workers=config.num_workers,
    )
    assert bundle.sets is not None
    members = bundle.predict_sets(source, device=device)
    fused = bundle.sets.combine(members)
    kind = "ensemble" if len(members) > 1 else "member"
    rows = [SetRow(bundle.name, kind, score_sets(fused), parameters=bundle.parameter_count())]  # type: ignore[arg-type]
    if len(members) > 1:
        rows += [
            SetRow(member.name, "member", score_sets(said), parameters=count_parameters(member.classifier))
            for member, said in zip(bundle.members, members, strict=True)
        ]
    missing = tuple(name for name in bundle.classes if name not in place)
    extra = {name: int((given[:, column] == 1).sum()) for name, column in place.items() if name not in bundle.classes}
    return SetEvaluation(tuple(rows), fused, missing, extra, tuple(bad), subset)
