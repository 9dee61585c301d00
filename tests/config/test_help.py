import re
from dataclasses import is_dataclass

import pytest
from tests.config.train_command import COMBINE, TRAIN

from tercet.cli.command import Command, find_command
from tercet.cli.help import field_docs, format_help
from tercet.cli.main import main
from tercet.config.model import BackboneConfig, InputConfig, ModelConfig
from tercet.config.run import DataConfig, FusionConfig, RunConfig
from tercet.config.training import TrainingConfig


def test_the_help_contains_every_option_with_its_docstring() -> None:
    text = format_help(TRAIN)
    flat = " ".join(text.split())
    for field in TRAIN.options.fields.values():
        assert re.search(rf"^  {re.escape(field.option)}\b", text, re.MULTILINE)
        text_of_field = field_docs(field.owner)[field.key.rpartition(".")[2]]
        assert text_of_field and text_of_field in flat
    assert "--config FILE" in text and "--help" in text


def test_the_help_fits_its_width() -> None:
    for width in (80, 100):
        lines = format_help(TRAIN, width).splitlines()
        assert max(map(len, lines)) <= width
        assert not any(line != line.rstrip() for line in lines)


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ("Usage: tercet train DATA [options]", True),
        ("--recurrent none|rnn|gru|lstm", True),
        ("--batch-size N", True),
        ("(default: 32)", True),
        ("--pretrained true|false", True),
        ("--data.limit N          Maximum", True),
        ("--data.class-balanced-sampling\n", True),  # flags have no placeholder
        ("Data: reading and splitting of the data", True),
        ("(default: None)", False),
        ("default: null", False),
        ("_size", False),
    ],
)
def test_the_help_has_the_notation_of_the_command_line(part: str, expected: bool) -> None:
    assert (part in format_help(TRAIN)) is expected


def test_nested_groups_follow_their_class() -> None:
    text = format_help(TRAIN)
    assert text.index("\nModel: ") < text.index("\nBackbone: ") < text.index("\nInput: ") < text.index("\nTraining: ")


def test_the_usage_contains_the_positionals() -> None:
    assert format_help(COMBINE).splitlines()[0] == "Usage: tercet combine FILES [FILES ...] [options]"

    def optional(a: str = "", b: tuple[str, ...] = ()) -> None:
        """Do nothing."""

    assert format_help(Command("x", optional)).splitlines()[0] == "Usage: tercet x [A] [B ...] [options]"


@pytest.mark.parametrize("line", ["--help", "photos --lr bad -h", "--lr --help"])
def test_help_takes_precedence_over_all_else(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *line.split()]) == 0
    assert capsys.readouterr().out == format_help(find_command("train"))


def test_all_option_classes_have_a_docstring() -> None:
    for kind in (RunConfig, DataConfig, ModelConfig, InputConfig, BackboneConfig, TrainingConfig, FusionConfig):
        assert is_dataclass(kind) and kind.__doc__ and not kind.__doc__.startswith(kind.__name__ + "(")
