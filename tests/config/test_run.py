import dataclasses
import itertools
import json
import typing
from typing import Any

import pytest

from tercet.config import run as config
from tercet.config.fields import ConfigEntry
from tercet.config.model import InputConfig, ModelConfig
from tercet.config.parser import CommandOptions
from tercet.config.run import METHODS, DataConfig, FusionConfig, RunConfig
from tercet.config.training import PAPER_STAGES, StageConfig, TrainingConfig
from tercet.core.errors import ConfigError, Problem, raise_problems
from tercet.core.registry import PARTS

CLASSES = [
    kind
    for kind in vars(config).values()
    if isinstance(kind, type) and dataclasses.is_dataclass(kind) and kind.__module__ == config.__name__
]


def test_all_problems_are_reported_together() -> None:
    with pytest.raises(ConfigError, match=r"^first; second$"):
        raise_problems([False, "first", None, "", "second"])
    raise_problems([False, None, ""])


@pytest.mark.parametrize("kind", CLASSES)
def test_configurations_are_immutable_and_comparable(kind: type[Any]) -> None:
    required = {"name": "a", "network": "b"} if kind is config.MemberConfig else {}
    instance = kind(**required)
    assert instance == kind(**required)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(instance, dataclasses.fields(kind)[0].name, None)


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (DataConfig, {"val_fraction": 1.0}, "val_fraction"),
        (DataConfig, {"val_fraction": 0.5, "test_fraction": 0.5}, "nothing to train on"),
        (DataConfig, {"max_pixels": 0}, "max_pixels"),
        (DataConfig, {"num_workers": -1}, "num_workers"),
        (DataConfig, {"limit": 0}, "limit"),
        (InputConfig, {"size": (1, 2, 3)}, "input.size"),
        (ModelConfig, {"hidden_size": 0}, "hidden_size 0"),
        (ModelConfig, {"noise": -0.1}, "noise"),
        (ModelConfig, {"dropout": 1.0}, "dropout"),
        (StageConfig, {}, "either epochs or steps"),
        (StageConfig, {"epochs": 1, "lr": 0}, "lr"),
        (StageConfig, {"epochs": 0}, "epochs"),
        (StageConfig, {"steps": 0}, "steps"),
        (StageConfig, {"epochs": 1, "warmup_steps": -1}, "warmup_steps"),
        (StageConfig, {"epochs": 1, "warmup_steps": 1, "warmup_epochs": 1}, "either warmup_steps or warmup_epochs"),
        (StageConfig, {"epochs": 1, "head_lr": 0}, "head_lr"),
        (StageConfig, {"epochs": 1, "patience": 0}, "patience"),
        (StageConfig, {"epochs": 1, "factor": 1.0}, "factor"),
        (TrainingConfig, {"stages": PAPER_STAGES, "epochs": 1}, "either stages or epochs and lr"),
        (TrainingConfig, {"epochs": -1}, "epochs"),
        (TrainingConfig, {"lr": 0}, "lr"),
        (TrainingConfig, {"batch_size": 0}, "batch_size"),
        (TrainingConfig, {"micro_batches": 33}, "micro_batches"),
        (TrainingConfig, {"label_smoothing": 1}, "label_smoothing"),
        (TrainingConfig, {"mixup": -1}, "mixup"),
        (TrainingConfig, {"ema_decay": 1.0}, "ema_decay"),
        (TrainingConfig, {"clip_grad_norm": 0}, "clip_grad_norm"),
        (TrainingConfig, {"max_time": 0}, "max_time"),
        (TrainingConfig, {"layer_decay": 0}, "layer_decay"),
        (TrainingConfig, {"class_weights": "equal"}, "class_weights 'equal' must be none, balanced, auto or a mapping"),
        (TrainingConfig, {"class_weights": {"a": -1}}, "class_weights must be a positive number"),
        (FusionConfig, {"num_members": -1}, "num_members"),
        (FusionConfig, {"width": -1}, "width"),
        (FusionConfig, {"dropout": 1.0}, "dropout"),
        (FusionConfig, {"aux_loss_weight": 1.5}, "aux_loss_weight"),
        (FusionConfig, {"folds": 1}, "folds"),
        (FusionConfig, {"batch_size": 0}, "batch_size"),
        (RunConfig, {"ensemble_methods": ("vote", "average", "vote")}, "vote twice"),
        (RunConfig, {"seed": -1}, "seed"),
        (RunConfig, {"threads": 0}, "threads"),
    ],
)
def test_invalid_values_raise(kind: type[Any], values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        kind(**values)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("auto", "balanced"), ("balanced", "balanced"), ("none", "none"), ("{0: 2, b c: 1.5}", {"0": 2, "b c": 1.5})],
)
def test_class_weights_are_read_from_arguments_and_files(text: str, expected: Any) -> None:
    options = CommandOptions(TrainingConfig)
    entries = [ConfigEntry("class_weights", text, "--")]
    problems: list[Problem] = []
    given = options.resolve(entries, problems)[TrainingConfig]
    assert given.class_weights == expected and not problems
    again = options.parse_object(json.loads(json.dumps(options.to_dict(given)))).of(TrainingConfig)
    assert again == given


@pytest.mark.parametrize("name", ["adam", "lamb"])
def test_optimizers_of_timm_are_options(name: str) -> None:
    options = CommandOptions(TrainingConfig)
    assert options.parse_object({"optimizer": name}).of(TrainingConfig).optimizer == name
    with pytest.raises(ConfigError, match=r"adamw, sgd, or any optimizer of timm, got 'lamp', did you mean 'lamb'"):
        options.parse_object({"optimizer": "lamp"})


def test_several_violated_rules_make_one_error() -> None:
    with pytest.raises(ConfigError) as caught:
        TrainingConfig(batch_size=0, lr=-1, ema_decay=2)
    assert len(str(caught.value).split("; ")) == 4  # micro_batches exceeds batch_size, too


def test_six_combinations_of_fusion_regime_and_data_are_valid() -> None:
    valid = set()
    for regime, data in itertools.product(typing.get_args(config.Regime), typing.get_args(config.FusionData)):
        try:
            valid.add((FusionConfig(regime=regime, data=data).regime, data))
        except ConfigError as error:
            assert regime in str(error) and data in str(error) and "use " in str(error)
    assert valid == {
        ("cached", "out-of-fold"),
        ("cached", "validation"),
        ("cached", "train"),
        ("frozen", "validation"),
        ("frozen", "train"),
        ("joint", "train"),
    }


def test_the_default_stages_are_those_of_the_paper() -> None:
    assert TrainingConfig().stage_list() == PAPER_STAGES
    assert [(stage.lr, stage.epochs) for stage in PAPER_STAGES] == [(1e-4, 40), (1e-5, 15), (1e-6, 15)]
    assert {stage.schedule for stage in PAPER_STAGES} == {"time"}


def test_epochs_and_lr_make_one_stage() -> None:
    (stage,) = TrainingConfig(epochs=3, lr=0.1, schedule="cosine", patience=2).stage_list()
    assert (stage.epochs, stage.lr, stage.schedule, stage.patience) == (3, 0.1, "cosine", 2)
    assert TrainingConfig(epochs=3).stage_list()[0].lr == 1e-3
    assert len(TrainingConfig(lr=0.1).stage_list()) == 1


def test_given_stages_are_used_unchanged() -> None:
    stages = (StageConfig(lr=0.1, steps=5), StageConfig(lr=0.01, epochs=0.5))
    assert TrainingConfig(stages=stages).stage_list() == stages


def test_all_ensemble_methods_but_e2e_are_tried_by_default() -> None:
    assert (*RunConfig().ensemble_methods, "e2e") == METHODS
    assert set(METHODS) == set(PARTS["combiner"]) - set(PARTS["combiner"].custom())
    with pytest.raises(ConfigError, match="unknown ensemble method 'averag', did you mean 'average'"):
        RunConfig(ensemble_methods=("averag",))


def test_a_model_config_is_rebuilt_from_json() -> None:
    model = ModelConfig(recurrent="gru", scan="rows", input=InputConfig(size=(32, 48), mean=(0.5,)))
    plain = model.to_dict()
    plain["input"]["size"] = list(plain["input"]["size"])  # as in JSON
    assert ModelConfig.from_dict(plain) == model
