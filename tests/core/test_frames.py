"""Short representations, data frames and the default console."""

import numpy as np
import pytest
from rich.console import Console

import tercet
from tercet.core.output import CommandResult
from tercet.core.progress import as_console
from tercet.core.training_progress import ProgressDisplay


def test_predictions_are_short_text_and_data_frames() -> None:
    predictions = tercet.Predictions.of(np.eye(3), labels=[0, 2, -1], classes=["a", "b", "c"])
    assert repr(predictions) == "<Predictions: 3 samples, 3 classes, accuracy 0.5000 of 2 labelled>"
    frame = predictions.to_frame()
    assert frame.columns.tolist() == ["id", "label", "predicted", "probability.a", "probability.b", "probability.c"]
    assert frame["label"].tolist()[:2] == ["a", "c"] and frame["label"].isna()[2]
    sets = tercet.MultilabelPredictions.from_logits(np.eye(2), ids="xy", classes="ab", truth=[[1, 0], [-1, -1]])
    assert repr(sets) == "<MultilabelPredictions: 2 samples, 2 labels, 1 with known labels>"
    assert sets.to_frame()["predicted"].tolist() == [("a",), ("b",)]
    assert repr(CommandResult("text\n", {})) == "text"


def test_progress_is_lines_in_a_pipe_and_silent_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    given = Console()
    assert as_console(given) is given
    for console, text in ((None, "line\n"), (False, "")):
        display = ProgressDisplay(as_console(console))
        assert display.progress.disable
        display.console.print("line")
        assert capsys.readouterr().err == text
