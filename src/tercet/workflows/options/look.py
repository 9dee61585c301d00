"""Options of `report`, `audit` and `explain`."""

from __future__ import annotations

from dataclasses import dataclass

from tercet.records.audit_config import AuditConfig
from tercet.records.config import DataConfig
from tercet.records.options import Options, Positional
from tercet.workflows.options.run import ALIASES, OutputConfig


@dataclass(frozen=True)
class ReportConfig:
    """Contents of the page and where it is written."""

    output: str | None = None
    """HTML file (default: RUN/report.html; report.html in the current folder for several runs)."""
    leaderboard: str | None = None
    """CSV file with published scores to plot for comparison; columns name and score."""
    title: str | None = None
    """Page title (default: run folder and data)."""


@dataclass(frozen=True)
class ExplainConfig:
    """Explanations to compute and where they are written."""

    output: str | None = None
    """Output folder (default: explanations, numbered if it exists)."""
    layer: str | None = None
    """Layer of the class-activation map (default: the last one with sufficient resolution)."""
    filters: bool = False
    """Plot the filters of the first convolution and of the convolutions in --features."""
    features: tuple[str, ...] = ()
    """Layers whose feature maps are plotted."""
    member: str | None = None
    """Explain this member only."""
    class_name: str | None = None
    """Class to explain, also --class (default: the predicted class)."""
    layers: bool = False
    """List layer names and output shapes, then exit."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""


REPORT = Options(
    "report",
    "Write one self-contained HTML page about runs, with figures. Accepts the output folder of any training command. "
    "Figures are also written as PNG and SVG.",
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
    "Check data for bad images, duplicates, leakage and wrong labels. Reports unreadable images, exact and "
    "near duplicates within and across splits, groups in several splits, small and missing classes and, with --run, "
    "likely label errors. With --output, writes an HTML page.",
    groups=[("", AuditConfig), ("data", DataConfig), ("", OutputConfig)],
    positionals=[Positional("data", "image folder with one sub-folder per class, table, zip, or data set name")],
    aliases=ALIASES,
    examples=["photos/ --output look/", "photos/ --fail-on leakage,unreadable"],
)
EXPLAIN = Options(
    "explain",
    "Explain a bundle's predictions. Class-activation maps for convolutional networks, attention rollout for vision "
    "transformers, step attributions for recurrent scans; one row per member, and the ensemble prediction. Writes PNG "
    "and SVG files and explain.json.",
    groups=[("", ExplainConfig), ("", OutputConfig)],
    positionals=[
        Positional("bundle", "bundle or run folder"),
        Positional("images", "image files or folders", many=True, required=False),
    ],
    aliases={"class": "class_name"},
    examples=[
        "runs/photos-1 cat.jpg dog.jpg",
        "runs/photos-1 cat.jpg --class dog --member resnet18",
        "runs/photos-1 cat.jpg --layer layer3 --features conv1,layer1",
        "runs/photos-1 --layers",
    ],
)
