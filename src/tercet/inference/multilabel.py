"""Evaluation of multi-label models. Shapes: N images, K labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tercet.config.run import DataConfig
from tercet.core.multilabel import MultilabelPredictions
from tercet.core.output import printable
from tercet.data.image_cache import BadImage, CachedImages
from tercet.data.loader import ImageLoader
from tercet.data.table import SampleTable
from tercet.ensemble.bundle import Bundle
from tercet.inference.evaluation_rows import KnownRows, known_label_sets
from tercet.metrics.comparison_tables import MultilabelRow, labels_table, multilabel_table
from tercet.metrics.multilabel import score_multilabel
from tercet.metrics.tables import RowKind, as_text
from tercet.models.summary import count_parameters


@dataclass(frozen=True, repr=False)
class MultilabelEvaluation:
    """Scores of a multi-label model on labelled data."""

    rows: tuple[MultilabelRow, ...]
    """The model, then its members if there are several."""
    predictions: MultilabelPredictions
    """Of the scored images."""
    missing: tuple[str, ...]
    """Labels of the model without images in the data."""
    extra: dict[str, int]
    """Number of images per label that the model does not have; these labels are ignored."""
    bad: tuple[BadImage, ...]
    """Unreadable images; they are not scored."""
    subset: str
    """Description of the scored images."""
    note: str | None = None
    """Why the predictions may differ from those of the bundle."""

    def __repr__(self) -> str:
        return self.to_text().rstrip()

    def to_text(self) -> str:
        """Return tables for the terminal."""
        sections = [as_text(multilabel_table(self.rows, title=f"scored: {self.subset}"))]
        if self.missing:
            sections.append(f"labels without images in the data: {', '.join(map(printable, self.missing))}\n")
        for name, count in self.extra.items():
            sections.append(f"label '{printable(name)}' is unknown to the model: ignored in {count} image(s)\n")
        sections += [f"unreadable, not scored: {printable(str(image))}\n" for image in self.bad]
        sections += [f"{self.note}\n"] if self.note else []
        sections.append(as_text(labels_table(self.predictions, title="per label")))
        return "\n".join(sections)

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
    """Predictions of a model or member."""

    name: str
    predictions: MultilabelPredictions
    parameters: int | None
    """Number of trainable parameters; None if unknown."""


def score_rows(
    combined: MultilabelMemberOutput,
    members: Sequence[MultilabelMemberOutput],
    labelled: KnownRows,
    bad: Sequence[BadImage],
    subset: str,
    *,
    note: str | None = None,
) -> MultilabelEvaluation:
    """Score the predictions of a model and, if there are several, of its members."""
    several = len(members) > 1
    rows = [_row(combined, "ensemble" if several else "member")]
    rows += [_row(member, "member") for member in members if several]
    predictions, missing, extra = combined.predictions, labelled.missing, labelled.extra
    return MultilabelEvaluation(tuple(rows), predictions, missing, extra, tuple(bad), subset, note)


def _row(output: MultilabelMemberOutput, kind: RowKind) -> MultilabelRow:
    return MultilabelRow(output.name, kind, score_multilabel(output.predictions), parameters=output.parameters)


def evaluate_multilabel(
    bundle: Bundle,
    table: SampleTable,
    images: CachedImages,
    bad: Sequence[BadImage],
    subset: str,
    *,
    batch_size: int,
    config: DataConfig,
    device: str,
) -> MultilabelEvaluation:
    """Evaluate a bundle on the rows of a table with label sets; labels are matched by name.

    Raises:
        DataError: The table has none of the bundle's labels.
    """
    labelled = known_label_sets(table, bundle.classes)
    source = ImageLoader(
        images,
        labelled.rows,
        ids=labelled.ids,
        labels=labelled.truth,
        num_classes=len(bundle.classes),
        specs=bundle.specs,
        batch_size=batch_size,
        num_workers=config.num_workers,
    )
    assert bundle.sets is not None
    predictions = bundle.predict_member_labels(source, device=device)
    members = [
        MultilabelMemberOutput(member.name, labels, count_parameters(member.classifier))
        for member, labels in zip(bundle.members, predictions, strict=True)
    ]
    combined = MultilabelMemberOutput(bundle.name, bundle.sets.combine(predictions), bundle.parameter_count())
    return score_rows(combined, members, labelled, bad, subset)
