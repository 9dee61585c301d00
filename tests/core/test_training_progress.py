"""The live screen of trainings, its lines without a terminal, and phases."""

import io
import re
import time
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from tercet.core import progress, training_progress
from tercet.core.progress import next_phase, phase
from tercet.core.training_progress import ProgressDisplay, TrainingLength

PAPER = TrainingLength((40, 15, 15), 32)
ROW = {"stage": 1, "epoch": 0, "train_loss": 0.4, "seconds": 0.1, "best": True, "step": 9, "note": ""}
SCORES = {"loss": 0.5, "accuracy": 0.75}


class Clock:
    """Seconds that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def text_of(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def piped() -> Console:
    return Console(file=io.StringIO())


def terminal(width: int = 120) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)


def bars(display: ProgressDisplay) -> dict[str, dict[str, Any]]:
    """Return state, remaining time and fraction of each bar by title."""
    return {
        task.description: {**task.fields, "fraction": task.completed / (task.total or 1.0)}
        for task in display.progress.tasks
    }


@pytest.mark.parametrize(
    ("length", "changes", "line"),
    [
        (PAPER, {}, "cnn: stage 2/3, epoch 1/15: train loss 0.400, validation loss 0.500, accuracy 0.7500, 0.1 s"),
        (TrainingLength((10,), 8), {"stage": 0, "epoch": 9}, "cnn: epoch 10/10: train loss 0.400"),
        (TrainingLength((None, 5)), {"stage": 0, "epoch": 3}, "cnn: stage 1/2, epoch 4: train loss"),
        (TrainingLength(), {"stage": 0, "step": 0, "note": "ridge, alpha 1"}, "cnn: ridge, alpha 1: train loss 0.400"),
        (PAPER, {"validation": {}}, "cnn: stage 2/3, epoch 1/15: train loss 0.400, 0.1 s"),
    ],
)
def test_an_epoch_is_one_line_without_control_characters(
    length: TrainingLength, changes: dict[str, Any], line: str
) -> None:
    display = ProgressDisplay(piped())
    row = {**ROW, "validation": SCORES, **changes}
    with display.progress:
        display.begin("cnn", length)
        display.step("cnn", stage=0, epoch=0, step=1, total_steps=70)
        display.epoch("cnn", row)
        display.epoch("cnn", {**row, "best": False})
        display.end("cnn")
    first, second = text_of(display.console).splitlines()
    assert first.startswith(line)
    assert first == (second if row["step"] == 0 else f"{second} (best so far)")
    assert text_of(display.console).replace("\n", "").isprintable()


def test_a_bar_has_position_score_best_rate_and_remaining_time() -> None:
    clock = Clock()
    display = ProgressDisplay(terminal(), clock=clock)
    display.begin("cnn", TrainingLength((4,), 32))
    for step in range(1, 11):  # half of 4 epochs with 5 steps
        clock.now += 2.0
        epoch = (step - 1) // 5
        display.step("cnn", stage=0, epoch=epoch, step=step, total_steps=20)
        if step % 5 == 0:
            scores = {"loss": 1.0, "accuracy": 0.9 - 0.1 * epoch}
            display.epoch("cnn", {**ROW, "stage": 0, "epoch": epoch, "validation": scores, "best": epoch == 0})
    display.step("cnn", stage=0, epoch=1, step=10, total_steps=20)
    bar = bars(display)["cnn"]
    assert bar["state"] == "epoch 2/4  accuracy 0.8000  best 0.9000  16 images/s"
    assert bar["fraction"] == pytest.approx(0.5) and bar["remaining"] == "0:00:20 left"
    display.step("cnn", stage=0, epoch=3, step=20, total_steps=20)
    display.step("cnn", stage=0, epoch=3, step=25, total_steps=20)
    assert bars(display)["cnn"]["remaining"] == "saving"


def test_a_narrow_terminal_keeps_the_position() -> None:
    display = ProgressDisplay(terminal(50))
    display.begin("cnn", PAPER)
    display.epoch("cnn", {**ROW, "validation": SCORES})
    display.step("cnn", stage=1, epoch=1, step=10, total_steps=70)
    assert bars(display)["cnn"]["state"] == "stage 2/3, epoch 2/15"


def test_stages_that_end_early_count_as_done() -> None:
    clock = Clock()
    display = ProgressDisplay(terminal(), clock=clock)
    display.begin("cnn", TrainingLength((10, 10), 8))
    display.step("cnn", stage=0, epoch=0, step=1, total_steps=200)
    display.step("cnn", stage=1, epoch=0, step=21, total_steps=200)  # the first stage ended after two epochs
    assert bars(display)["cnn"]["fraction"] == pytest.approx(0.505)


def test_the_overall_bar_counts_trainings_that_wait() -> None:
    clock = Clock()
    display = ProgressDisplay(terminal(), total=4, clock=clock)
    display.parallel = 2
    for title in ("a", "b"):
        display.begin(title, TrainingLength((1,), 8))
        display.step(title, stage=0, epoch=0, step=0, total_steps=10)
    assert display.remaining() is None
    clock.now = 10.0
    for title in ("a", "b"):
        display.step(title, stage=0, epoch=0, step=5, total_steps=10)
    assert display.remaining() == pytest.approx(30.0)  # 10 s of each, then two that take 20 s
    overall = bars(display)["all trainings"]
    assert overall["fraction"] == pytest.approx(0.25) and overall["remaining"] == "0:00:30 left"
    display.end("a")
    display.end("b", "out of memory")
    assert bars(display)["all trainings"]["state"] == "2 of 4 done, 1 failed"


def test_a_resumed_training_is_not_taken_for_a_fast_one() -> None:
    clock = Clock()
    display = ProgressDisplay(terminal(), clock=clock)
    display.begin("cnn", TrainingLength((10,), 8))
    clock.now = 100.0  # time to start
    display.step("cnn", stage=0, epoch=8, step=80, total_steps=100)
    clock.now = 110.0
    display.step("cnn", stage=0, epoch=9, step=91, total_steps=100)
    assert display.remaining() == pytest.approx(10.0 * 9 / 11, rel=0.2)


def test_a_failure_is_printed_at_once_and_stays_on_the_screen() -> None:
    display = ProgressDisplay(terminal(), total=2)
    with display.progress:
        for title in ("a", "b"):
            display.begin(title, PAPER)
        display.end("a", "no weights [bold]\x1b[2J")
        display.end("b")
        assert set(bars(display)) == {"all trainings", "a"}
        assert bars(display)["a"]["state"].startswith("FAILED: no weights [bold]")
    assert "a: FAILED: no weights [bold]" in text_of(display.console)
    assert "\x1b[2J" not in text_of(display.console)


def test_a_phase_of_a_training_is_one_line_if_it_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_progress, "PHASE_SECONDS", 2.0)
    clock = Clock()
    display = ProgressDisplay(piped(), clock=clock)
    display.begin("probe", TrainingLength())
    for second in range(6):
        clock.now = float(second)
        display.phase("probe", name="features", done=100 * second, total=5000)
    assert text_of(display.console) == "probe: features: 300 of 5,000 images\n"


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PHASE_SECONDS", 0.0)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.001)


@pytest.mark.usefixtures("at_once")
def test_a_long_phase_is_one_line_in_a_pipe() -> None:
    console = piped()
    with phase(console, "combining [members]"):
        wait_for(lambda: "combining" in text_of(console))
        next_phase("calibrating")
        wait_for(lambda: "calibrating" in text_of(console))
    assert text_of(console) == "combining [members] ...\ncalibrating ...\n"


def test_a_short_phase_leaves_no_line() -> None:
    console = piped()
    with phase(console, "combining"), phase(console, "writing"):
        next_phase("calibrating")
    next_phase("nothing is open")
    assert text_of(console) == ""


def test_a_phase_is_a_spinner_on_a_terminal_and_restores_the_outer_one() -> None:
    console = terminal()

    def last() -> str:
        return (re.findall(r"(exporting \[bold\]|verifying) \.\.\.", text_of(console)) or [""])[-1]

    with phase(console, "exporting [bold]"):
        wait_for(lambda: last() == "exporting [bold]")
        with phase(console, "verifying"):
            wait_for(lambda: last() == "verifying")
            assert last() == "verifying"
        wait_for(lambda: last() == "exporting [bold]")
        assert last() == "exporting [bold]"


def test_a_phase_ends_with_an_error() -> None:
    console = terminal()
    with pytest.raises(RuntimeError, match="full"), phase(console, "writing"):
        raise RuntimeError("full")
    with phase(console, "writing"):  # a spinner that still ran would be an error
        pass
