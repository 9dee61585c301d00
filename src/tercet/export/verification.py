"""Does the file say what the bundle says? Both are asked about the same images, and every difference is told.

A class that is picked (by a vote, by pruning, by a threshold) can change where two probabilities are all but equal:
such images are counted apart, as close calls. Shapes: N images, M members, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tercet.core.predictions import Floats
from tercet.data.input_batches import InputBatches
from tercet.ensemble.bundle import Bundle
from tercet.ensemble.combine import Combiner
from tercet.ensemble.combiners import AnyCombiner, FoldMean
from tercet.export.onnx_assembly import decoders, uses_beam_search
from tercet.inference.outputs import ModelOutput, in_batches

LIMIT = 1e-4
"""Largest difference of any probability, in 32 bits."""
WORST_LOSS = 0.005
"""Largest loss of accuracy, or of agreement where no label is known, in 8 bits."""
BATCHES = (1, 2, 7)

ImageInput = NDArray[np.uint8]


class Predictor(Protocol):
    """An exported file that can be asked, whatever its form."""

    classes: tuple[str, ...]
    """K class names."""
    member_names: tuple[str, ...]
    """M names."""
    metadata: Mapping[str, Any]
    """What the file says of itself; see `description.describe`."""

    def run(self, images: NDArray[np.uint8]) -> ModelOutput:
        """Answer for images B H W 3 of one size."""
        ...


@dataclass(frozen=True)
class VerificationImages:
    """Images to ask about."""

    pictures: tuple[ImageInput, ...]
    """Each H W 1 or H W 3."""
    truth: NDArray[np.int64] | None
    """N class indices, or N K sets of 0 and 1; -1 where unknown. None: nothing is known."""
    source: str
    """Which ones they are, in words."""
    real: int = 0
    """How many of them, the first, are no drawn ones."""


@dataclass(frozen=True)
class Verification:
    """What was found."""

    source: str
    """Which images were asked about."""
    images: int
    """How many."""
    batches: tuple[int, ...]
    """Numbers of images an answer; all of them were asked in each."""
    largest_gap: float
    """Largest difference of a fused probability, close calls apart."""
    member_gap: float
    """Largest difference of a member's probability."""
    agreement: float
    """Share of images with the same answer, close calls apart."""
    close_calls: int
    """Images whose answer a difference below the limit may change."""
    accuracy_bundle: float | None
    """Share of right answers of the bundle (whole sets, where sets are told); None without labels."""
    accuracy_file: float | None
    """Likewise of the file."""
    limit: float | None
    """What no gap may exceed; None for a file with parts in 8 bits, which is judged by its answers."""
    beam_differs: int | None = None
    """Images for which the bundle's beam search names other labels than one greedy sequence; None without a search."""

    @property
    def passed(self) -> bool:
        """Whether the file says what the bundle says."""
        if self.limit is not None:
            return max(self.largest_gap, self.member_gap) <= self.limit and self.agreement == 1
        return self.loss <= WORST_LOSS

    @property
    def loss(self) -> float:
        """Loss of accuracy; without labels, the share of other answers."""
        if self.accuracy_bundle is None or self.accuracy_file is None:
            return 1 - self.agreement
        return self.accuracy_bundle - self.accuracy_file

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {"passed": self.passed, **asdict(self)}

    def to_text(self) -> str:
        """Return what people read."""
        lines = [
            f"asked about: {self.images} images ({self.source}), {', '.join(map(str, self.batches))} at a time",
            f"largest difference of a probability: {self.largest_gap:.1e} fused, {self.member_gap:.1e} of a member",
            f"same answer: {self.agreement:.2%}{_close(self.close_calls)}",
        ]
        if self.accuracy_bundle is not None and self.accuracy_file is not None:
            lines.append(f"accuracy: {self.accuracy_bundle:.2%} by the bundle, {self.accuracy_file:.2%} by the file")
        if self.beam_differs is not None:
            lines.append(
                f"the file names labels greedily; the bundle's beam search names others for {self.beam_differs} images"
            )
        return "".join(f"{line}\n" for line in lines)


def _close(calls: int) -> str:
    return f" ({calls} close call{'s' if calls > 1 else ''})" if calls else ""


def compare_outputs(bundle: Bundle, model: Predictor, shown: VerificationImages, *, exact: bool = True) -> Verification:
    """Ask both about the same images.

    Args:
        bundle: The Python road.
        model: The file.
        shown: The images.
        exact: Whether all of the file computes in 32 bits.
    """
    expected = _asked_bundle(bundle, shown.pictures)
    said = [_asked_file(model, shown.pictures, size) for size in BATCHES]
    close = _close_calls(bundle, expected, LIMIT)
    answers = [_answers(bundle, expected), *(_answers(bundle, one) for one in said)]
    same = np.all([(one == answers[0]).reshape(len(close), -1).all(axis=1) for one in answers[1:]], axis=0)
    gaps = [abs(one.probabilities - expected.probabilities).max(axis=1) for one in said]
    accuracies = None
    if shown.truth is not None:
        known = (shown.truth.reshape(len(close), -1) >= 0).all(axis=1)
        right = [(one == shown.truth).reshape(len(close), -1).all(axis=1)[known] for one in answers]
        accuracies = [float(one.mean()) for one in right] if known.any() else None
    searched = _searched_sets(bundle, shown.pictures)
    return Verification(
        source=shown.source,
        images=len(shown.pictures),
        batches=BATCHES,
        largest_gap=float(np.max(gaps, axis=0)[~close].max(initial=0.0)),
        member_gap=float(max(abs(one.members - expected.members).max() for one in said)),
        agreement=float((same | close).mean()),
        close_calls=int(close.sum()),
        accuracy_bundle=accuracies[0] if accuracies else None,
        accuracy_file=min(accuracies[1:]) if accuracies else None,
        limit=LIMIT if exact else None,
        beam_differs=None if searched is None else int((searched != expected.chosen).any(axis=1).sum()),
    )


@dataclass(frozen=True)
class _Said:
    probabilities: Floats
    members: Floats
    chosen: NDArray[np.bool_] | None


def _answers(bundle: Bundle, said: _Said) -> NDArray[np.int64]:
    """Return class indices N, or sets N K of 0 and 1."""
    values = said.probabilities.argmax(axis=1) if said.chosen is None else said.chosen
    return np.asarray(values, dtype=np.int64)


def _asked_bundle(bundle: Bundle, pictures: Sequence[ImageInput]) -> _Said:
    source = InputBatches(list(pictures), bundle.specs, batch_size=32)
    if bundle.sets is None:
        members = bundle.predict_member_batches(source)
        stack = np.stack([member.probabilities for member in members], axis=1)
        return _Said(bundle.combine(members).probabilities, stack, None)
    with _greedy(bundle):
        sets = bundle.predict_member_labels(source)
    fused = bundle.sets.combine(sets)
    return _Said(fused.scores, np.stack([one.scores for one in sets], axis=1), fused.chosen)


def _searched_sets(bundle: Bundle, pictures: Sequence[ImageInput]) -> NDArray[np.bool_] | None:
    """Return the sets that a beam search finds; None where nothing searches."""
    if bundle.sets is None or not uses_beam_search(bundle):
        return None
    source = InputBatches(list(pictures), bundle.specs, batch_size=32)
    return bundle.sets.combine(bundle.predict_member_labels(source)).chosen


@contextmanager
def _greedy(bundle: Bundle) -> Iterator[None]:
    """Let the decoders follow one sequence, as the file does."""
    beams = [(decoder, decoder.beam_size) for decoder in decoders(bundle)]
    for decoder, _ in beams:
        decoder.beam_size = 1
    try:
        yield
    finally:
        for decoder, beam in beams:
            decoder.beam_size = beam


def _asked_file(model: Predictor, pictures: Sequence[ImageInput], size: int) -> _Said:
    """Ask in batches of images of one size; those left over make smaller ones."""
    found: dict[int, tuple[ModelOutput, int]] = {}
    for rows, images in in_batches(enumerate(pictures), size, max_bytes=math.inf):  # they are all here anyway
        output = model.run(images)
        found |= {row: (output, place) for place, row in enumerate(rows)}
    pairs = [found[row] for row in range(len(pictures))]
    chosen = [output.chosen[place] for output, place in pairs if output.chosen is not None]
    return _Said(
        np.stack([output.probabilities[place] for output, place in pairs]).astype(np.float64),
        np.stack([output.members[place] for output, place in pairs]).astype(np.float64),
        np.stack(chosen) if chosen else None,
    )


def _close_calls(bundle: Bundle, said: _Said, limit: float) -> NDArray[np.bool_]:
    """Tell of each image whether a change below `limit` may change its answer."""
    if bundle.sets is not None:
        rule = bundle.sets
        own = abs(said.members - np.reshape(rule.thresholds, (1, -1, 1))).min(axis=(1, 2))
        fused = abs(said.probabilities - rule.threshold).min(axis=1)
        distance = own if rule.method == "single" else np.minimum(own, fused) if rule.method == "vote" else fused
        return np.asarray(distance < limit)
    close = _margin(said.probabilities, 1) < 2 * limit
    return np.asarray(close | _picked_closely(bundle.combiner, said.members, limit))


def _picked_closely(combiner: AnyCombiner | None, stack: Floats, limit: float) -> NDArray[np.bool_]:
    """Tell of each row of a stack N M K whether members pick classes that are all but equal to others."""
    close = np.zeros(len(stack), dtype=np.bool_)
    if isinstance(combiner, FoldMean):
        first = 0
        for part in combiner.parts:
            close |= _picked_closely(part.combiner, stack[:, first : first + part.num_members], limit)
            first += part.num_members
    elif isinstance(combiner, Combiner) and combiner.method in ("vote", "pruned"):
        pruned = combiner.method == "pruned"
        kept = min(combiner.keep, stack.shape[2]) if pruned else 1
        matters = -np.sort(-stack, axis=2)[..., kept - 1] > limit if pruned else True  # to prune a zero changes nothing
        close |= ((_margin(stack, kept) < 2 * limit) & matters).any(axis=1)
    return close


def _margin(values: Floats, kept: int) -> Floats:
    """Return how far the last value that is kept of each row is above the first that is not."""
    if values.shape[-1] <= kept:
        return np.ones(values.shape[:-1])
    ordered = -np.sort(-values, axis=-1)
    return np.asarray(ordered[..., kept - 1] - ordered[..., kept])
