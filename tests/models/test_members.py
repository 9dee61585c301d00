"""Resolving members: names, mappings, YAML files, options of the run, and unique names."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tercet.config.model import ModelConfig, read_rules
from tercet.config.run import METHODS, MemberConfig
from tercet.config.training import PAPER_STAGES, StageConfig, TrainingConfig
from tercet.core.errors import ConfigError, TercetError
from tercet.core.files import slug
from tercet.experiments.ensemble import combine
from tercet.experiments.plan import member_from_dict, member_to_dict
from tercet.experiments.train import Run, train
from tercet.models.members import PHOTOS, SMALL_IMAGES, default_members, resolve_members, with_unique_names

RUN = TrainingConfig(epochs=3, lr=0.01, batch_size=16)


def resolve(
    *members: Any, model: ModelConfig | None = None, training: TrainingConfig = RUN
) -> tuple[MemberConfig, ...]:
    return resolve_members(members, model or ModelConfig(), training)


def test_a_network_name_gets_the_options_of_the_run() -> None:
    (member,) = resolve("row-gru", model=ModelConfig(hidden_size=16))
    assert (member.name, member.network, member.model.hidden_size, member.training) == ("row-gru", "row-gru", 16, RUN)


def test_a_mapping_overrides_the_options_of_the_run() -> None:
    options = {"model": "row-gru", "name": "mine", "hidden_size": 8, "epochs": 7, "batch_size": 4}
    (member,) = resolve(options, model=ModelConfig(hidden_size=16, num_layers=3))
    assert (member.name, member.model.hidden_size, member.model.num_layers) == ("mine", 8, 3)
    assert (member.training.epochs, member.training.lr, member.training.batch_size) == (7, 0.01, 4)


def test_resolving_does_not_change_the_mapping() -> None:
    options = {"model": "row-gru", "name": "mine", "hidden_size": 8}
    resolve(options)
    assert options == {"model": "row-gru", "name": "mine", "hidden_size": 8}


def test_a_yaml_file_is_read_as_a_mapping(tmp_path: Path) -> None:
    (tmp_path / "member.yaml").write_text("model: test_resnet\npretrained: false\ninput:\n  size: [64]\nlr: 1e-4\n")
    (member,) = resolve(str(tmp_path / "member.yaml"))
    assert (member.network, member.model.input.size, member.training.lr) == ("test_resnet", (64,), 1e-4)


def test_nested_and_dotted_keys_are_equivalent() -> None:
    nested, dotted = (
        resolve({"model": "small-cnn", **keys})[0] for keys in ({"input": {"size": [20]}}, {"input.size": [20]})
    )
    assert nested == dotted


def test_stages_of_a_member_replace_those_of_the_run() -> None:
    staged = TrainingConfig(stages=PAPER_STAGES)
    (single,) = resolve({"model": "small-cnn", "epochs": 2}, training=staged)
    assert single.training.stages is None
    assert [stage.epochs for stage in single.training.stage_list()] == [2]
    (paper,) = resolve({"model": "small-cnn", "stages": "paper"})
    assert paper.training.stage_list() == PAPER_STAGES
    (listed,) = resolve({"model": "small-cnn", "stages": [{"lr": 0.1, "steps": 5}]})
    assert listed.training.stage_list() == (StageConfig(lr=0.1, steps=5),)


def test_options_of_the_run_apply_to_members_that_have_them() -> None:
    rows, cnn, backbone = resolve(
        "row-lstm",
        "small-cnn",
        {"model": "test_resnet", "pretrained": False, "recurrent": "gru", "scan": "rows"},
        model=ModelConfig(hidden_size=16),
    )
    assert (rows.model.hidden_size, cnn.model.hidden_size, backbone.model.hidden_size) == (16, None, 16)


def test_freeze_of_the_run_applies_to_pretrained_members_without_their_own() -> None:
    backbone, custom, rows = resolve(
        "test_resnet",
        {"model": "test_vit", "freeze": [{"features.network.blocks.1.*": "open"}, {"features.*": "frozen"}, "none"]},
        "row-lstm",
        model=ModelConfig(freeze=("backbone",)),
    )
    assert (backbone.model.freeze, rows.model.freeze) == (("backbone",), ("none",))
    assert [rule.state for rule in read_rules(custom.model.freeze)] == ["open", "frozen", "open"]
    opened, _ = resolve({"model": "test_vit", "freeze": "none"}, "test_resnet", model=ModelConfig(freeze=("backbone",)))
    assert opened.model.freeze == ("none",)


def test_an_option_of_the_run_without_effect_on_any_member_raises() -> None:
    with pytest.raises(ConfigError, match="--hidden-size has no effect on any member"):
        resolve("small-cnn", "small-cnn", model=ModelConfig(hidden_size=16))


def test_an_option_of_a_member_without_effect_raises() -> None:
    with pytest.raises(ConfigError, match="--hidden-size has no effect on 'small-cnn'"):
        resolve("row-gru", {"model": "small-cnn", "hidden_size": 16})


def test_all_problems_are_reported_together() -> None:
    with pytest.raises(ConfigError) as error:
        resolve(
            "smal-cnn",
            {"model": "small-cnn", "lrr": 1},
            {"model": "row-gru", "epochs": -1},
            {"name": "no model"},
            5,
            {"model": "small-cnn", "weights": "no-such.safetensors"},
            "absent.yaml",
        )
    message = str(error.value)
    for position in (1, 2, 3, 4, 5, 7):
        assert f"member {position}: " in message
    for part in ("did you mean 'small-cnn'", "lrr", "epochs", "5", "absent.yaml"):
        assert part in message
    assert error.value.exit_code == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "deit_tiny_patch16_224", "input.size": 100}, r"patches of 16 x 16 .* such as 96,96"),
        ({"model": "inception_v3", "input.size": 20}, r"does not accept images of 20 x 20"),
        (
            {"model": "test_resnet", "freeze": "features.network.layer9.*: frozen, *: open"},
            r"layer9\.\*' matches no parameter",
        ),
        ({"model": "wrn-15-4"}, r"10, 16, 22, 28, 34, 40"),
    ],
    ids=["patches", "too small", "freeze", "depth"],
)
def test_invalid_networks_raise_before_data_is_read(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    member = {**options, "pretrained": False} if "wrn" not in options["model"] else options
    with pytest.raises(ConfigError, match=message):
        train("no-such-data", members=[member], output=str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_missing_weights_file_raises_before_data_is_read(tmp_path: Path) -> None:
    member = {"model": "test_resnet", "weights": "no-such.safetensors"}
    with pytest.raises(TercetError, match=r"no-such\.safetensors"):
        train("no-such-data", members=[member], output=str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_members_with_the_same_name_are_numbered() -> None:
    members = resolve("small-cnn", "row-gru", "small-cnn")
    assert [member.name for member in members] == ["small-cnn-1", "row-gru", "small-cnn-2"]


NAME = st.one_of(
    st.sampled_from(["a", "a-1", "a-2", "a 1", "A", "a/1", "é", "…", "-", "x" * 90, "x" * 91]), st.text(max_size=4)
)


@given(names=st.lists(NAME, min_size=1, max_size=6))
def test_member_names_and_folders_are_unique(names: list[str]) -> None:
    try:
        members = with_unique_names([MemberConfig(name, "small-cnn", ModelConfig(), RUN) for name in names])
    except ConfigError as error:
        assert "name" in str(error)  # never two trainings in one folder
        return
    assert len({member.name for member in members}) == len(names)
    assert len({slug(member.name).casefold() for member in members}) == len(names)


@pytest.mark.parametrize("name", METHODS)
def test_a_member_named_like_an_ensemble_method_raises(name: str) -> None:
    with pytest.raises(ConfigError, match=f"'{name}'"):
        resolve({"model": "small-cnn", "name": name}, "row-gru")


def test_a_blank_name_raises() -> None:
    with pytest.raises(ConfigError, match="blank"):
        resolve({"model": "small-cnn", "name": "  "})


def test_members_of_runs_with_the_same_name_get_different_names(finished: Run, tmp_path: Path) -> None:
    other = shutil.copytree(finished.path, tmp_path / "other" / finished.path.name)
    again = finished.path / ".." / finished.path.name  # another path of the same run
    result = combine([finished.path, other, again], ensemble_methods=["average"], output=str(tmp_path / "out"))
    names = [row["name"] for row in result.metrics["members"]]
    assert len(names) == len(set(names)) == 6
    assert [member.name for member in result.bundle().members] == names
    best = combine(
        [finished.path, other], ensemble_methods=["average"], output=str(tmp_path / "best"), fusion={"num_members": 2}
    )
    assert len(best.metrics["ensembles"][0]["members"]) == len(best.bundle().members) == 2


@pytest.mark.parametrize(
    "member",
    [
        "row-bilstm",
        {"model": "small-cnn", "name": "émeu [b]", "stages": "paper", "dropout": 0.1},
        {"model": "test_resnet", "pretrained": False, "backbone.args": {"drop_path_rate": 0.1}, "input.size": [64, 32]},
        {"model": "row-gru", "ema_decay": 0.9, "mixup": 0.2, "max_time": 60.0, "epochs": 0.5},
        {"model": "test_vit", "freeze": ["head.*: open", {"*": "frozen"}], "random_erasing": 0.25, "augment": "leaves"},
    ],
)
def test_a_plan_restores_a_written_member(member: Any) -> None:
    (resolved,) = resolve(member)
    assert member_from_dict(member_to_dict(resolved)) == resolved


@pytest.mark.parametrize("size", [(8, 8), (28, 28), (64, 64), (65, 10), (224, 224)])
def test_default_members_are_valid(size: tuple[int, int]) -> None:
    members = resolve(*default_members(size))
    expected = SMALL_IMAGES if max(size) <= 64 else PHOTOS
    assert tuple(member.network for member in members) == expected
    assert all(
        member.model.pretrained is False or max(size) > 64 or member.network != "test_resnet" for member in members
    )
