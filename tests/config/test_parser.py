from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tercet.config.model import BackboneConfig, InputConfig, ModelConfig
from tercet.config.parser import CommandOptions, ParsedArguments, Positional
from tercet.config.run import METHODS, DataConfig, FusionConfig, RunConfig
from tercet.config.training import PAPER_STAGES, StageConfig, TrainingConfig
from tercet.core.errors import ConfigError

TRAIN = CommandOptions(
    "train",
    "Train several classifiers, fuse them, and leave one bundle that predicts.",
    groups=[("", RunConfig), ("data", DataConfig), ("", ModelConfig), ("", TrainingConfig), ("fusion", FusionConfig)],
    positionals=[Positional("data", "folder, table, zip file, or the name of a data set")],
    config_file=True,
)


@dataclass(frozen=True)
class BlendOptions:
    """How prediction files are fused."""

    method: Literal["average", "vote"] = "average"
    """Way to fuse."""
    labels: str | None = None
    """File with the true labels."""
    json: bool = False
    """Print one JSON document."""


BLEND = CommandOptions(
    "blend", groups=[("", BlendOptions)], positionals=[Positional("files", "prediction files", many=True)]
)


def train(line: str) -> ParsedArguments:
    return TRAIN.parse_args(shlex.split(line))


def problems(line: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        train(line)
    return str(caught.value).splitlines()


def object_problems(mapping: dict[str, Any], source: str = "") -> list[str]:
    with pytest.raises(ConfigError) as caught:
        TRAIN.parse_object(mapping, source=source)
    return str(caught.value).splitlines()


def written(folder: Path, text: str, name: str = "run.yaml") -> str:
    path = folder / name
    path.write_text(text)
    return shlex.quote(str(path))


# The command line


def test_without_options_everything_is_the_default() -> None:
    parsed = train("photos")
    assert parsed.positional == {"data": "photos"}
    assert parsed.given == frozenset()
    for kind in (RunConfig, DataConfig, ModelConfig, InputConfig, BackboneConfig, TrainingConfig, FusionConfig):
        assert parsed.of(kind) == kind()


@pytest.mark.parametrize(
    "line",
    ["--batch-size 8 photos", "--batch_size 8 photos", "photos --batch-size=8", "--batch_size=8 -- photos"],
)
def test_options_have_many_spellings(line: str) -> None:
    parsed = train(line)
    assert parsed.of(TrainingConfig).batch_size == 8
    assert parsed.positional["data"] == "photos"
    assert parsed.given == {"batch_size"}


@pytest.mark.parametrize(
    ("options", "kind", "field", "value"),
    [
        ("--members a,b,c", RunConfig, "members", ("a", "b", "c")),
        ("--members 'a, b'", RunConfig, "members", ("a", "b")),
        ("--members net.yaml", RunConfig, "members", ("net.yaml",)),
        ("--members '[a, {model: b, lr: 1e-3}]'", RunConfig, "members", ("a", {"model": "b", "lr": 1e-3})),
        ("--members 'a,{model: b, lr: 1e-3}'", RunConfig, "members", ("a", {"model": "b", "lr": 1e-3})),
        ("--ensemble-methods average,vote", RunConfig, "ensemble_methods", ("average", "vote")),
        ("--ensemble_methods=", RunConfig, "ensemble_methods", ()),
        ("--output 2024", RunConfig, "output", "2024"),
        ("--output a=b", RunConfig, "output", "a=b"),
        ("--output=--odd", RunConfig, "output", "--odd"),
        ("--input.mean .5,.25,1", InputConfig, "mean", (0.5, 0.25, 1.0)),
        ("--input.mean -.5,1", InputConfig, "mean", (-0.5, 1.0)),
        ("--input.mean=-1", InputConfig, "mean", (-1.0,)),
        ("--input.size 96", InputConfig, "size", (96,)),
        ("--input.size 96,128", InputConfig, "size", (96, 128)),
        ("--data.label-columns 1,no", DataConfig, "label_columns", ("1", "no")),
        ("--data.image-pattern '{id}.jpg'", DataConfig, "image_pattern", "{id}.jpg"),
        ("--data.group-from '-(\\d+)'", DataConfig, "group_from", r"-(\d+)"),
        ("--data.class-balanced-sampling", DataConfig, "class_balanced_sampling", True),
        ("--data.class-balanced-sampling true", DataConfig, "class_balanced_sampling", True),
        ("--data.class-balanced-sampling=false", DataConfig, "class_balanced_sampling", False),
        ("--pretrained false", ModelConfig, "pretrained", False),
        ("--pretrained=false", ModelConfig, "pretrained", False),
        ("--weights null", ModelConfig, "weights", None),
        ("--hidden-size +10", ModelConfig, "hidden_size", 10),
        ("--num-biases 1", ModelConfig, "num_biases", 1),
        ("--bidirectional", ModelConfig, "bidirectional", True),
        ("--reset-after false", ModelConfig, "reset_after", False),
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
    found = getattr(parsed.of(kind), field)
    assert found == value
    assert type(found) is type(value)
    assert parsed.positional["data"] == "photos"


@pytest.mark.parametrize("line", ["a b --json", "--json a b", "a --json b", "--json -- a b", "a --json true b"])
def test_several_words_may_stand_anywhere(line: str) -> None:
    parsed = BLEND.parse_args(line.split())
    assert parsed.positional["files"] == ("a", "b")
    assert parsed.of(BlendOptions) == BlendOptions(json=True)


def test_after_two_hyphens_nothing_is_an_option() -> None:
    assert BLEND.parse_args(["--", "--json", "-x"]).positional["files"] == ("--json", "-x")
    assert BLEND.parse_args(["--", "--help"]).positional["files"] == ("--help",)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["a", "b"], {"first": "a", "rest": ("b",), "last": None}),
        (["a", "b", "c"], {"first": "a", "rest": ("b", "c"), "last": None}),
        (["a"], None),
    ],
)
def test_words_go_first_to_those_who_need_one(words: list[str], expected: dict[str, Any] | None) -> None:
    options = CommandOptions(
        "sort",
        positionals=[
            Positional("first", "one"),
            Positional("rest", "some", many=True),
            Positional("last", "perhaps one", required=False),
        ],
    )
    if expected is None:
        with pytest.raises(ConfigError, match="REST is missing: some"):
            options.parse_args(words)
    else:
        assert options.parse_args(words).positional == expected


def test_an_optional_word_may_be_left_out() -> None:
    options = CommandOptions("models", positionals=[Positional("name", "a network", required=False)])
    assert options.parse_args([]).positional == {"name": None}
    assert options.parse_args(["resnet18"]).positional == {"name": "resnet18"}


# Files and Python


def test_the_command_line_goes_before_the_file_and_the_file_before_the_defaults(tmp_path: Path) -> None:
    text = "batch-size: 64\nlr: 1e-4\ndata:\n  limit: 100\n  val-fraction: 0.2\ninput.size: 96\nfusion:\n"
    parsed = train(f"photos --config {written(tmp_path, text)} --data.limit 7")
    assert parsed.of(TrainingConfig) == TrainingConfig(batch_size=64, lr=1e-4)
    assert parsed.of(DataConfig) == DataConfig(limit=7, val_fraction=0.2)
    assert parsed.of(ModelConfig).input == InputConfig(size=(96,)) == parsed.of(InputConfig)
    assert parsed.of(FusionConfig) == FusionConfig()
    assert parsed.given == {"batch_size", "lr", "data.limit", "data.val_fraction", "input.size"}


def test_null_takes_back_what_a_file_set(tmp_path: Path) -> None:
    path = written(tmp_path, "epochs: 3\n")
    assert train(f"photos --config {path} --epochs null --stages paper").of(TrainingConfig).stages == PAPER_STAGES


@pytest.mark.parametrize("mapping", [{"data": {"limit": 3}}, {"data.limit": 3}, {"data": {"limit": 3}, "fusion": {}}])
def test_python_may_nest_keys_or_dot_them(mapping: dict[str, Any]) -> None:
    parsed = TRAIN.parse_object(mapping)
    assert parsed.of(DataConfig).limit == 3
    assert parsed.given == {"data.limit"}


def test_python_values_of_the_right_kind_are_taken() -> None:
    stage = StageConfig(lr=0.1, steps=3)
    parsed = TRAIN.parse_object(
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


def test_another_base_may_stand_for_the_defaults() -> None:
    base = (TrainingConfig(lr=0.1, batch_size=8), ModelConfig(input=InputConfig(size=(28,)), noise=0.0))
    parsed = TRAIN.parse_object({"batch_size": 4, "input": {"channels": 1}}, base=base)
    assert parsed.of(TrainingConfig) == TrainingConfig(lr=0.1, batch_size=4)
    assert parsed.of(ModelConfig) == ModelConfig(input=InputConfig(size=(28,), channels=1), noise=0.0)
    assert parsed.given == {"batch_size", "input.channels"}


def test_mutable_defaults_are_not_shared() -> None:
    train("photos").of(BackboneConfig).args["surprise"] = 1
    assert train("photos").of(BackboneConfig).args == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("# nothing\n", "is empty"),
        ("- a\n- b\n", "is not a mapping"),
        ("just words", "is not a mapping"),
        ("lr: 1\nlr: 2\n", "line 2: the key 'lr' is given twice"),
        ("data: {limit: 1, limit: 2}", "line 1: the key 'limit' is given twice"),
        ("lr: [1\n", "line 2: expected"),
        ("lr: 1\n---\nlr: 2\n", "line 2: expected a single document"),
        ("a: !!python/object/apply:os.getcwd []\n", "could not determine a constructor"),
        ("a: !!timestamp x\n", "is not YAML"),
        ("[" * 5000, "is not YAML"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_line_that_names_it(tmp_path: Path, text: str, message: str) -> None:
    (problem,) = problems(f"photos --config {written(tmp_path, text)}")
    assert "run.yaml" in problem and message in problem


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00\x80")
    for path, reason in (("absent", "No such file"), ("", "directory"), ("binary", "not UTF-8")):
        (problem,) = problems(f"photos --config {shlex.quote(str(tmp_path / path))}")
        assert problem.startswith(f"--config: cannot read {tmp_path / path}: ") and reason in problem


# Strategies


def test_a_strategy_has_a_name_or_a_file_or_stands_in_place(tmp_path: Path) -> None:
    stages = (StageConfig(lr=1e-3, epochs=2), StageConfig(steps=10))
    inline = "[{lr: 1e-3, epochs: 2}, {steps: 10}]"
    listed = written(tmp_path, inline, "listed.yaml")
    keyed = written(tmp_path, f"stages: {inline}", "keyed.yaml")
    for value in (f"'{inline}'", listed, keyed):
        assert train(f"photos --stages {value}").of(TrainingConfig).stages == stages
    assert train("photos --stages paper").of(TrainingConfig).stages == PAPER_STAGES
    assert train("photos --stages null").of(TrainingConfig).stages is None
    assert train(f"photos --config {written(tmp_path, 'stages: paper')}").of(TrainingConfig).stages == PAPER_STAGES


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("papr", ["--stages: cannot read papr: No such file or directory, did you mean 'paper'?"]),
        ("'[{lr: 1}]'", ["--stages: stage 1: a stage needs either epochs or steps"]),
        ("'[{lr: 1, epohcs: 3}]'", ["--stages: stage 1: epohcs: unknown option, did you mean 'epochs'?"]),
        (
            "'[{epochs: 1}, {lr: a, steps: 0}]'",
            ["--stages: stage 2: lr: expected a number, got 'a'", "--stages: stage 2: steps 0 must be positive"],
        ),
    ],
)
def test_stages_are_checked_one_by_one(value: str, expected: list[str]) -> None:
    assert problems(f"photos --stages {value}") == expected


@pytest.mark.parametrize("value", ["'[]'", "'[3]'", "'{lr: 1}'"])
def test_what_is_no_list_of_stages_is_refused(value: str) -> None:
    (problem,) = problems(f"photos --stages {value}")
    assert "expected" in problem and "lr, epochs, steps" in problem


# What is wrong


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("photos --bach-size 3", "--bach-size: unknown option, did you mean '--batch-size'?"),
        ("photos --size 96", "--size: unknown option, did you mean '--input.size'?"),
        ("photos --data.imge-column x", "--data.imge-column: unknown option, did you mean '--data.image-column'?"),
        ("photos --confg x", "--confg: unknown option, did you mean '--config'?"),
        ("photos --no-pretrained", "--no-pretrained: unknown option, did you mean '--pretrained'?"),
        ("--data photos", "--data: unknown option, DATA is a positional argument"),
        ("photos --fusion 3", "--fusion: expected options of its own, such as --fusion.regime"),
        ("photos -q", "-q: unknown option (put names starting with '-' after '--')"),
        ("photos --lr", "--lr: expected a number, got nothing"),
        ("photos --lr --data.class-balanced-sampling", "--lr: expected a number, got nothing"),
        ("photos --lr ''", "--lr: expected a number, got ''"),
        ("photos --lr .nan", "--lr: expected a number, got '.nan'"),
        ("photos --hidden-size yes", "--hidden-size: expected a whole number, got 'yes'"),
        ("photos --hidden-size 1:30", "--hidden-size: expected a whole number, got '1:30'"),
        ("photos --hidden-size 010", "--hidden-size: expected a whole number, got '010'"),
        ("photos --hidden-size '[1'", "--hidden-size: expected a whole number, got '[1'"),
        ("photos --pretrained yes", "--pretrained: expected true or false, got 'yes'"),
        ("photos --hidden-size 2.5", "--hidden-size: expected a whole number, got '2.5'"),
        ("photos --pretrained maybe", "--pretrained: expected true or false, got 'maybe'"),
        ("photos --seed null", "--seed: expected a whole number, got null"),
        (
            "photos --recurrent lsmt",
            "--recurrent: expected one of none, rnn, gru, lstm, got 'lsmt', did you mean 'lstm'?",
        ),
        ("photos --input.size 9,b", "--input.size: expected a list, each a whole number, got 'b'"),
        ("photos --members a,,b", "--members: 'a,,b' has an empty element"),
        ("photos --backbone.args 3", "--backbone.args: expected a mapping, got 3"),
        ("photos --batch-size 0 --micro-batches 1", "batch_size 0 must be positive"),
        ("", "DATA is missing: folder, table, zip file, or the name of a data set"),
        ("photos more", "unexpected argument 'more'"),
    ],
)
def test_a_mistake_is_told_in_one_line(line: str, expected: str) -> None:
    assert expected in problems(line)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("hidden_size", "12", "a whole number, got '12'"),
        ("hidden_size", "yes", "a whole number, got 'yes'"),
        ("hidden_size", True, "a whole number, got true"),
        ("hidden_size", 12.0, "a whole number, got 12.0"),
        ("num_biases", True, "one of 1, 2, got true"),
        ("num_biases", 1.0, "one of 1, 2, got 1.0"),
        ("num_biases", 3, "one of 1, 2, got 3"),
        ("lr", "1e-3", "a number, got '1e-3'"),
        ("lr", False, "a number, got false"),
        ("lr", float("inf"), "a number, got inf"),
        ("output", 12, "text, got 12"),
        ("output", False, "text, got false"),
        ("pretrained", "true", "true or false, got 'true'"),
        ("pretrained", 1, "true or false, got 1"),
        ("pretrained", None, "true or false, got null"),
        ("batch_size", None, "a whole number, got null"),
        ("precision", 16, "one of 32, bf16, auto, got 16"),
        ("ensemble_methods", ["vote", 3], "each one of average, pruned, weighted, vote, greedy, e2e, got 3"),
        ("members", None, "a list, got null"),
        ("backbone.args", [1], "a mapping, got [1]"),
        ("backbone.args", "{a: 1}", "a mapping, got '{a: 1}'"),
        ("data.label_columns", [1, 2], "a list, each text, got 1"),
    ],
)
def test_files_and_python_are_never_coerced_across_kinds(key: str, value: Any, expected: str) -> None:
    (problem,) = object_problems({key: value}, source="run.yaml")
    assert problem.startswith(f"run.yaml: {key}: expected ") and problem.endswith(expected)


def test_a_word_that_is_no_option_is_never_lost() -> None:
    assert problems("--jsonn photos --lr") == ["--jsonn: unknown option", "--lr: expected a number, got nothing"]
    with pytest.raises(ConfigError, match=r"^--jsn: unknown option, did you mean '--json'\?$"):
        BLEND.parse_args(["--jsn", "a.npy"])  # the file was not taken for a value


def test_everything_is_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    text = "bach_size: 3\nhidden_size: many\ndata: {limit: 0}\nfusion: {regime: joint, data: validation}\n"
    found = problems(f"--config {written(tmp_path, text)} --lr fast --seed -1 --head papr")
    assert found == [
        f"{path}: bach_size: unknown option, did you mean 'batch_size'?",
        f"{path}: hidden_size: expected a whole number, got 'many'",
        "--lr: expected a number, got 'fast'",
        "--head: expected one of paper, linear, mlp, got 'papr', did you mean 'paper'?",
        "seed must not be negative",
        f"{path}: data.limit must be positive",
        f"{path}: fusion.regime joint with fusion.data validation: training the members on validation rows would "
        "leave nothing to choose with: use train",
        "DATA is missing: folder, table, zip file, or the name of a data set",
    ]


def test_a_rule_is_not_blamed_for_a_value_that_could_not_be_read() -> None:
    assert problems("photos --recurrent lsmt --scan rows") == [
        "--recurrent: expected one of none, rnn, gru, lstm, got 'lsmt', did you mean 'lstm'?"
    ]
    assert "scan 'rows' needs --recurrent rnn, gru or lstm" in problems("photos --scan rows --lr fast")


def test_a_nested_rule_is_told_once() -> None:
    assert problems("photos --input.size 1,2,3") == ["input.size takes one number, or height and width"]


@pytest.mark.parametrize("mapping", [{"batch-size": 1, "batch_size": 2}, {"data.limit": 1, "data": {"limit": 2}}])
def test_one_key_in_two_spellings_is_refused(mapping: dict[str, Any]) -> None:
    (problem,) = object_problems(mapping)
    assert problem.endswith(": given twice")


def test_keys_of_any_kind_are_refused_by_name() -> None:
    assert object_problems({3: 1, 4.5: 2}) == ["3: unknown option", "4.5: unknown option"]  # type: ignore[dict-item]


def test_faults_of_a_verbs_author_are_found_at_once() -> None:
    with pytest.raises(TypeError, match="two classes name an option 'lr'"):
        CommandOptions("bad", groups=[("", TrainingConfig), ("", StageConfig)])

    @dataclass(frozen=True)
    class Needy:
        name: str

    with pytest.raises(TypeError, match="needs a default"):
        CommandOptions("bad", groups=[("", Needy)])


# Writing down


def test_what_is_written_down_is_read_back(tmp_path: Path) -> None:
    line = "photos --stages paper --ensemble-methods vote,average --input.mean .5,.25,.125"
    line += " --members 'a,{model: b, lr: 1e-5}' --backbone.args '{x: [1, no]}' --data.label-columns 1e3,null,true"
    parsed = train(f"{line} --output 010")
    for again in (
        TRAIN.parse_object(parsed.to_dict()),
        train(f"photos --config {written(tmp_path, parsed.to_yaml())}"),
    ):
        assert again.instances == parsed.instances
        assert again.given == set(TRAIN.schema.fields)


def test_a_part_can_be_written_down() -> None:
    parsed = train("photos --data.limit 3 --lr 1")
    assert set(parsed.to_dict(DataConfig)) == {f"data.{field.name}" for field in fields(DataConfig)}
    assert parsed.to_dict(TrainingConfig)["lr"] == 1.0
    assert "input.size" in parsed.to_dict(ModelConfig) and "lr" not in parsed.to_dict(ModelConfig)
    assert TRAIN.to_dict(DataConfig(limit=3), FusionConfig()) == parsed.to_dict(DataConfig, FusionConfig)


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


@settings(max_examples=60, deadline=None)
@given(options)
@example({"backbone.args": {"a\x85b": "\x85", "c": "\u2028"}})
def test_any_options_survive_yaml(tmp_path_factory: pytest.TempPathFactory, mapping: dict[str, Any]) -> None:
    parsed = TRAIN.parse_object(mapping)
    path = tmp_path_factory.mktemp("yaml") / "run.yaml"
    path.write_text(parsed.to_yaml(), "utf-8")
    assert TRAIN.parse_args(["photos", "--config", str(path)]).instances == parsed.instances


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        texts
        | st.sampled_from(
            ["--lr", "--lr=1", "--data.class-balanced-sampling", "--", "-1", "--members", "--x", "--config"]
        )
    )
)
def test_any_words_are_understood_or_refused(words: list[str]) -> None:
    if {"-h", "--help"} & set(words):
        return
    try:
        assert TRAIN.parse_args(words).positional["data"] in words
    except ConfigError as error:
        assert all(line.strip() for line in str(error).split("\n"))


# Help


def test_the_help_shows_every_option_with_its_sentence() -> None:
    text = TRAIN.format_help()
    flat = " ".join(text.split())
    for field in TRAIN.schema.fields.values():
        assert re.search(rf"^  {re.escape(field.option)}\b", text, re.MULTILINE)
        assert field.help and field.help in flat
    assert "--config FILE" in text and "--help" in text


def test_the_help_fits_its_width() -> None:
    for width in (80, 100):
        lines = TRAIN.format_help(width=width).splitlines()
        assert max(map(len, lines)) <= width
        assert not any(line != line.rstrip() for line in lines)


@pytest.mark.parametrize(
    ("part", "there"),
    [
        ("Usage: tercet train DATA [options]", True),
        ("--recurrent none|rnn|gru|lstm", True),
        ("--batch-size N", True),
        ("(default: 32)", True),
        ("--pretrained true|false", True),
        ("--data.limit N          Maximum", True),
        ("--data.class-balanced-sampling\n", True),  # a flag stands alone, without a placeholder
        ("(default: None)", False),
        ("default: null", False),
        ("_size", False),
        ("Reading and splitting of the data", False),
        ("Data: reading and splitting of the data", True),
    ],
)
def test_the_help_is_written_for_people(part: str, there: bool) -> None:
    assert (part in TRAIN.format_help()) is there


def test_nested_groups_follow_their_class() -> None:
    text = TRAIN.format_help()
    assert text.index("\nModel: ") < text.index("\nBackbone: ") < text.index("\nInput: ") < text.index("\nTraining: ")


def test_the_usage_shows_the_words() -> None:
    assert BLEND.format_help().splitlines()[0] == "Usage: tercet blend FILES [FILES ...] [options]"
    both = CommandOptions(
        "x", positionals=[Positional("a", "one", required=False), Positional("b", "s", many=True, required=False)]
    )
    assert both.format_help().splitlines()[0] == "Usage: tercet x [A] [B ...] [options]"


@pytest.mark.parametrize("line", ["--help", "photos --lr bad -h", "--lr --help"])
def test_help_is_printed_whatever_else_is_there(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        train(line)
    assert caught.value.code == 0
    assert capsys.readouterr().out == TRAIN.format_help()


def test_every_option_class_of_the_project_is_documented() -> None:
    for kind in (RunConfig, DataConfig, ModelConfig, InputConfig, BackboneConfig, TrainingConfig, FusionConfig):
        assert is_dataclass(kind) and kind.__doc__ and not kind.__doc__.startswith(kind.__name__ + "(")
