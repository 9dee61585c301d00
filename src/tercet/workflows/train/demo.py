"""The first run: three different members on real handwritten digits, fused in every way, in two minutes."""

from __future__ import annotations

from rich.console import Console

from tercet.workflows.options.run import TRAIN
from tercet.workflows.train.run import Run, run_training

MEMBERS = (
    {"model": "small-cnn", "epochs": 30, "augment": "light"},
    {"model": "row-lstm", "epochs": 60, "augment": "light"},
    {"model": "test_resnet", "pretrained": False, "input.size": [32], "epochs": 20, "augment": "light"},
)
"""A small CNN, an LSTM that reads the image row by row, and a residual network."""


def demo(*, output: str | None = None, console: Console | None = None) -> Run:
    """Train and fuse the demonstration's members on scikit-learn's digits; no download, one fixed split and seed.

    Args:
        output: Run folder (default: the next free one under runs/).
        console: Where to report progress; silent by default.
    """
    options = {"members": list(MEMBERS), "lr": 2e-3, "schedule": "cosine", "output": output}
    return run_training("digits", TRAIN.parse_object(options), resume=None, console=console or Console(quiet=True))
