"""Options given on one command line can be written for another process."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tercet.config.commands import PREDICT
from tercet.config.deployment import SERVE, ServeConfig
from tercet.config.parser import CommandOptions

SERVED = (
    ["model", "--port=0"],
    ["model", "--supervise", "false", "--limits.batch-wait", "1e-5", "--json", "--threads", "null"],
    ["--allow-host", "a.example,b.example", "--limits.queue", "40", "model"],
    ["--name", 'a name, with = and "quotes" and \u00e9', "--load-timeout", "2.5", "--", "-model"],
)


@pytest.mark.parametrize(
    ("options", "words"),
    [*((SERVE, words) for words in SERVED), (PREDICT, ["b", "x.png", "--top-k=3", "--csv=-", "--max-seconds=1e-3"])],
)
def test_words_are_read_as_the_same_values(options: CommandOptions, words: list[str]) -> None:
    parsed = options.parse_args(words)
    again = options.parse_args(
        [*parsed.to_arguments(), "--", *words[-1:], *words[-1:]][: -1 if options is SERVE else None]
    )
    assert again.to_dict() == parsed.to_dict()


@given(st.text())
def test_any_name_survives(name: str) -> None:
    parsed = SERVE.parse_args([f"--name={name}", "model"])
    again = SERVE.parse_args([*parsed.to_arguments(), "model"])
    assert again.of(ServeConfig) == parsed.of(ServeConfig)


def test_what_was_not_given_is_not_written() -> None:
    parsed = SERVE.parse_args(["model", "--port", "1", "--name", "n"])
    assert parsed.to_arguments("name") == ["--port=1"]
