"""The options of the verbs that let people see: reports, audits, explanations."""

from __future__ import annotations

from dataclasses import dataclass

from tercet.records.options import Options, Positional
from tercet.workflows.options import OutputConfig


@dataclass(frozen=True)
class ReportConfig:
    """What the page holds beside the runs, and where it goes."""

    output: str | None = None
    """HTML file (default: RUN/report.html; for several runs report.html here); figures go beside it."""
    leaderboard: str | None = None
    """CSV file with others' scores, columns name and score, drawn beside one's own."""
    title: str | None = None
    """The page's title (default: the run's folder and data)."""


REPORT = Options(
    "report",
    "Write one HTML page about runs of any verb, and its figures as PNG and SVG files. The page holds everything, "
    "needs no network, and reads well on a phone, on paper, in light and in dark.",
    groups=[("", ReportConfig), ("", OutputConfig)],
    positionals=[Positional("runs", "run folders", many=True)],
    examples=[
        "runs/photos-1",
        "runs/photos-1 runs/photos-2 --output both.html",
        "runs/photos-1 --leaderboard others.csv",
    ],
)
