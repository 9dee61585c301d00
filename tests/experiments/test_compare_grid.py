from pathlib import Path
from typing import Any

import pytest

from tercet.cli.command import find_command
from tercet.config.experiments import COMPARE, CompareConfig
from tercet.config.model import InputConfig, ModelConfig
from tercet.config.training import TrainingConfig
from tercet.core.errors import ConfigError
from tercet.experiments.compare_grid import baseline_of, check_fairness, expand_grid, with_seeds

TRAINING = TrainingConfig(epochs=2)
SCRATCH = ModelConfig(pretrained=False)


def names(model: ModelConfig = SCRATCH, **grid: Any) -> list[str]:
    return [cell.name for cell in expand_grid(CompareConfig(**grid), model, TRAINING)]


def test_every_distinct_network_is_listed_once() -> None:
    cells = names(
        backbones=("test_resnet", "row-lstm"),
        recurrent=("none", "rnn", "lstm"),
        bidirectional=(False, True),
        scans=("pooled", "rows"),
    )
    assert cells == [
        "test_resnet",
        *("test_resnet+rnn", "test_resnet+rnn:rows", "test_resnet+birnn", "test_resnet+birnn:rows"),
        *("test_resnet+lstm", "test_resnet+lstm:rows", "test_resnet+bilstm", "test_resnet+bilstm:rows"),
        *("row-lstm", "row-lstm+bidirectional"),
    ]


def test_sizes_multiply_every_network() -> None:
    cells = expand_grid(CompareConfig(backbones=("small-cnn", "row-rnn"), sizes=(20, 24)), ModelConfig(), TRAINING)
    assert [cell.name for cell in cells] == ["small-cnn@20", "small-cnn@24", "row-rnn@20", "row-rnn@24"]
    assert [cell.model.input.size for cell in cells] == [(20,), (24,), (20,), (24,)]


def test_options_in_a_mapping_are_not_varied(tmp_path: Path) -> None:
    file = tmp_path / "wide.yaml"
    file.write_text("model: row-lstm\nname: wide\nhidden_size: 200\n")
    mapping: dict[str, Any] = {"model": "test_resnet", "name": "reader", "recurrent": "gru", "input": {"size": [48]}}
    cells = expand_grid(
        CompareConfig(
            backbones=(mapping, str(file)), scans=("pooled", "rows"), bidirectional=(False, True), sizes=(64,)
        ),
        ModelConfig(pretrained=False),
        TRAINING,
    )
    assert [cell.name for cell in cells] == [
        "reader",
        "reader:rows",
        "reader+bidirectional",
        "reader+bidirectional:rows",
        "wide@64",
        "wide+bidirectional@64",
    ]
    assert {cell.model.recurrent for cell in cells[:4]} == {"gru"}
    assert {cell.model.input.size for cell in cells[:4]} == {(48,)}
    assert cells[4].model.hidden_size == 200


def test_options_apply_to_the_networks_that_have_them() -> None:
    cells = expand_grid(
        CompareConfig(backbones=("test_resnet",), recurrent=("none", "lstm")),
        ModelConfig(pretrained=False, hidden_size=32, head_hidden_dim=64),
        TRAINING,
    )
    assert [(cell.model.hidden_size, cell.model.head_hidden_dim) for cell in cells] == [(None, 64), (32, 64)]


def test_networks_with_equal_names_are_numbered() -> None:
    rows = ({"model": "row-rnn", "hidden_size": 8}, {"model": "row-rnn", "hidden_size": 9})
    assert names(ModelConfig(), backbones=rows) == ["row-rnn-1", "row-rnn-2"]


@pytest.mark.parametrize(
    ("grid", "model", "message"),
    [
        ({}, SCRATCH, "--backbones"),
        ({"backbones": ("smal-cnn",)}, ModelConfig(), "small-cnn"),
        ({"backbones": ("row-lstm",), "recurrent": ("gru",)}, ModelConfig(), "--recurrent gru has no effect"),
        ({"backbones": ("test_resnet",), "scans": ("pooled", "rows")}, SCRATCH, "--scans rows has no effect"),
        ({"backbones": ("small-cnn",)}, ModelConfig(hidden_size=8), "--hidden-size has no effect"),
        ({"backbones": ("small-cnn",), "sizes": (20,)}, ModelConfig(input=InputConfig(size=(24,))), "--sizes or"),
        ({"backbones": (7,)}, ModelConfig(), "neither a network's name"),
    ],
)
def test_invalid_grids_raise(grid: dict[str, Any], model: ModelConfig, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        expand_grid(CompareConfig(**grid), model, TRAINING)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": 0}, "seeds 0 must be positive"),
        ({"recurrent": ("lstm", "lstm")}, "recurrent lists a value twice"),
        ({"scans": ()}, "scans is empty"),
        ({"sizes": (0,)}, "sizes 0 must be positive"),
        ({"budget": "600"}, "seconds:N or flops:X"),
        ({"budget": "flops:0"}, "seconds:N or flops:X"),
        ({"tolerance": 1.0}, "tolerance"),
    ],
)
def test_invalid_options_raise(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CompareConfig(**options)


def test_budgets_are_parsed() -> None:
    assert CompareConfig(budget="seconds:1.5").budget_limit() == ("seconds", 1.5)
    assert CompareConfig(budget="flops:1e15").budget_limit() == ("flops", 1e15)
    assert CompareConfig().budget_limit() == ("updates", 0.0)


def check(backbones: tuple[Any, ...], training: TrainingConfig = TRAINING, **options: Any) -> None:
    config = CompareConfig(backbones=backbones, **options)
    check_fairness(config, expand_grid(config, ModelConfig(), training))


def test_trainings_of_different_length_need_a_budget() -> None:
    unequal = ("small-cnn", {"model": "row-rnn", "epochs": 3})
    with pytest.raises(ConfigError, match="'row-rnn' and 'small-cnn' differ in the number of optimizer steps"):
        check(unequal)
    check(unequal, budget="flops:1e9")
    check(("small-cnn", {"model": "row-rnn", "lr": 0.1, "epochs": 2}))
    with pytest.raises(ConfigError, match="optimizer steps"):
        check(("small-cnn", {"model": "row-rnn", "batch_size": 7}))


def test_different_stages_of_equal_total_length_can_be_compared() -> None:
    stages = [{"lr": 1e-3, "epochs": 1.5}, {"lr": 1e-4, "epochs": 0.5}]
    check(("small-cnn", {"name": "staged", "model": "small-cnn", "stages": stages}))
    with pytest.raises(ConfigError, match="optimizer steps"):
        check(("small-cnn", {"name": "staged", "model": "small-cnn", "stages": stages[:1]}))


def test_a_budget_of_seconds_needs_epochs_for_schedules_with_an_end() -> None:
    check(("small-cnn",), TrainingConfig(lr=1e-3), budget="seconds:5")
    check(("small-cnn",), TrainingConfig(lr=1e-3, epochs=5, schedule="cosine"), budget="seconds:5")
    with pytest.raises(ConfigError, match="schedule cosine needs a number of epochs"):
        check(("small-cnn",), TrainingConfig(lr=1e-3, schedule="cosine"), budget="seconds:5")


def test_matching_parameters_needs_an_adjustable_width() -> None:
    fixed = {"model": "test_resnet", "head": "linear"}
    check((fixed, "row-lstm"), match_parameters=True)  # the baseline is not adjusted
    with pytest.raises(ConfigError, match="'test_resnet' has no adjustable width"):
        check((fixed, "row-lstm"), match_parameters=True, baseline="row-lstm")


def test_the_baseline_is_a_network_of_the_grid() -> None:
    config = CompareConfig(backbones=("small-cnn", "row-lstm"))
    cells = expand_grid(config, ModelConfig(), TRAINING)
    assert baseline_of(config, cells) == "small-cnn"
    assert baseline_of(CompareConfig(baseline="row-lstm"), cells) == "row-lstm"
    with pytest.raises(ConfigError, match="did you mean 'row-lstm'"):
        baseline_of(CompareConfig(baseline="row-lst"), cells)


def test_every_network_is_trained_with_every_seed() -> None:
    cells = expand_grid(CompareConfig(backbones=("small-cnn", "row-rnn")), ModelConfig(), TRAINING)
    assert [(member.name, member.seed) for member in with_seeds(cells, range(5, 7))] == [
        ("small-cnn seed 5", 5),
        ("row-rnn seed 5", 5),
        ("small-cnn seed 6", 6),
        ("row-rnn seed 6", 6),
    ]


def test_the_command_has_axes_instead_of_the_options_of_one_network() -> None:
    parsed = find_command("compare").parse_args(["data", "--recurrent", "none,lstm", "--hidden-size", "12"])
    assert parsed.of(CompareConfig).recurrent == ("none", "lstm")
    assert (parsed.of(ModelConfig).recurrent, parsed.of(ModelConfig).hidden_size) == ("none", 12)
    assert COMPARE.parse_object(parsed.to_dict()).to_dict() == parsed.to_dict()
    axis = find_command("compare").parse_args(["data", "--bidirectional", "false,true"])
    assert axis.of(CompareConfig).bidirectional == (False, True)
    assert COMPARE.parse_object(axis.to_dict()).to_dict() == axis.to_dict()
    with pytest.raises(ConfigError, match="--scan"):
        find_command("compare").parse_args(["data", "--scan", "rows"])
