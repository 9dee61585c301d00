"""The options of the verbs that let people see: reports, audits, explanations."""

from __future__ import annotations

from dataclasses import dataclass

from tercet.records.audit_config import AuditConfig
from tercet.records.config import DataConfig
from tercet.records.options import Options, Positional
from tercet.workflows.options.run import ALIASES, OutputConfig


@dataclass(frozen=True)
class ReportConfig:
    """What the page holds beside the runs, and where it goes."""

    output: str | None = None
    """HTML file (default: RUN/report.html; for several runs report.html here); figures go beside it."""
    leaderboard: str | None = None
    """CSV file with others' scores, columns name and score, drawn beside one's own."""
    title: str | None = None
    """The page's title (default: the run's folder and data)."""


@dataclass(frozen=True)
class ExplainConfig:
    """What is explained, and where the figures go."""

    output: str | None = None
    """Folder for figures and numbers (default: explanations, or the next free one with a number)."""
    layer: str | None = None
    """Layer of the class-activation map (default: the last whose map is fine enough)."""
    filters: bool = False
    """Draw the filters of the first convolution, and of every convolution that features names."""
    features: tuple[str, ...] = ()
    """Layers whose feature maps are drawn."""
    member: str | None = None
    """Explain this member only."""
    class_name: str | None = None
    """Class to explain, also --class (default: the most probable one of the whole bundle)."""
    layers: bool = False
    """List the layers by name with what they return, and explain nothing."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""


REPORT = Options(
    "report",
    "Write one HTML page about runs, with figures. It takes the folders that any verb left; figures are also left as "
    "PNG and SVG. The page needs no network, and reads well on a phone, on paper, in light and in dark.",
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
EXPLAIN = Options(
    "explain",
    "Show what a bundle's networks saw in images. Class-activation maps for convolutional networks, attention "
    "roll-out for vision transformers, and for recurrent scans what each step contributed; a row a member, and the "
    "fused answer. Leaves PNG and SVG files and explain.json.",
    groups=[("", ExplainConfig), ("", OutputConfig)],
    positionals=[
        Positional("bundle", "a bundle's folder, or a run's"),
        Positional("images", "image files, or folders of them", many=True, required=False),
    ],
    aliases={"class": "class_name"},
    examples=[
        "runs/photos-1 cat.jpg dog.jpg",
        "runs/photos-1 cat.jpg --class dog --member resnet18",
        "runs/photos-1 cat.jpg --layer layer3 --features conv1,layer1",
        "runs/photos-1 --layers",
    ],
)
