"""How good a bundle is, or a file exported from one, that answers with sets of labels. N images, K labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tercet.config.run import DataConfig
from tercet.core.multilabel import MultilabelPredictions
from tercet.core.streams import printable
from tercet.data.image_cache import BadImage, CachedImages
from tercet.data.loader import ImageLoader
from tercet.data.table import SampleTable
from tercet.ensemble.bundle import Bundle
from tercet.inference.evaluation_rows import KnownRows, known_sets
from tercet.metrics.comparison_tables import MultilabelRow, labels_table, multilabel_table
from tercet.metrics.multilabel import score_multilabel
from tercet.metrics.tables import RowKind, as_text
from tercet.models.summary import count_parameters


@dataclass(frozen=True)
class MultilabelEvaluation:
    """How good a bundle is on some data."""

    rows: tuple[MultilabelRow, ...]
    """The bundle, then its members where it has several."""
    predictions: MultilabelPredictions
    """What the bundle said of the images whose set is known."""
    missing: tuple[str, ...]
    """Labels of the bundle that the data does not show."""
    extra: dict[str, int]
    """Labels of the data that the bundle does not know, and their images; they are left out of the sets."""
    bad: tuple[BadImage, ...]
    """Images that could not be read and are left out."""
    subset: str
    """Which images were scored, and why these."""
    note: str | None = None
    """What may make the answers other ones than the bundle's; None where nothing does."""

    def to_text(self) -> str:
        """Return what people read."""
        parts = [as_text(multilabel_table(self.rows, title=f"scored: {self.subset}"))]
        if self.missing:
            parts.append(f"labels that the data does not show: {', '.join(map(printable, self.missing))}\n")
        for name, count in self.extra.items():
            parts.append(f"label '{printable(name)}' is unknown to the bundle: left out of {count} image(s)\n")
        parts += [f"unreadable, left out: {printable(str(image))}\n" for image in self.bad]
        parts += [f"{self.note}\n"] if self.note else []
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
            "note": self.note,
        }


@dataclass(frozen=True)
class MultilabelMemberOutput:
    """What one that was measured said."""

    name: str
    """Of the model, or of a member."""
    said: MultilabelPredictions
    """Its sets."""
    parameters: int | None
    """Its learnable numbers; None where that is not known."""


def score_rows(
    fused: MultilabelMemberOutput,
    members: Sequence[MultilabelMemberOutput],
    known: KnownRows,
    bad: Sequence[BadImage],
    subset: str,
    *,
    note: str | None = None,
) -> MultilabelEvaluation:
    """Score what a model and its members said of the rows whose sets are known."""
    several = len(members) > 1
    rows = [_row(fused, "ensemble" if several else "member"), *(_row(one, "member") for one in members if several)]
    return MultilabelEvaluation(tuple(rows), fused.said, known.missing, known.extra, tuple(bad), subset, note)


def _row(one: MultilabelMemberOutput, kind: RowKind) -> MultilabelRow:
    return MultilabelRow(one.name, kind, score_multilabel(one.said), parameters=one.parameters)


def evaluate_multilabel(
    bundle: Bundle,
    table: SampleTable,
    store: CachedImages,
    bad: Sequence[BadImage],
    subset: str,
    *,
    batch_size: int,
    config: DataConfig,
    device: str,
) -> MultilabelEvaluation:
    """Measure a bundle on the rows of a table whose sets are known; labels are matched by name.

    Raises:
        DataError: The table shows no label that the bundle knows.
    """
    known = known_sets(table, bundle.classes)
    source = ImageLoader(
        store,
        known.rows,
        ids=known.ids,
        labels=known.truth,
        num_classes=len(bundle.classes),
        specs=bundle.specs,
        batch_size=batch_size,
        num_workers=config.num_workers,
    )
    assert bundle.sets is not None
    said = bundle.predict_member_labels(source, device=device)
    members = [
        MultilabelMemberOutput(member.name, one, count_parameters(member.classifier))
        for member, one in zip(bundle.members, said, strict=True)
    ]
    fused = MultilabelMemberOutput(bundle.name, bundle.sets.combine(said), bundle.parameter_count())
    return score_rows(fused, members, known, bad, subset)
