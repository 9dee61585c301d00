"""The options of the verbs that let people see: reports, audits, explanations."""

from __future__ import annotations

from dataclasses import dataclass

from tercet.records.audit_config import AuditConfig
from tercet.records.config import DataConfig
from tercet.records.options import Options, Positional
from tercet.workflows.options import ALIASES, OutputConfig


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
AUDIT = Options(
    "audit",
    "Look at data before training: bad images, copies, leaks, labels. Told are unreadable images, equal and near "
    "duplicates within and across splits, groups in several splits, small and missing classes and, with --run, "
    "suspicious labels. With --output a page shows them.",
    groups=[("", AuditConfig), ("data", DataConfig), ("", OutputConfig)],
    positionals=[Positional("data", "folder of images by class, table, zip, or name of a data set")],
    aliases=ALIASES,
    examples=["photos/ --output look/", "photos/ --fail-on leakage,unreadable"],
)
