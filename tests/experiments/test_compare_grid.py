from pathlib import Path
from typing import Any

import pytest

from tercet.config.experiments import COMPARE, CompareConfig
from tercet.config.model import InputConfig, ModelConfig
from tercet.config.training import TrainingConfig
from tercet.core.errors import ConfigError
from tercet.experiments.compare_grid import baseline_of, check_fairness, expand_grid, with_seeds

TRAINING = TrainingConfig(epochs=2)
SCRATCH = ModelConfig(pretrained=False)


def names(model: ModelConfig = SCRATCH, **grid: Any) -> list[str]:
    return [cell.name for cell in expand_grid(CompareConfig(**grid), model, TRAINING)]


def test_every_sensible_combination_comes_once() -> None:
    found = names(
        backbones=("test_resnet", "row-lstm"),
        recurrent=("none", "rnn", "lstm"),
        bidirectional=(False, True),
        scans=("pooled", "rows"),
    )
    assert found == [
        "test_resnet",
        *("test_resnet+rnn", "test_resnet+rnn:rows", "test_resnet+birnn", "test_resnet+birnn:rows"),
        *("test_resnet+lstm", "test_resnet+lstm:rows", "test_resnet+bilstm", "test_resnet+bilstm:rows"),
        "row-lstm",
    ]


def test_sizes_multiply_every_network() -> None:
    cells = expand_grid(CompareConfig(backbones=("small-cnn", "row-rnn"), sizes=(20, 24)), ModelConfig(), TRAINING)
    assert [cell.name for cell in cells] == ["small-cnn@20", "small-cnn@24", "row-rnn@20", "row-rnn@24"]
    assert [cell.model.input.size for cell in cells] == [(20,), (24,), (20,), (24,)]


def test_a_backbones_own_options_are_not_varied(tmp_path: Path) -> None:
    file = tmp_path / "wide.yaml"
    file.write_text("model: row-lstm\nname: wide\nhidden_size: 200\n")
    own: dict[str, Any] = {"model": "test_resnet", "name": "reader", "recurrent": "gru", "input": {"size": [48]}}
    cells = expand_grid(
        CompareConfig(backbones=(own, str(file)), scans=("pooled", "rows"), bidirectional=(False, True), sizes=(64,)),
        ModelConfig(pretrained=False),
        TRAINING,
    )
    assert [cell.name for cell in cells] == [
        "reader",
        "reader:rows",
        "reader+bidirectional",
        "reader+bidirectional:rows",
        "wide@64",
    ]
    assert {cell.model.recurrent for cell in cells[:4]} == {"gru"}
    assert {cell.model.input.size for cell in cells[:4]} == {(48,)}
    assert cells[4].model.hidden_size == 200


def test_run_wide_options_reach_the_networks_that_have_them() -> None:
    cells = expand_grid(
        CompareConfig(backbones=("test_resnet",), recurrent=("none", "lstm")),
        ModelConfig(pretrained=False, hidden_size=32, head_hidden_dim=64),
        TRAINING,
    )
    assert [(cell.model.hidden_size, cell.model.head_hidden_dim) for cell in cells] == [(None, 64), (32, 64)]


def test_networks_of_one_name_are_numbered() -> None:
    rows = ({"model": "row-rnn", "hidden_size": 8}, {"model": "row-rnn", "hidden_size": 9})
    assert names(ModelConfig(), backbones=rows) == ["row-rnn-1", "row-rnn-2"]


@pytest.mark.parametrize(
    ("grid", "model", "message"),
    [
        ({}, SCRATCH, "--backbones"),
        ({"backbones": ("smal-cnn",)}, ModelConfig(), "small-cnn"),
        ({"backbones": ("row-lstm",), "recurrent": ("gru",)}, ModelConfig(), "--recurrent gru has no effect"),
        ({"backbones": ("test_resnet",), "scans": ("pooled", "rows")}, SCRATCH, "--scans rows has no effect"),
        ({"backbones": ("small-cnn",), "bidirectional": (True,)}, ModelConfig(), "--bidirectional true has no effect"),
        ({"backbones": ("small-cnn",)}, ModelConfig(hidden_size=8), "--hidden-size has no effect"),
        ({"backbones": ("small-cnn",), "sizes": (20,)}, ModelConfig(input=InputConfig(size=(24,))), "sizes or input"),
        ({"backbones": (7,)}, ModelConfig(), "neither a network's name"),
    ],
)
def test_what_cannot_be_is_refused(grid: dict[str, Any], model: ModelConfig, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        expand_grid(CompareConfig(**grid), model, TRAINING)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": 0}, "seeds 0 must be positive"),
        ({"recurrent": ("lstm", "lstm")}, "recurrent lists a value twice"),
        ({"scans": ()}, "scans is empty"),
        ({"sizes": (0,)}, "sizes must be positive"),
        ({"budget": "600"}, "seconds:600"),
        ({"budget": "flops:0"}, "flops:1e15"),
        ({"budget": "hours:3"}, "seconds:N or flops:X"),
        ({"tolerance": 1.0}, "tolerance"),
    ],
)
def test_the_options_have_rules(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CompareConfig(**options)


def test_budgets_are_read() -> None:
    assert CompareConfig(budget="seconds:1.5").budget_limit() == ("seconds", 1.5)
    assert CompareConfig(budget="flops:1e15").budget_limit() == ("flops", 1e15)
    assert CompareConfig().budget_limit() == ("updates", 0.0)


def fair(backbones: tuple[Any, ...], training: TrainingConfig = TRAINING, **options: Any) -> None:
    config = CompareConfig(backbones=backbones, **options)
    check_fairness(config, expand_grid(config, ModelConfig(), training))


def test_unequal_efforts_are_refused() -> None:
    unequal = ("small-cnn", {"model": "row-rnn", "epochs": 3})
    with pytest.raises(ConfigError, match="'row-rnn' and 'small-cnn' are not trained for the same number of updates"):
        fair(unequal)
    fair(unequal, budget="flops:1e9")
    fair(("small-cnn", {"model": "row-rnn", "lr": 0.1, "epochs": 2}))
    with pytest.raises(ConfigError, match="same number of updates"):
        fair(("small-cnn", {"model": "row-rnn", "batch_size": 7}))


def test_stages_of_different_shape_and_equal_length_are_fair() -> None:
    stages = [{"lr": 1e-3, "epochs": 1.5}, {"lr": 1e-4, "epochs": 0.5}]
    fair(("small-cnn", {"name": "staged", "model": "small-cnn", "stages": stages}))
    with pytest.raises(ConfigError, match="same number of updates"):
        fair(("small-cnn", {"name": "staged", "model": "small-cnn", "stages": stages[:1]}))


def test_a_budget_of_seconds_needs_a_schedule_that_has_no_end() -> None:
    fair(("small-cnn",), TrainingConfig(lr=1e-3), budget="seconds:5")
    fair(("small-cnn",), TrainingConfig(lr=1e-3, epochs=5, schedule="cosine"), budget="seconds:5")
    with pytest.raises(ConfigError, match="schedule cosine needs a length"):
        fair(("small-cnn",), TrainingConfig(lr=1e-3, schedule="cosine"), budget="seconds:5")


def test_a_network_with_nothing_to_turn_is_refused_before_data_is_touched() -> None:
    fixed = {"model": "test_resnet", "head": "linear"}
    fair((fixed, "row-lstm"), match_parameters=True)  # as the baseline it stays as it is
    with pytest.raises(ConfigError, match="'test_resnet' has no adjustable width"):
        fair((fixed, "row-lstm"), match_parameters=True, baseline="row-lstm")


def test_the_baseline_is_one_of_the_grid() -> None:
    config = CompareConfig(backbones=("small-cnn", "row-lstm"))
    cells = expand_grid(config, ModelConfig(), TRAINING)
    assert baseline_of(config, cells) == "small-cnn"
    assert baseline_of(CompareConfig(baseline="row-lstm"), cells) == "row-lstm"
    with pytest.raises(ConfigError, match="did you mean 'row-lstm'"):
        baseline_of(CompareConfig(baseline="row-lst"), cells)


def test_every_network_gets_every_seed() -> None:
    cells = expand_grid(CompareConfig(backbones=("small-cnn", "row-rnn")), ModelConfig(), TRAINING)
    assert [(one.name, one.seed) for one in with_seeds(cells, range(5, 7))] == [
        ("small-cnn seed 5", 5),
        ("row-rnn seed 5", 5),
        ("small-cnn seed 6", 6),
        ("row-rnn seed 6", 6),
    ]


def test_options_of_a_single_network_are_no_options_of_the_verb() -> None:
    parsed = COMPARE.parse_args(["data", "--recurrent", "none,lstm", "--hidden-size", "12"])
    assert parsed.of(CompareConfig).recurrent == ("none", "lstm")
    assert (parsed.of(ModelConfig).recurrent, parsed.of(ModelConfig).hidden_size) == ("none", 12)
    assert COMPARE.parse_object(parsed.to_dict()).to_dict() == parsed.to_dict()
    axis = COMPARE.parse_args(["data", "--bidirectional", "false,true"])
    assert axis.of(CompareConfig).bidirectional == (False, True)
    assert COMPARE.parse_object(axis.to_dict()).to_dict() == axis.to_dict()
    with pytest.raises(ConfigError, match="--scan"):
        COMPARE.parse_args(["data", "--scan", "rows"])
