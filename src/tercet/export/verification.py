"""Compare the outputs of an exported file with its bundle's on the same images.

Where a class is selected (vote, pruning, thresholds), almost equal probabilities may fall on either side: such images
are counted separately, as close calls. Shapes: N images, M members, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercet.core.multilabel import MultilabelPredictions
from tercet.core.progress import next_phase
from tercet.data.inputs import ImageInputs
from tercet.ensemble.bundle import Bundle
from tercet.ensemble.combine import Combiner
from tercet.ensemble.combiners import AnyCombiner, FoldMean
from tercet.export.metadata import decoders, uses_beam_search
from tercet.inference.exported_model import ExportedModel, ModelOutput, Values

LIMIT = 1e-4
"""Largest allowed difference of a probability for fp32 files."""
WORST_LOSS = 0.005
"""Largest allowed loss of accuracy for int8 files; of agreement if no label is known."""
BATCHES = (7, 1, 2)
"""Batch sizes: all images are predicted with the first, and some of them with the others."""
_FEW = 32  # images that are predicted with the other sizes, which only show whether an image depends on its batch

ImageInput = NDArray[np.uint8]


@dataclass(frozen=True)
class VerificationImages:
    """Images on which outputs are compared."""

    images: tuple[ImageInput, ...]
    """Each H W 1 or H W 3."""
    labels: NDArray[np.int64] | None
    """N class indices, or N K label sets of 0 and 1; -1 if unknown. None: no labels."""
    source: str
    """Description of the images."""
    num_real: int = 0
    """Number of leading images that are real (not synthetic)."""


@dataclass(frozen=True)
class Verification:
    """Result of a comparison."""

    source: str
    """Description of the images."""
    images: int
    """Number of images."""
    batches: tuple[int, ...]
    """Batch sizes; all images were predicted with the largest, some of them with the others."""
    largest_gap: float
    """Largest difference of an ensemble probability, without close calls."""
    member_gap: float
    """Largest difference of a member's probability."""
    agreement: float
    """Fraction of images with equal predictions; close calls count as equal."""
    close_calls: int
    """Images whose prediction may change by a difference below the limit."""
    accuracy_change: float | None
    """Accuracy of the file minus that of the bundle (exact match for label sets); None without labels. The accuracies
    themselves are not given: epochs, ensemble and calibration may have been fitted on these images."""
    limit: float | None
    """Largest allowed gap; None for files with int8 members, which are checked by their predictions."""
    beam_differs: int | None = None
    """Images for which beam search decodes other labels than greedy decoding; None without beam search."""

    @property
    def passed(self) -> bool:
        """Whether the file matches the bundle."""
        if self.limit is not None:
            return max(self.largest_gap, self.member_gap) <= self.limit and self.agreement == 1
        return self.loss <= WORST_LOSS

    @property
    def loss(self) -> float:
        """Loss of accuracy; without labels, the fraction of changed predictions."""
        return 1 - self.agreement if self.accuracy_change is None else -self.accuracy_change

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {"passed": self.passed, **asdict(self)}

    def to_text(self) -> str:
        """Return a summary in plain text."""
        calls = f" ({self.close_calls} close call{'s' if self.close_calls > 1 else ''})" if self.close_calls else ""
        lines = [
            f"compared on: {self.images} images ({self.source}), batches of {', '.join(map(str, self.batches))}",
            f"largest difference of a probability: {self.largest_gap:.1e} (ensemble), {self.member_gap:.1e} (member)",
            f"equal predictions: {self.agreement:.2%}{calls}",
        ]
        if self.accuracy_change is not None and self.limit is None:
            lines.append(f"change of accuracy on the labelled images: {100 * self.accuracy_change:+.2f} points")
        if self.beam_differs is not None:
            lines.append(
                f"the file decodes labels greedily; the bundle's beam search differs on {self.beam_differs} images"
            )
        return "".join(f"{line}\n" for line in lines)


def compare_outputs(
    bundle: Bundle, model: ExportedModel, samples: VerificationImages, *, exact: bool = True
) -> Verification:
    """Compare a file with its bundle.

    Args:
        bundle: The reference.
        model: The file.
        samples: The images.
        exact: Whether the whole file computes in 32 bits.
    """
    next_phase("comparing the file with the bundle")
    expected = _bundle_output(bundle, samples.images)
    count = len(samples.images)
    close, labels = _close_calls(bundle, expected, LIMIT), expected.predicted
    few = np.union1d(np.linspace(0, count - 1, _FEW).astype(np.int64), np.arange(samples.num_real, count)[-_FEW:])
    same, gap, member_gap, correct = np.ones(count, dtype=np.bool_), 0.0, 0.0, None
    for size in BATCHES:
        rows = np.arange(count) if size == BATCHES[0] else few
        # all images are in memory anyway
        images = ((row, samples.images[row]) for row in rows.tolist())
        output = model.run_all(images, batch_size=size, max_bytes=math.inf)[1]
        same[rows] &= _equal_rows(output.predicted, labels[rows])
        gaps = abs(output.probabilities - expected.probabilities[rows]).max(axis=1)
        gap = max(gap, float(gaps[~close[rows]].max(initial=0.0)))
        member_gap = max(member_gap, float(abs(output.members - expected.members[rows]).max()))
        if size == BATCHES[0] and samples.labels is not None:
            known = (samples.labels.reshape(count, -1) >= 0).all(axis=1)
            both = (labels, output.predicted)
            correct = [float(_equal_rows(each, samples.labels)[known].mean()) for each in both] if known.any() else None
    beam_labels = _beam_search_labels(bundle, samples.images)
    return Verification(
        source=samples.source,
        images=count,
        batches=tuple(sorted(BATCHES)),
        largest_gap=gap,
        member_gap=member_gap,
        agreement=float((same | close).mean()),
        close_calls=int(close.sum()),
        accuracy_change=correct[1] - correct[0] if correct else None,
        limit=LIMIT if exact else None,
        beam_differs=None if beam_labels is None else int((beam_labels != expected.chosen).any(axis=1).sum()),
    )


def _equal_rows(first: NDArray[Any], second: NDArray[Any]) -> NDArray[np.bool_]:
    """Return for each of N rows whether all its values are equal."""
    return np.asarray((first == second).reshape(len(first), -1).all(axis=1))


def _bundle_output(bundle: Bundle, images: Sequence[ImageInput]) -> ModelOutput:
    with _greedy_decoding(bundle):
        combined, members = bundle.predict_with_members(ImageInputs([*images]))
    chosen = combined.chosen if isinstance(combined, MultilabelPredictions) else None
    return ModelOutput(combined.values, np.stack([member.values for member in members], axis=1), chosen)


def _beam_search_labels(bundle: Bundle, images: Sequence[ImageInput]) -> NDArray[np.bool_] | None:
    """Return the label sets predicted with beam search; None if no member uses it."""
    if bundle.sets is None or not uses_beam_search(bundle):
        return None
    predictions = bundle.predict([*images])
    assert isinstance(predictions, MultilabelPredictions)
    return predictions.chosen


@contextmanager
def _greedy_decoding(bundle: Bundle) -> Iterator[None]:
    """Set all beam sizes to 1, as in the file."""
    beams = [(decoder, decoder.beam_size) for decoder in decoders(bundle)]
    for decoder, _ in beams:
        decoder.beam_size = 1
    try:
        yield
    finally:
        for decoder, beam in beams:
            decoder.beam_size = beam


def _close_calls(bundle: Bundle, outputs: ModelOutput, limit: float) -> NDArray[np.bool_]:
    """Return for each image whether a change below `limit` may change its prediction."""
    if bundle.sets is not None:
        rule = bundle.sets
        member = abs(outputs.members - np.reshape(rule.thresholds, (1, -1, 1))).min(axis=(1, 2))
        combined = abs(outputs.probabilities - rule.threshold).min(axis=1)
        distance = {None: member, "vote": np.minimum(member, combined)}.get(rule.operation, combined)
        return np.asarray(distance < limit)
    close = _margin(outputs.probabilities, 1) < 2 * limit
    return np.asarray(close | _close_selections(bundle.combiner, outputs.members, limit))


def _close_selections(combiner: AnyCombiner | None, stack: Values, limit: float) -> NDArray[np.bool_]:
    """Return for each row of N M K whether a member's vote or pruning separates almost equal probabilities."""
    close = np.zeros(len(stack), dtype=np.bool_)
    if isinstance(combiner, FoldMean):
        first = 0
        for part in combiner.parts:
            close |= _close_selections(part.combiner, stack[:, first : first + part.num_members], limit)
            first += part.num_members
    elif isinstance(combiner, Combiner) and combiner.operation in ("vote", "pruned"):
        pruned = combiner.operation == "pruned"
        count = min(combiner.keep, stack.shape[2]) if pruned else 1
        matters = -np.sort(-stack, axis=2)[..., count - 1] > limit if pruned else True  # pruning a zero has no effect
        close |= ((_margin(stack, count) < 2 * limit) & matters).any(axis=1)
    return close


def _margin(values: Values, count: int) -> Values:
    """Return the difference between the last of the `count` highest values of each row and the next one."""
    if values.shape[-1] <= count:
        return np.ones(values.shape[:-1])
    ordered = -np.sort(-values, axis=-1)
    return np.asarray(ordered[..., count - 1] - ordered[..., count])
