from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.config.train_command import COMBINE, OPTIONS, TRAIN, CombineConfig, train, write

from tercet.cli.command import Command, find_command
from tercet.config.commands import OutputConfig
from tercet.config.model import BackboneConfig, InputConfig, ModelConfig
from tercet.config.run import METHODS, DataConfig, FusionConfig, RunConfig
from tercet.config.training import PAPER_STAGES, StageConfig, TrainingConfig
from tercet.core.errors import ConfigError
from tercet.core.yaml_io import dump_yaml

# The command line


def test_without_options_all_values_are_defaults() -> None:
    parsed = train("photos")
    assert parsed.positional == {"data": "photos"}
    assert parsed.given == frozenset()
    for kind in (RunConfig, DataConfig, ModelConfig, InputConfig, BackboneConfig, TrainingConfig, FusionConfig):
        assert parsed.of(kind) == kind()


@pytest.mark.parametrize(
    "line",
    ["--batch-size 8 photos", "--batch_size 8 photos", "photos --batch-size=8", "--batch_size=8 -- photos"],
)
def test_options_are_accepted_in_all_notations(line: str) -> None:
    parsed = train(line)
    assert parsed.of(TrainingConfig).batch_size == 8
    assert parsed.positional["data"] == "photos"
    assert parsed.given == {"batch_size"}


@pytest.mark.parametrize(
    ("options", "kind", "field", "value"),
    [
        ("--members a,b,c", RunConfig, "members", ("a", "b", "c")),
        ("--members 'a, b'", RunConfig, "members", ("a", "b")),
        ("--members '[a, {model: b, lr: 1e-3}]'", RunConfig, "members", ("a", {"model": "b", "lr": 1e-3})),
        ("--members 'a,{model: b, lr: 1e-3}'", RunConfig, "members", ("a", {"model": "b", "lr": 1e-3})),
        ("--ensemble-methods average,vote", RunConfig, "ensemble_methods", ("average", "vote")),
        ("--ensemble_methods=", RunConfig, "ensemble_methods", ()),
        ("--output 2024", RunConfig, "output", "2024"),
        ("--output a=b", RunConfig, "output", "a=b"),
        ("--output=--odd", RunConfig, "output", "--odd"),
        ("--input.mean .5,.25,1", InputConfig, "mean", (0.5, 0.25, 1.0)),
        ("--input.mean -.5,1", InputConfig, "mean", (-0.5, 1.0)),
        ("--input.size 96", InputConfig, "size", (96,)),
        ("--data.label-columns 1,no", DataConfig, "label_columns", ("1", "no")),
        ("--data.image-pattern '{id}.jpg'", DataConfig, "image_pattern", "{id}.jpg"),
        ("--data.group-from '-(\\d+)'", DataConfig, "group_from", r"-(\d+)"),
        ("--data.class-balanced-sampling", DataConfig, "class_balanced_sampling", True),
        ("--data.class-balanced-sampling=false", DataConfig, "class_balanced_sampling", False),
        ("--pretrained false", ModelConfig, "pretrained", False),
        ("--weights null", ModelConfig, "weights", None),
        ("--hidden-size +10", ModelConfig, "hidden_size", 10),
        ("--num-biases 1", ModelConfig, "num_biases", 1),
        ("--noise 1", ModelConfig, "noise", 1.0),
        (
            "--backbone.args '{pad_type: same, bn_eps: 1e-3}'",
            BackboneConfig,
            "args",
            {"pad_type": "same", "bn_eps": 1e-3},
        ),
        ("--lr 1e-4", TrainingConfig, "lr", 1e-4),
        ("--precision 32", TrainingConfig, "precision", "32"),
        ("--lr 1 --lr 2", TrainingConfig, "lr", 2.0),
        ("--fusion.data out-of-fold", FusionConfig, "data", "out-of-fold"),
    ],
)
def test_values_get_the_type_of_their_field(options: str, kind: type[Any], field: str, value: Any) -> None:
    parsed = train(f"photos {options}")
    result = getattr(parsed.of(kind), field)
    assert result == value
    assert type(result) is type(value)
    assert parsed.positional["data"] == "photos"


@pytest.mark.parametrize("line", ["a b --json", "--json a b", "a --json b", "--json -- a b", "a --json true b"])
def test_positionals_are_accepted_between_options(line: str) -> None:
    parsed = COMBINE.parse_args(line.split())
    assert parsed.positional["files"] == ("a", "b")
    assert parsed.of(OutputConfig).json and parsed.of(CombineConfig) == CombineConfig()


def test_arguments_after_two_hyphens_are_positionals() -> None:
    assert COMBINE.parse_args(["--", "--json", "-x"]).positional["files"] == ("--json", "-x")
    assert COMBINE.parse_args(["--", "--help"]).positional["files"] == ("--help",)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["a", "b"], {"first": "a", "rest": ("b",), "last": None}),
        (["a", "b", "c"], {"first": "a", "rest": ("b", "c"), "last": None}),
        (["a"], None),
    ],
)
def test_required_positionals_are_filled_first(arguments: list[str], expected: dict[str, Any] | None) -> None:
    def sort(first: str, rest: Annotated[tuple[str, ...], "some"], last: str | None = None) -> None:
        """Sort."""

    options = Command("sort", sort)
    if expected is None:
        with pytest.raises(ConfigError, match="REST is missing: some"):
            options.parse_args(arguments)
    else:
        assert options.parse_args(arguments).positional == expected


def test_optional_positionals_can_be_omitted() -> None:
    options = find_command("models")
    assert options.parse_args([]).positional == {"name": None}
    assert options.parse_args(["resnet18"]).positional == {"name": "resnet18"}


# Files and Python


def test_the_command_line_overrides_the_file_and_the_file_overrides_defaults(tmp_path: Path) -> None:
    text = "batch-size: 64\nlr: 1e-4\ndata:\n  limit: 100\n  val-fraction: 0.2\ninput.size: 96\nfusion:\n"
    parsed = train(f"photos --config {write(tmp_path, text)} --data.limit 7")
    assert parsed.of(TrainingConfig) == TrainingConfig(batch_size=64, lr=1e-4)
    assert parsed.of(DataConfig) == DataConfig(limit=7, val_fraction=0.2)
    assert parsed.of(ModelConfig).input == InputConfig(size=(96,)) == parsed.of(InputConfig)
    assert parsed.of(FusionConfig) == FusionConfig()
    assert parsed.given == {"batch_size", "lr", "data.limit", "data.val_fraction", "input.size"}


def test_null_unsets_an_option_of_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "epochs: 3\n")
    assert train(f"photos --config {path} --epochs null --stages paper").of(TrainingConfig).stages == PAPER_STAGES


@pytest.mark.parametrize("mapping", [{"data": {"limit": 3}}, {"data.limit": 3}, {"data": {"limit": 3}, "fusion": {}}])
def test_mappings_can_be_nested_or_dotted(mapping: dict[str, Any]) -> None:
    parsed = OPTIONS.parse_object(mapping)
    assert parsed.of(DataConfig).limit == 3
    assert parsed.given == {"data.limit"}


def test_python_values_of_the_right_type_are_accepted() -> None:
    stage = StageConfig(lr=0.1, steps=3)
    parsed = OPTIONS.parse_object(
        {
            "input": {"size": [96, 96], "mean": 0.5},
            "precision": 32,
            "output": Path("a/b"),
            "ensemble_methods": "vote",
            "noise": 0,
        }
        | {"stages": (stage, {"epochs": 1}), "members": [Path("net.yaml"), {"model": "row-lstm"}]}
    )
    assert parsed.of(InputConfig) == InputConfig(size=(96, 96), mean=(0.5,))
    assert parsed.of(TrainingConfig) == TrainingConfig(stages=(stage, StageConfig(epochs=1)), precision="32")
    run = RunConfig(output="a/b", ensemble_methods=("vote",), members=("net.yaml", {"model": "row-lstm"}))
    assert parsed.of(RunConfig) == run


def test_base_instances_replace_the_defaults() -> None:
    base = (TrainingConfig(lr=0.1, batch_size=8), ModelConfig(input=InputConfig(size=(28,)), noise=0.0))
    parsed = OPTIONS.parse_object({"batch_size": 4, "input": {"channels": 1}}, base=base)
    assert parsed.of(TrainingConfig) == TrainingConfig(lr=0.1, batch_size=4)
    assert parsed.of(ModelConfig) == ModelConfig(input=InputConfig(size=(28,), channels=1), noise=0.0)
    assert parsed.given == {"batch_size", "input.channels"}


def test_mutable_defaults_are_not_shared() -> None:
    train("photos").of(BackboneConfig).args["surprise"] = 1
    assert train("photos").of(BackboneConfig).args == {}


# Stages


def test_stages_are_read_from_a_name_a_file_or_inline_yaml(tmp_path: Path) -> None:
    stages = (StageConfig(lr=1e-3, epochs=2), StageConfig(steps=10))
    inline = "[{lr: 1e-3, epochs: 2}, {steps: 10}]"
    listed = write(tmp_path, inline, "listed.yaml")
    keyed = write(tmp_path, f"stages: {inline}", "keyed.yaml")
    for value in (f"'{inline}'", listed, keyed):
        assert train(f"photos --stages {value}").of(TrainingConfig).stages == stages
    assert train("photos --stages paper").of(TrainingConfig).stages == PAPER_STAGES
    assert train("photos --stages null").of(TrainingConfig).stages is None
    assert train(f"photos --config {write(tmp_path, 'stages: paper')}").of(TrainingConfig).stages == PAPER_STAGES


# Output


def test_dicts_and_yaml_are_read_back_equal(tmp_path: Path) -> None:
    line = "photos --stages paper --ensemble-methods vote,average --input.mean .5,.25,.125"
    line += " --members 'a,{model: b, lr: 1e-5}' --backbone.args '{x: [1, no]}' --data.label-columns 1e3,null,true"
    parsed = train(f"{line} --output 010")
    for again in (
        OPTIONS.parse_object(parsed.to_dict()),
        train(f"photos --config {write(tmp_path, dump_yaml(parsed.to_dict()))}"),
    ):
        assert again.instances == parsed.instances
        assert again.given == set(TRAIN.options.fields)


def test_dicts_can_be_limited_to_some_classes() -> None:
    parsed = train("photos --data.limit 3 --lr 1")
    assert set(parsed.to_dict(DataConfig)) == {f"data.{field.name}" for field in fields(DataConfig)}
    assert parsed.to_dict(TrainingConfig)["lr"] == 1.0
    assert "input.size" in parsed.to_dict(ModelConfig) and "lr" not in parsed.to_dict(ModelConfig)
    assert OPTIONS.to_dict(DataConfig(limit=3), FusionConfig()) == parsed.to_dict(DataConfig, FusionConfig)


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
odd_texts = texts | st.sampled_from(
    ["no", "1e3", "010", "1:30", "null", "~", "", "<<", "=", "2024-01-01", "0x1f", "1_0"]
)
options = st.fixed_dictionaries(
    {},
    optional={
        "output": st.none() | odd_texts,
        "data.label_columns": st.none() | st.lists(odd_texts, max_size=3),
        "backbone.args": st.dictionaries(odd_texts, odd_texts | st.booleans() | st.integers() | st.none(), max_size=3),
        "lr": st.none() | st.floats(1e-300, 1e300),
        "seed": st.integers(0, 2**70),
        "pretrained": st.booleans(),
        "ensemble_methods": st.lists(st.sampled_from(METHODS), unique=True),
        "recurrent": st.sampled_from(["none", "rnn", "gru", "lstm"]),
        "members": st.lists(odd_texts | st.dictionaries(texts, odd_texts, max_size=2), max_size=3),
    },
)


@settings(max_examples=25, deadline=None)
@given(options)
@example({"backbone.args": {"a\x85b": "\x85", "c": "\u2028"}})
def test_all_options_are_preserved_in_yaml(tmp_path_factory: pytest.TempPathFactory, mapping: dict[str, Any]) -> None:
    parsed = OPTIONS.parse_object(mapping)
    path = tmp_path_factory.mktemp("yaml") / "run.yaml"
    path.write_text(dump_yaml(parsed.to_dict()), "utf-8")
    assert TRAIN.parse_args(["photos", "--config", str(path)]).instances == parsed.instances


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        texts
        | st.sampled_from(
            ["--lr", "--lr=1", "--data.class-balanced-sampling", "--", "-1", "--members", "--x", "--config"]
        )
    )
)
def test_any_arguments_are_parsed_or_raise_config_error(arguments: list[str]) -> None:
    if {"-h", "--help"} & set(arguments):
        return
    try:
        assert TRAIN.parse_args(arguments).positional["data"] in arguments
    except ConfigError as error:
        assert all(line.strip() for line in str(error).split("\n"))
