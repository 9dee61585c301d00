"""Parsed options are written as arguments for another process."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tercet.cli.command import Command, find_command
from tercet.cli.deployment import ServeConfig

SERVE, PREDICT = find_command("serve"), find_command("predict")

SERVE_ARGUMENTS = (
    ["--supervise", "false", "--limits.batch-wait", "1e-5", "--json", "--threads", "null", "model"],
    ["--allow-host", "a.example,b.example", "--limits.queue", "40", "--port=0", "model"],
    ["--name", 'a name, with = and "quotes" and \u00e9', "--load-timeout", "2.5", "--", "-model"],
)


@pytest.mark.parametrize(
    ("options", "arguments", "positionals"),
    [
        *((SERVE, arguments, arguments[-1:]) for arguments in SERVE_ARGUMENTS),
        (PREDICT, ["b", "x.png", "--top-k=3", "--csv=-", "--max-seconds=1e-3"], ["b", "x.png"]),
    ],
)
def test_arguments_parse_to_the_same_values(options: Command, arguments: list[str], positionals: list[str]) -> None:
    parsed = options.parse_args(arguments)
    again = options.parse_args([*parsed.to_arguments(), "--", *positionals])
    assert again.to_dict() == parsed.to_dict()


@given(st.text())
def test_any_name_is_preserved(name: str) -> None:
    parsed = SERVE.parse_args([f"--name={name}", "model"])
    again = SERVE.parse_args([*parsed.to_arguments(), "model"])
    assert again.of(ServeConfig) == parsed.of(ServeConfig)


def test_only_given_options_are_written() -> None:
    parsed = SERVE.parse_args(["model", "--port", "1", "--name", "n"])
    assert parsed.to_arguments("name") == ["--port=1"]
