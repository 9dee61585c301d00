"""A command with most option classes, and functions that parse with it."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from tercet.cli.command import Command
from tercet.config.model import ModelConfig
from tercet.config.parser import CommandOptions, ParsedArguments
from tercet.config.run import DataConfig, FusionConfig, RunConfig
from tercet.config.training import TrainingConfig
from tercet.core.errors import ConfigError

OPTIONS = CommandOptions(RunConfig, DataConfig, ModelConfig, TrainingConfig, FusionConfig)


def train_classifiers(
    data: Annotated[str, "folder, table, zip file, or data set name"], *, parsed: ParsedArguments
) -> str:
    """Train several classifiers and ensemble them."""
    return data


TRAIN = Command("train", train_classifiers, shared=OPTIONS)


@dataclass(frozen=True)
class CombineConfig:
    """Combination of prediction files."""

    method: Literal["average", "vote"] = "average"
    """Ensemble method."""


def combine_files(files: Annotated[tuple[str, ...], "prediction files"], *, config: CombineConfig) -> str:
    """Combine prediction files."""
    return ",".join(files)


COMBINE = Command("combine", combine_files)


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
        OPTIONS.parse_object(mapping, source=source)
    return str(caught.value).splitlines()


def write(folder: Path, text: str, name: str = "run.yaml") -> str:
    """Write a file and return its path for a command line."""
    path = folder / name
    path.write_text(text)
    return shlex.quote(str(path))
