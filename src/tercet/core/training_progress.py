"""Live screen of trainings: one bar for all, and one for each that runs; without a terminal, one line per epoch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from tercet.core.output import printable
from tercet.core.progress import PHASE_SECONDS, print_status

_RATE_SECONDS = 5.0
"""Seconds over which images per second are averaged."""
_OTHER_COLUMNS = 26
"""Columns of the bar and the remaining time."""


@dataclass(frozen=True)
class TrainingLength:
    """Length of a training, as far as it is known before it starts."""

    epochs: Sequence[int | None] = ()
    """Largest number of epochs of each stage; None for a stage that is limited by steps."""
    batch_size: int = 0
    """Images per step; 0 if unknown."""

    def position(self, stage: int, epoch: int) -> str:
        """Return stage and epoch (from 0) with their totals."""
        total = self.epochs[stage] if stage < len(self.epochs) else None
        epochs = f"epoch {epoch + 1}" + (f"/{total}" if total is not None else "")
        return epochs if len(self.epochs) <= 1 and stage == 0 else f"stage {stage + 1}/{len(self.epochs)}, {epochs}"

    def fraction(self, stage: int, epoch: int, steps: int, step: int, total_steps: int) -> float:
        """Return the finished part of the training.

        Args:
            stage: Stage, from 0.
            epoch: Epoch within the stage, from 0.
            steps: Steps since the start of the epoch.
            step: Steps of all stages so far; stages that end early have fewer than planned.
            total_steps: Planned steps of all stages.
        """
        known = [epochs for epochs in self.epochs if epochs is not None]
        if len(known) < len(self.epochs) or not known:
            return min(1.0, step / max(1, total_steps))
        epoch_steps = max(1.0, total_steps / sum(known))
        return min(1.0, (sum(known[:stage]) + epoch + min(1.0, steps / epoch_steps)) / sum(known))


@dataclass
class _Training:
    """A running training."""

    title: str
    length: TrainingLength
    clock: Callable[[], float]
    task: TaskID
    started: float
    first: float | None = None
    """Fraction at the first step, which is not 0 after a resume."""
    fraction: float = 0.0
    epoch: tuple[int, int] = (0, 0)
    """Stage and epoch."""
    epoch_step: int = 0
    """Steps before the epoch."""
    rate_start: tuple[float, int] | None = None
    """Time and step from which the rate is measured."""
    rate: float | None = None
    """Images per second."""
    score: str = ""
    best: str = ""
    phases: dict[str, float] = field(default_factory=dict)
    """Start of each phase; infinite once it was reported."""

    def count(self, stage: int, epoch: int, step: int, total_steps: int) -> None:
        """Count a step."""
        now = self.clock()
        if (stage, epoch) != self.epoch:
            self.epoch, self.epoch_step = (stage, epoch), step - 1
        self.fraction = self.length.fraction(stage, epoch, step - self.epoch_step, step, total_steps)
        if self.first is None:
            self.first, self.started = self.fraction, now
        begin, begin_step = self.rate_start or (now, step)
        if now - begin >= _RATE_SECONDS or (self.rate is None and now > begin):
            self.rate = (step - begin_step) * self.length.batch_size / (now - begin)
        if self.rate_start is None or now - begin >= _RATE_SECONDS:
            self.rate_start = now, step

    def duration(self) -> float | None:
        """Return the estimated seconds of the whole training."""
        gained = self.fraction - (self.first or 0.0)
        return (self.clock() - self.started) / gained if gained > 0 else None

    def remaining(self) -> float | None:
        """Return the estimated seconds to its end."""
        seconds = self.duration()
        return None if seconds is None else seconds * (1 - self.fraction)

    def state(self, width: int) -> str:
        """Return position, score, best score and rate, as far as they fit."""
        parts = [self.length.position(*self.epoch), self.score, self.best]
        parts += [f"{self.rate:,.0f} images/s"] if self.rate else []
        text = ""
        for part in filter(None, parts):
            longer = f"{text}  {part}" if text else part
            text = longer if len(longer) <= width or not text else text
        return text


class ProgressDisplay:
    """Bars of trainings (terminals and notebooks only), one line per epoch, and one for each training that fails.

    Args:
        console: Where to write.
        split: Name of the split whose scores are monitored.
        total: Number of trainings, also of those that wait (default: unknown).
        clock: Returns the time in seconds.
    """

    def __init__(
        self,
        console: Console,
        *,
        split: str = "validation",
        total: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.console, self.split, self.total, self.clock = console, split, total, clock
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[state]}", markup=False),
            TextColumn("{task.fields[remaining]}", markup=False),
        )
        # Rich draws the bars of a notebook with ipywidgets, and warns without them
        bars = console.is_terminal or (console.is_jupyter and find_spec("ipywidgets") is not None)
        self.progress = Progress(*columns, console=console, transient=True, disable=not bars)
        self.parallel = 1
        """Number of trainings that run at a time."""
        self.trainings: dict[str, _Training] = {}
        self.durations: list[float] = []
        """Seconds of the trainings that ended."""
        self.finished = self.failed = 0
        self._overall: TaskID | None = None

    def begin(self, title: str, length: TrainingLength) -> None:
        """Add the bar of a training."""
        if self._overall is None and self.total > 1:
            self._overall = self._add("all trainings", 1.0)
        task = self._add(printable(title), 1.0)
        self.trainings[title] = _Training(title, length, self.clock, task, self.clock())
        self._update_overall()

    def _add(self, title: str, total: float) -> TaskID:
        return self.progress.add_task(title, total=total, state="starting", remaining="")

    def step(self, title: str, *, stage: int, epoch: int, step: int, total_steps: int) -> None:
        """Update the bar of a training."""
        training = self.trainings[title]
        training.count(stage, epoch, step, total_steps)
        remaining = _remaining_text(training.remaining()) if training.fraction < 1.0 else "saving"
        self._show(training, training.fraction, training.state(self._state_width()), remaining)
        self._update_overall()

    def epoch(self, title: str, row: Mapping[str, Any]) -> None:
        """Print losses and score of an epoch."""
        training, scores = self.trainings.get(title), row["validation"]
        first = next((name for name in scores if name != "loss"), "")  # accuracy, or O-F1 for multi-label data
        fitted = row.get("step") == 0  # a head without gradient steps
        result = f"{self.split} loss {scores['loss']:.3f}, {first} {scores[first]:.4f}, " if scores else ""
        length = training.length if training is not None else TrainingLength()
        if training is not None and scores:
            training.score = f"{first} {scores[first]:.4f}"
            training.best = f"best {scores[first]:.4f}" if row["best"] else training.best
        place = row["note"] if fitted else length.position(row["stage"], row["epoch"])
        print_status(
            self.console,
            f"{title}: {place}: train loss {row['train_loss']:.3f}, {result}"
            f"{row['seconds']:.1f} s{' (best so far)' if row['best'] and not fitted else ''}",
        )

    def phase(self, title: str, *, name: str, done: int, total: int) -> None:
        """Show the progress of a part of a training without steps; without bars, print one line if it takes long."""
        training = self.trainings[title]
        now = self.clock()
        started = training.phases.setdefault(name, now)
        text = f"{name}: {done:,} of {total:,} images"
        rate = done / (now - started) if done and math.isfinite(started) and now > started else None
        self._show(training, done / max(1, total), text, _remaining_text((total - done) / rate if rate else None))
        if self.progress.disable and now - started > PHASE_SECONDS and done < total:
            training.phases[name] = math.inf
            print_status(self.console, f"{title}: {text}")

    def end(self, title: str, failure: str | None = None) -> None:
        """Remove the bar of a training; one that failed keeps its line, with the reason.

        Args:
            title: Label of the training.
            failure: Why it failed; None if it did not.
        """
        training = self.trainings.pop(title, None)
        if failure is not None:
            self.failed += 1
            print_status(self.console, f"{title}: FAILED: {failure}")
        if training is None:
            return
        if failure is not None:
            width = self._state_width()
            reason = printable(failure)
            self._show(training, training.fraction, f"FAILED: {reason}"[:width], "")
            self.progress.stop_task(training.task)
        else:
            self.finished += 1
            self.durations.append(training.duration() or self.clock() - training.started)
            self.progress.remove_task(training.task)
        self._update_overall()

    def _show(self, training: _Training, fraction: float, state: str, remaining: str) -> None:
        self.progress.update(training.task, completed=fraction, state=state, remaining=remaining)

    def _state_width(self) -> int:
        titles = [len(task.description) for task in self.progress.tasks]
        return max(12, self.console.width - max(titles, default=0) - _OTHER_COLUMNS)

    def _update_overall(self) -> None:
        if self._overall is None:
            return
        ended = self.finished + self.failed
        state = f"{ended} of {self.total} done" + (f", {self.failed} failed" if self.failed else "")
        fraction = (ended + sum(training.fraction for training in self.trainings.values())) / self.total
        remaining = _remaining_text(self.remaining())
        self.progress.update(self._overall, completed=fraction, state=state, remaining=remaining)

    def remaining(self) -> float | None:
        """Return the estimated seconds to the end of all trainings, running and waiting; None if unknown."""
        running = list(self.trainings.values())
        known = [seconds for training in running if (seconds := training.duration()) is not None]
        durations = [*self.durations, *known]
        if not durations:
            return None
        mean = sum(durations) / len(durations)
        left = [mean if (seconds := training.remaining()) is None else seconds for training in running]
        waiting = max(0, self.total - self.finished - self.failed - len(running))
        return max([(sum(left) + waiting * mean) / self.parallel, *left])


def _remaining_text(seconds: float | None) -> str:
    """Return hours, minutes and seconds; empty if unknown."""
    if seconds is None or not math.isfinite(seconds):
        return ""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02} left"
