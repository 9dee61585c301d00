"""Scores of a model without the images that have copies on the other side of a split, or in other folds."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tercet.core.multilabel import MultilabelPredictions
from tercet.core.output import printable
from tercet.core.predictions import Predictions
from tercet.data.copies import TornCopies
from tercet.metrics.classification import score
from tercet.metrics.multilabel import score_multilabel


def copy_scores(
    torn: Mapping[str, TornCopies], predictions: Mapping[str, Sequence[Predictions | MultilabelPredictions]]
) -> dict[str, Any]:
    """Return by part (test, validation, pooled) the torn copies, and the score with and without them, for JSON.

    Args:
        torn: Torn copies by part.
        predictions: Predictions of the model by part, one per seed; scores are averaged.
    """
    return {part: _compared(item, predictions.get(part, ())) for part, item in torn.items()}


def _compared(torn: TornCopies, predictions: Sequence[Predictions | MultilabelPredictions]) -> dict[str, Any]:
    ids = frozenset(torn.ids)
    scores = [_scores(values, ids) for values in predictions]
    pairs = [pair for pair in scores if None not in pair]
    before = statistics.fmean(pair[0] for pair in scores) if scores else None
    after = statistics.fmean(pair[1] for pair in pairs) if pairs else None  # type: ignore[misc]
    multilabel = any(isinstance(values, MultilabelPredictions) for values in predictions)
    document = {"metric": "o_f1" if multilabel else "accuracy", "score": before, "score_without": after}
    return {**torn.to_dict(), **document, "text": _sentence(torn, document)}


def _scores(predictions: Predictions | MultilabelPredictions, ids: frozenset[str]) -> tuple[float, float | None]:
    """Return the score of all labelled images, and of those that are not named; None if there are none."""
    rest = np.array([name not in ids for name in predictions.ids], dtype=np.bool_)
    if isinstance(predictions, MultilabelPredictions):
        known = bool((predictions.truth[rest] >= 0).any())
        without = score_multilabel(predictions.take(np.flatnonzero(rest)))["o_f1"] if known else None
        return score_multilabel(predictions)["o_f1"], without
    known = bool(predictions.known[rest].any())
    return score(predictions)["accuracy"], score(predictions.take(np.flatnonzero(rest)))["accuracy"] if known else None


def _sentence(torn: TornCopies, document: Mapping[str, Any]) -> str:
    title = "O-F1" if document["metric"] == "o_f1" else "accuracy"
    text = f"{torn.to_text()}."
    if document["score"] is None:
        return text
    if document["score_without"] is None:
        return f"{text} No image is left without them: the {title} of {document['score']:.4f} is that of known images."
    return f"{text} The {title} is {document['score']:.4f} with and {document['score_without']:.4f} without them."


def copy_warnings(document: Mapping[str, Any]) -> Iterator[str]:
    """Yield the sections of a report from the result of `copy_scores`."""
    yield from (f"WARNING: {printable(item['text'])}\n" for item in document.values())
