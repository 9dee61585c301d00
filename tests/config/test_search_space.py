"""Search spaces: notation, validation, and conversion between points and option values."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tercet.config.model import ModelConfig
from tercet.config.parser import CommandOptions
from tercet.config.run import DataConfig
from tercet.config.search_space import Choices, NumberRange, SearchSpace, read_space
from tercet.config.training import TrainingConfig
from tercet.core.errors import ConfigError
from tercet.core.yaml_io import dump_yaml

OPTIONS = CommandOptions(ModelConfig, TrainingConfig, DataConfig)
FIXED = {"monitor": "it compares the trials"}


def read(mapping: Any, *base: Any) -> SearchSpace:
    return read_space(mapping, OPTIONS, base=base, fixed=FIXED)


def problems(mapping: Any, *base: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(mapping, *base)
    return str(caught.value).split("\n")


def test_all_notations_are_read(tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    path.write_text(
        "lr: {low: 1e-4, high: 1e-2, log: true}\n"
        "hidden_size: {low: 32, high: 256, step: 32}\n"
        "optimizer: {choices: [adam, adamw]}\n"
        "augment: [none, light]\n"
        "input:\n  size: [[24, 24], 28]\n"
        "data.class_balanced_sampling: [true, false]\n"
        "stages: [paper, [{lr: 1e-3, epochs: 2}]]\n"
        "clip_grad_norm: [null, 1.0]\n"
    )
    space = read(path)
    assert space.keys == (
        "lr",
        "hidden_size",
        "optimizer",
        "augment",
        "input.size",
        "data.class_balanced_sampling",
        "stages",
        "clip_grad_norm",
    )
    assert space.axes[:3] == (
        NumberRange("lr", 1e-4, 1e-2, log=True),
        NumberRange("hidden_size", 32, 256, step=32, integer=True),
        Choices("optimizer", ("adam", "adamw")),
    )
    labels = {
        "input.size": "[24, 24]",
        "stages": "paper",
        "clip_grad_norm": "null",
        "data.class_balanced_sampling": "false",
    }
    assert space.values(labels) == {
        "input.size": [24, 24],
        "data.class_balanced_sampling": False,
        "stages": "paper",
        "clip_grad_norm": None,
    }
    assert read(space.to_dict()) == space


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"hidden_sise": [1, 2]}, "space: hidden_sise: unknown option, did you mean 'hidden_size'?"),
        ({"monitor": ["loss"]}, "monitor: cannot vary, it compares the trials"),
        ({"lr": 0.1}, "lr: expected a list of choices, or a range such as"),
        ({"lr": []}, "space: lr: expected a list of choices, got []"),
        ({"lr": {"low": 0.1}}, "space: lr: a range needs low and high: high is missing"),
        ({"lr": {"low": 0.1, "hihg": 1}}, "space: lr: unknown key 'hihg', did you mean 'high'?"),
        ({"lr": {"low": 1.0, "high": 0.1}}, "space: lr: low 1.0 must be below high 0.1"),
        ({"lr": {"low": 0, "high": 0.1, "log": True}}, "space: lr: a range with log needs low above 0, and no step"),
        ({"lr": {"low": 0.1, "high": 1, "log": 1}}, "space: lr: log: expected true or false, got 1"),
        ({"lr": {"low": "a", "high": 1}}, "space: lr: low: expected a number, got 'a'"),
        ({"hidden_size": {"low": 1.5, "high": 4}}, "space: hidden_size: low: expected a whole number, got 1.5"),
        ({"hidden_size": {"low": 8, "high": 20, "step": 8}}, "must be a multiple of step 8"),
        ({"optimizer": {"low": 1, "high": 2}}, "optimizer: expected a list of choices: the option is one of adam"),
        (
            {"optimizer": ["adam", "adma"]},
            "space: optimizer: expected one of adam, adamw, sgd, or any optimizer of timm, got 'adma', did you",
        ),
        ({"optimizer": ["adam", "adam"]}, "space: optimizer: adam is given twice"),
        ({"hidden_size": {"low": 0, "high": 4}}, "space: hidden_size 0 must be positive"),
        ({}, "space is empty"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_invalid_spaces_raise(mapping: Any, message: str) -> None:
    (line,) = problems(mapping)
    assert message in line


def test_all_problems_are_reported_together() -> None:
    lines = problems(
        {"hidden_sise": [1], "lr": {"low": 1}, "optimizer": ["adma"], "head_hidden_dim": {"low": -3, "high": 8}}
    )
    assert [line.split(":")[1].split()[0] for line in lines] == ["hidden_sise", "lr", "optimizer", "head_hidden_dim"]


def test_rules_that_mention_another_varying_option_are_left_to_the_trials() -> None:
    (line,) = problems({"micro_batches": [1, 64]})[:1]
    assert "micro_batches must lie" in line
    assert read({"micro_batches": [1, 64], "batch_size": [32, 64]}).keys == ("micro_batches", "batch_size")


def test_values_are_checked_together_with_the_other_options() -> None:
    assert "either stages or epochs and lr" in problems({"lr": [0.1, 0.2]}, TrainingConfig(stages=()))[0]
    assert "micro_batches must lie" in problems({"batch_size": [1, 8]}, TrainingConfig(micro_batches=4))[0]


NUMBERS = st.floats(1e-6, 1e6, allow_nan=False).map(lambda number: round(number, 6))


@st.composite
def spaces(draw: st.DrawFn) -> SearchSpace:
    low, width, log = draw(NUMBERS), draw(NUMBERS), draw(st.booleans())
    start, step, count = draw(st.integers(1, 50)), draw(st.integers(1, 9)), draw(st.integers(1, 9))
    optimizers = draw(st.permutations(["adam", "adamw", "sgd"]))[: draw(st.integers(1, 3))]
    rate = NumberRange("lr", low, low + width, None, log, False)
    hidden = NumberRange("hidden_size", start, start + step * count, step, False, True)
    return SearchSpace((rate, hidden, Choices("optimizer", tuple(optimizers))))


@settings(deadline=None, max_examples=20)
@given(spaces(), st.data())
def test_points_and_values_are_converted_exactly(space: SearchSpace, data: st.DataObject) -> None:
    assert read(space.to_dict()) == space
    rate, hidden, optimizer = space.axes
    assert isinstance(rate, NumberRange) and isinstance(hidden, NumberRange) and isinstance(optimizer, Choices)
    point = {
        "lr": data.draw(st.floats(rate.low, rate.high)),
        "hidden_size": data.draw(st.sampled_from(range(int(hidden.low), int(hidden.high) + 1, int(hidden.step or 1)))),
        "optimizer": data.draw(st.sampled_from(optimizer.labels)),
    }
    values = space.values(point)
    assert space.locate(values) == point
    parsed = OPTIONS.parse_object(values)  # every point is a valid configuration
    assert parsed.of(ModelConfig).hidden_size == point["hidden_size"]
    outside = {"lr": rate.high * 2, "hidden_size": hidden.low - 1, "optimizer": "rmsprop"}
    assert space.locate(outside) == {}
    assert space.locate({"hidden_size": None}) == {}


def test_a_space_is_read_back_from_yaml(tmp_path: Path) -> None:
    space = read(
        {"lr": {"low": 1e-5, "high": 1, "log": True}, "augment": ["none", "light"], "clip_grad_norm": [None, 0.5]}
    )
    path = tmp_path / "space.yaml"
    path.write_text(dump_yaml(space.to_dict()))
    assert read(path) == space
