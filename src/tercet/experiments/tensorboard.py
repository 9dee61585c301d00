"""TensorBoard images at the end of each stage: confusion matrix and 16 samples of the monitored split.

They cost no forward pass: `StageImages` wraps the scorer, records the latest validation, and draws the best one of the
stage. After a resume, only the validations since then are available.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
from numpy.typing import ArrayLike
from sklearn.metrics import confusion_matrix

from tercet.config.training import Monitor
from tercet.core.history import EpochRow
from tercet.core.predictions import Floats, Ints
from tercet.data.data_module import Rows
from tercet.data.image_cache import CachedImages
from tercet.metrics.classification import Scorer, is_better
from tercet.training.callbacks import Callback, TensorBoard

_SAMPLES = 16
_SIDE = 96
_DPI = 110


@dataclass(frozen=True)
class _Validation:
    """Result of one validation on N samples."""

    labels: Ints
    predicted: Ints
    confidence: Floats
    """Probability of the predicted class, for the drawn samples only."""


class StageImages:
    """Scorer and callback that records validations and draws the best one when a stage ends.

    Args:
        board: Destination of the images.
        scorer: The wrapped scorer.
        classes: K class names.
        store: The images.
        rows: The validated samples, in this order.
        monitor: Score that determines the best epoch.
    """

    def __init__(
        self,
        board: TensorBoard,
        scorer: Scorer,
        *,
        classes: Sequence[str],
        store: CachedImages,
        rows: Rows,
        monitor: Monitor,
    ) -> None:
        self.board, self.scorer, self.classes, self.monitor = board, scorer, classes, monitor
        self._store, self._rows = store, rows
        self._samples = np.unique(np.linspace(0, len(rows) - 1, _SAMPLES).astype(np.int64))
        self._latest: _Validation | None = None
        self._best: tuple[EpochRow, _Validation] | None = None

    def score(self, logits: ArrayLike, labels: ArrayLike) -> dict[str, float]:
        """Return the wrapped scorer's scores of logits (N K), and record the predictions."""
        values, labels = np.asarray(logits), np.asarray(labels)
        drawn = values[self._samples].astype(np.float64)
        exponentials = np.exp(drawn - drawn.max(axis=1, keepdims=True))
        confidence = exponentials.max(axis=1) / exponentials.sum(axis=1)
        self._latest = _Validation(labels, values.argmax(axis=1), confidence)
        return self.scorer(values, labels)

    def on_epoch_end(self, row: EpochRow) -> None:
        """Keep the stage's best validation; draw it after the last epoch of the stage."""
        if self._latest is None:
            return
        if self._best is None or is_better(self.monitor, row.validation, self._best[0].validation):
            self._best = (row, self._latest)
        if row.note:
            self._draw(*self._best, step=row.step)
            self._best = None

    def _draw(self, row: EpochRow, validation: _Validation, *, step: int) -> None:
        # matplotlib is an optional dependency and takes half a second to import
        from tercet.plots import grids, matrices, style

        title = f"stage {row.stage + 1}, epoch {row.epoch + 1}"
        figure, (axes,) = style.new_figure(6.4, 5.8)
        matrix = confusion_matrix(validation.labels, validation.predicted, labels=np.arange(len(self.classes)))
        matrices.confusion(axes, matrix, self.classes, rates=True)
        figure.suptitle(title, fontsize="medium")
        self.board.image("confusion/validation", style.pixels(figure, dpi=_DPI), step)

        figure, _ = style.new_figure(6.4, 7.6)
        labels, predicted = validation.labels[self._samples], validation.predicted[self._samples]
        titles = [
            (f"true {self.classes[label]}", f"predicted {self.classes[prediction]} {confidence:.2f}")
            for label, prediction, confidence in zip(labels, predicted, validation.confidence, strict=True)
        ]
        images = [grids.shrink(self._store.read(int(row)), _SIDE) for row in self._rows[self._samples]]
        colours = [style.PALETTE[0] if correct else style.PALETTE[3] for correct in labels == predicted]
        grids.image_grid(figure, images, titles, columns=4, colours=colours)
        figure.suptitle(title, fontsize="medium")
        self.board.image("samples/validation", style.pixels(figure, dpi=_DPI), step)


def stage_images(
    boards: Sequence[TensorBoard],
    scorer: Scorer,
    *,
    classes: Sequence[str],
    store: CachedImages,
    rows: Rows,
    monitor: Monitor,
) -> tuple[Scorer, list[Callback]]:
    """Return scorer and callbacks of a training, with stage images if TensorBoard and matplotlib are installed.

    Args:
        boards: The training's TensorBoard writer, if any.
        scorer: Scores validations.
        classes: K class names.
        store: The images.
        rows: The validated samples, in this order.
        monitor: Score that determines the best epoch.
    """
    if not boards or find_spec("matplotlib") is None:
        return scorer, list(boards)
    images = StageImages(boards[0], scorer, classes=classes, store=store, rows=rows, monitor=monitor)
    return images.score, [*boards, images]
