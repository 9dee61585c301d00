import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.config.train_command import COMBINE, object_problems, problems, write

from tercet.cli.command import Command
from tercet.config.parser import CommandOptions
from tercet.config.training import StageConfig, TrainingConfig
from tercet.core.errors import ConfigError
from tercet.core.registry import PARTS


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# nothing\n", "is empty"),
        ("- a\n- b\n", "is not a mapping"),
        ("lr: 1\nlr: 2\n", "line 2: the key 'lr' is given twice"),
        ("data: {limit: 1, limit: 2}", "line 1: the key 'limit' is given twice"),
        ("lr: [1\n", "line 2: expected"),
        ("lr: 1\n---\nlr: 2\n", "line 2: expected a single document"),
        ("a: !!python/object/apply:os.getcwd []\n", "could not determine a constructor"),
        ("a: !!timestamp x\n", "is not YAML"),
        ("[" * 1000, "is not YAML"),
    ],
)
def test_invalid_files_raise_with_one_line(tmp_path: Path, text: str, message: str) -> None:
    (problem,) = problems(f"photos --config {write(tmp_path, text)}")
    assert "run.yaml" in problem and message in problem


def test_unreadable_files_raise_with_their_path(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00\x80")
    for path, reason in (("missing", "No such file"), ("", "directory"), ("binary", "not UTF-8")):
        (problem,) = problems(f"photos --config {shlex.quote(str(tmp_path / path))}")
        assert problem.startswith(f"--config: cannot read {tmp_path / path}: ") and reason in problem


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("papr", ["--stages: cannot read papr: No such file or directory, did you mean 'paper'?"]),
        ("'[{lr: 1}]'", ["--stages: stage 1: a stage needs either epochs or steps"]),
        (
            "'[{epochs: 1}, {lr: a, steps: 0}]'",
            ["--stages: stage 2: lr: expected a number, got 'a'", "--stages: stage 2: steps 0 must be positive"],
        ),
    ],
)
def test_each_stage_is_checked(value: str, expected: list[str]) -> None:
    assert problems(f"photos --stages {value}") == expected


@pytest.mark.parametrize("value", ["'[]'", "'[3]'", "'{lr: 1}'"])
def test_other_values_than_lists_of_stages_raise(value: str) -> None:
    (problem,) = problems(f"photos --stages {value}")
    assert "expected" in problem and "lr, epochs, steps" in problem


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("photos --bach-size 3", "--bach-size: unknown option, did you mean '--batch-size'?"),
        ("photos --size 96", "--size: unknown option, did you mean '--input.size'?"),
        ("photos --confg x", "--confg: unknown option, did you mean '--config'?"),
        ("photos --no-pretrained", "--no-pretrained: unknown option, did you mean '--pretrained'?"),
        ("--data photos", "--data: unknown option, DATA is a positional argument"),
        ("photos --fusion 3", "--fusion: is a group of options, such as --fusion.regime"),
        ("photos -q", "-q: unknown option (put names starting with '-' after '--')"),
        ("photos --lr", "--lr: expected a number, got nothing"),
        ("photos --lr --data.class-balanced-sampling", "--lr: expected a number, got nothing"),
        ("photos --lr ''", "--lr: expected a number, got ''"),
        ("photos --lr .nan", "--lr: expected a number, got '.nan'"),
        ("photos --hidden-size 1:30", "--hidden-size: expected a whole number, got '1:30'"),
        ("photos --hidden-size 010", "--hidden-size: expected a whole number, got '010'"),
        ("photos --hidden-size '[1'", "--hidden-size: expected a whole number, got '[1'"),
        ("photos --pretrained yes", "--pretrained: expected true or false, got 'yes'"),
        ("photos --seed null", "--seed: expected a whole number, got null"),
        (
            "photos --recurrent lsmt",
            "--recurrent: expected one of none, rnn, gru, lstm, got 'lsmt', did you mean 'lstm'?",
        ),
        ("photos --input.size 9,b", "--input.size: expected a list, each a whole number, got 'b'"),
        ("photos --members a,,b", "--members: 'a,,b' has an empty element"),
        ("photos --backbone.args 3", "--backbone.args: expected a mapping, got 3"),
        ("photos --batch-size 0 --micro-batches 1", "batch_size 0 must be positive"),
        ("", "DATA is missing: folder, table, zip file, or data set name"),
        ("photos more", "unexpected argument 'more'"),
    ],
)
def test_each_problem_is_one_line(line: str, expected: str) -> None:
    assert expected in problems(line)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("hidden_size", "12", "a whole number, got '12'"),
        ("hidden_size", True, "a whole number, got true"),
        ("hidden_size", 12.0, "a whole number, got 12.0"),
        ("num_biases", True, "one of 1, 2, got true"),
        ("num_biases", 1.0, "one of 1, 2, got 1.0"),
        ("lr", "1e-3", "a number, got '1e-3'"),
        ("lr", False, "a number, got false"),
        ("lr", float("inf"), "a number, got inf"),
        ("output", 12, "text, got 12"),
        ("pretrained", 1, "true or false, got 1"),
        ("pretrained", None, "true or false, got null"),
        ("precision", 16, "one of 32, bf16, auto, got 16"),
        ("ensemble_methods", ["vote", 3], "each one of average, e2e, greedy, pruned, vote, weighted, got 3"),
        ("members", None, "a list, got null"),
        ("backbone.args", "{a: 1}", "a mapping, got '{a: 1}'"),
        ("data.label_columns", [1, 2], "a list, each text, got 1"),
    ],
)
def test_values_of_files_are_not_converted_between_types(key: str, value: Any, expected: str) -> None:
    (problem,) = object_problems({key: value}, source="run.yaml")
    assert problem.startswith(f"run.yaml: {key}: expected ") and problem.endswith(expected)


def test_an_argument_after_an_unknown_option_may_be_its_value() -> None:
    assert problems("--jsonn photos --lr") == ["--jsonn: unknown option", "--lr: expected a number, got nothing"]
    with pytest.raises(ConfigError, match=r"^--jsn: unknown option, did you mean '--json'\?$"):
        COMBINE.parse_args(["--jsn", "a.npy"])  # --json takes no value, so a.npy is a positional


def test_all_problems_are_reported_together(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    text = "bach_size: 3\nhidden_size: many\ndata: {limit: 0}\nfusion: {regime: joint, data: validation}\n"
    *others, fusion, missing = problems(f"--config {write(tmp_path, text)} --lr fast --seed -1 --head papr")
    assert others == [
        f"{path}: bach_size: unknown option, did you mean 'batch_size'?",
        f"{path}: hidden_size: expected a whole number, got 'many'",
        "--lr: expected a number, got 'fast'",
        "--head: expected one of attention, knn, linear, logistic, mlp, paper, prototype, ridge, got 'papr', did you "
        "mean 'paper'?",
        "seed -1 must not be negative",
        f"{path}: data.limit 0 must be positive",
    ]
    assert fusion.startswith(f"{path}: fusion.regime joint with fusion.data validation: ")
    assert missing == "DATA is missing: folder, table, zip file, or data set name"


def test_rules_about_invalid_values_are_not_reported() -> None:
    assert problems("photos --batch-size many --micro-batches 64") == [
        "--batch-size: expected a whole number, got 'many'"
    ]
    assert "micro_batches must lie between 1 and batch_size" in problems("photos --micro-batches 64 --noise loud")


def test_rules_of_nested_classes_are_reported_once() -> None:
    assert problems("photos --input.size 1,2,3") == ["input.size takes one number, or height and width"]


@pytest.mark.parametrize("mapping", [{"batch-size": 1, "batch_size": 2}, {"data.limit": 1, "data": {"limit": 2}}])
def test_repeated_keys_raise(mapping: dict[str, Any]) -> None:
    (problem,) = object_problems(mapping)
    assert problem.endswith(": given twice")


def test_keys_of_any_type_are_reported() -> None:
    assert object_problems({3: 1, 4.5: 2}) == ["3: unknown option", "4.5: unknown option"]


def test_invalid_command_definitions_raise() -> None:
    with pytest.raises(ConfigError, match="two classes define an option 'lr'"):
        CommandOptions(TrainingConfig, StageConfig)

    @dataclass(frozen=True)
    class WithoutDefault:
        name: str

    with pytest.raises(ConfigError, match="needs a default"):
        CommandOptions(WithoutDefault)


@dataclass(frozen=True)
class PartConfig:
    """A part by name."""

    part: str = field(default="train", metadata={"registry": "command"})
    """Name of a registered part."""


def test_names_of_registered_parts_are_the_choices() -> None:
    options = CommandOptions(PartConfig)
    with pytest.raises(ConfigError, match=r"^part: expected one of audit, .*got 'trian', did you mean 'train'\?$"):
        options.parse_object({"part": "trian"})
    with PARTS["command"].scoped({"mine": print}):
        assert options.parse_object({"part": "mine"}).of(PartConfig).part == "mine"


def test_commands_with_other_keyword_parameters_raise() -> None:
    def count(folder: str, *, suffix: str = ".png") -> None:
        """Count."""

    with pytest.raises(ConfigError, match=r"^command 'count': annotate the keyword-only parameter 'suffix'"):
        Command("count", count).parse_args(["photos"])
