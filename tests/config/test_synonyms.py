"""Option names of other toolkits: accepted, reported with the right option, or not guessed."""

from __future__ import annotations

import pytest

from tercet.cli.command import find_command
from tercet.cli.main import COMMANDS
from tercet.config.synonyms import HINTS, SYNONYMS
from tercet.core.errors import ConfigError


@pytest.mark.parametrize(
    ("arguments", "key", "value"),
    [
        (["--learning-rate", "1e-3"], "lr", 1e-3),
        (["--model", "resnet18"], "members", ["resnet18"]),
        (["-m", "resnet18,row-lstm"], "members", ["resnet18", "row-lstm"]),
        (["--imgsz", "96"], "input.size", [96]),
        (["-b", "16"], "batch_size", 16),
        (["--num-epochs", "3"], "epochs", 3),
        (["--val-split", "0.2"], "data.val_fraction", 0.2),
        (["--out", "runs/a"], "output", "runs/a"),
    ],
)
def test_synonyms_set_their_option(arguments: list[str], key: str, value: object) -> None:
    parsed = find_command("train").parse_args(["photos", *arguments])
    assert parsed.to_dict()[key] == value and parsed.given == {key}


def test_a_synonym_sets_the_option_that_the_command_has() -> None:
    assert find_command("compare").parse_args(["photos", "-m", "resnet18"]).given == {"backbones"}
    assert find_command("benchmark").parse_args(["a.onnx", "-b", "1,8"]).given == {"batches"}
    assert find_command("models").parse_args(["resnet18", "--imgsz", "96"]).given == {"image_size"}


def test_an_option_and_its_synonym_count_as_repeated() -> None:
    with pytest.raises(ConfigError, match="lr: given twice"):
        find_command("train").options.parse_object({"lr": 1e-3, "learning_rate": 1e-4})


def test_short_options_without_a_matching_option_raise() -> None:
    with pytest.raises(ConfigError, match=r"^-m: unknown option"):
        find_command("serve").parse_args(["a.onnx", "-m", "x"])


@pytest.mark.parametrize(
    ("command", "unknown", "suggestion"),
    [
        ("train", "--quick", " '--preset' or '--data.limit'"),
        ("reproduce", "--quick", " '--dry-run'"),
        ("train", "--gpu", " '--device'"),
        ("train", "--fp16", " '--precision'"),
        ("train", "--early-stopping", " '--patience'"),
        ("train", "--no-tensorboard", " '--tensorboard'"),
        ("train", "--val-fraction", " '--data.val-fraction'"),
        ("train", "--val-fracton", " '--data.val-fraction'"),
        ("train", "--shedule", " '--schedule'"),
        ("predict", "--top", " '--top-k'"),
        ("ensemble", "--method", None),
        ("train", "--scale", None),
        ("train", "--gamma", None),
        ("train", "--verbose", None),
        ("train", "--momentum", None),
        ("predict", "--source", None),
        ("export", "--opset", None),
        ("serve", "--reload", None),
    ],
)
def test_unknown_options_suggest_the_right_option_or_none(command: str, unknown: str, suggestion: str | None) -> None:
    with pytest.raises(ConfigError) as raised:
        find_command(command).parse_args(["a", "b", unknown])
    hint = "" if suggestion is None else f", did you mean{suggestion}?"
    assert str(raised.value).splitlines()[0] == f"{unknown}: unknown option{hint}"


def test_all_synonyms_and_hints_refer_to_existing_options() -> None:
    keys = {key for name in COMMANDS for key in find_command(name).options.fields}
    assert {target for targets in (*SYNONYMS.values(), *HINTS.values()) for target in targets} <= keys
    assert "dry_run" in find_command("reproduce").options.fields
