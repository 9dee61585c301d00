"""A command with most option classes, and functions that parse with it."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from tercet.config.model import ModelConfig
from tercet.config.parser import CommandOptions, ParsedArguments, Positional
from tercet.config.run import DataConfig, FusionConfig, RunConfig
from tercet.config.training import TrainingConfig
from tercet.core.errors import ConfigError

TRAIN = CommandOptions(
    "train",
    "Train several classifiers and ensemble them.",
    groups=[("", RunConfig), ("data", DataConfig), ("", ModelConfig), ("", TrainingConfig), ("fusion", FusionConfig)],
    positionals=[Positional("data", "folder, table, zip file, or data set name")],
    config_file=True,
)


@dataclass(frozen=True)
class CombineConfig:
    """Combination of prediction files."""

    method: Literal["average", "vote"] = "average"
    """Ensemble method."""
    json: bool = False
    """Print one JSON document."""


COMBINE = CommandOptions(
    "combine", groups=[("", CombineConfig)], positionals=[Positional("files", "prediction files", many=True)]
)


def train(line: str) -> ParsedArguments:
    """Parse a command line."""
    return TRAIN.parse_args(shlex.split(line))


def problems(line: str) -> list[str]:
    """Return the problems of a command line."""
    with pytest.raises(ConfigError) as caught:
        train(line)
    return str(caught.value).splitlines()


def object_problems(mapping: dict[Any, Any], source: str = "") -> list[str]:
    """Return the problems of a mapping."""
    with pytest.raises(ConfigError) as caught:
        TRAIN.parse_object(mapping, source=source)
    return str(caught.value).splitlines()


def write(folder: Path, text: str, name: str = "run.yaml") -> str:
    """Write a file and return its path for a command line."""
    path = folder / name
    path.write_text(text)
    return shlex.quote(str(path))
