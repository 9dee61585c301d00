"""The options of verbs that train many networks, or look over many runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tercet.records.compare_config import CompareConfig
from tercet.records.config import DataConfig
from tercet.records.model_config import ModelConfig
from tercet.records.options import Options, Positional
from tercet.records.training_config import TrainingConfig
from tercet.workflows.options import ALIASES, OutputConfig, ResumeConfig


@dataclass(frozen=True)
class RunsConfig:
    """The order of the table."""

    sort: Literal["name", "data", "chosen", "validation", "test", "macro_f1", "kappa", "seconds", "date"] = "date"
    """Column to sort by: scores from the best down, dates from the newest back, all else upwards."""


COMPARE = Options(
    "compare",
    "Train a grid of networks, each with several seeds, on the same data, splits and number of updates, and tell what "
    "each reaches, whether that is more than chance, what it costs, and which errors differ.",
    groups=[
        ("", CompareConfig),
        ("", ResumeConfig),
        ("data", DataConfig),
        ("", ModelConfig),
        ("", TrainingConfig),
        ("", OutputConfig),
    ],
    positionals=[Positional("data", "folder of images by class, table, zip, or name of a data set", required=False)],
    config_file=True,
    aliases=ALIASES,
    without={ModelConfig: frozenset({"recurrent", "directions", "scan"})},
)
RUNS = Options(
    "runs",
    "List the finished runs under a folder with their scores, in one table.",
    groups=[("", RunsConfig), ("", OutputConfig)],
    positionals=[Positional("folder", "where to look (default: runs)", required=False)],
)
