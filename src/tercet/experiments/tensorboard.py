"""Pictures for TensorBoard at each stage's end: the confusion matrix on the split that chooses, and 16 of its images.

They cost no forward pass: a scorer that stands between the training and the real one remembers what each validation
said, and the observer draws the best of the stage. After a resume only the validations since then are known.
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
from tercet.training.callbacks import Callback, TensorBoard, TrainingProgress

_SHOWN = 16
_SIDE = 96
_DPI = 110


@dataclass(frozen=True)
class _Said:
    """What one validation said about N samples."""

    labels: Ints
    predicted: Ints
    sure: Floats
    """Probability of the predicted class, for the samples that are shown."""


class StageImages:
    """Remembers validations as their scorer, and draws the best one when a stage ends.

    Args:
        board: Where the pictures go.
        scorer: The real scorer.
        classes: K class names.
        store: The images.
        rows: The samples that are validated, in that order.
        monitor: What is best.
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
        self._shown = np.unique(np.linspace(0, len(rows) - 1, _SHOWN).astype(np.int64))
        self._latest: _Said | None = None
        self._best: tuple[EpochRow, _Said] | None = None

    def score(self, logits: ArrayLike, labels: ArrayLike) -> dict[str, float]:
        """Return the real scorer's scores of logits (N K), and remember what they say."""
        values, truth = np.asarray(logits), np.asarray(labels)
        few = values[self._shown].astype(np.float64)
        shares = np.exp(few - few.max(axis=1, keepdims=True))
        self._latest = _Said(truth, values.argmax(axis=1), shares.max(axis=1) / shares.sum(axis=1))
        return self.scorer(values, truth)

    def step(self, progress: TrainingProgress) -> None:
        """Updates are not drawn."""

    def epoch(self, row: EpochRow) -> None:
        """Keep the stage's best validation; draw it with the stage's last epoch."""
        if self._latest is None:
            return
        if self._best is None or is_better(self.monitor, row.validation, self._best[0].validation):
            self._best = (row, self._latest)
        if row.note:
            self._draw(*self._best, step=row.step)
            self._best = None

    def _draw(self, row: EpochRow, said: _Said, *, step: int) -> None:
        # An extra, and half a second of imports: only here, where a stage has ended and pictures are wanted.
        from tercet.plots import grids, matrices, style

        title = f"stage {row.stage + 1}, epoch {row.epoch + 1}"
        figure, (axes,) = style.new_figure(6.4, 5.8)
        matrix = confusion_matrix(said.labels, said.predicted, labels=np.arange(len(self.classes)))
        matrices.confusion(axes, matrix, self.classes, rates=True)
        figure.suptitle(title, fontsize="medium")
        self.board.image("confusion/validation", style.pixels(figure, dpi=_DPI), step)

        figure, _ = style.new_figure(6.4, 7.6)
        truth, answers = said.labels[self._shown], said.predicted[self._shown]
        titles = [
            (f"true {self.classes[label]}", f"said {self.classes[answer]} {sure:.2f}")
            for label, answer, sure in zip(truth, answers, said.sure, strict=True)
        ]
        images = [grids.shrink(self._store.read(int(row)), _SIDE) for row in self._rows[self._shown]]
        shades = [style.PALETTE[0] if right else style.PALETTE[3] for right in truth == answers]
        grids.image_grid(figure, images, titles, columns=4, colours=shades)
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
    """Return the scorer and the observers of a training, with pictures where TensorBoard and matplotlib are there.

    Args:
        boards: The training's TensorBoard, if it has one.
        scorer: Scores its validations.
        classes: K class names.
        store: The images.
        rows: The samples that are validated, in that order.
        monitor: What is best.
    """
    if not boards or find_spec("matplotlib") is None:
        return scorer, list(boards)
    images = StageImages(boards[0], scorer, classes=classes, store=store, rows=rows, monitor=monitor)
    return images.score, [*boards, images]
