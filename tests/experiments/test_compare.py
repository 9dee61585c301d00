import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.fixtures.runs import one_core

from tercet.cli.main import main
from tercet.core.errors import ConfigError, DataError, StorageError, TercetError
from tercet.core.files import read_json
from tercet.core.history import History
from tercet.core.predictions import Predictions
from tercet.core.run_folder import RunFolder
from tercet.ensemble.bundle import load_bundle
from tercet.experiments.compare import ComparisonRun, compare
from tercet.experiments.ensemble import combine
from tercet.experiments.plan import Plan
from tercet.experiments.train import train
from tercet.metrics.classification import score
from tercet.metrics.significance import compare as compare_predictions
from tercet.models.summary import count_parameters

pytestmark = pytest.mark.usefixtures("alone")
NARROW = {"hidden_size": 16, "num_layers": 1}
BACKBONES = ["small-cnn", {"model": "row-gru", **NARROW}, {"model": "row-rnn", **NARROW}]
QUICK: dict[str, Any] = {"epochs": 4, "lr": 3e-3, "batch_size": 16, "threads": 1, "seeds": 2}


@pytest.fixture(scope="module")
def compared(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> ComparisonRun:
    with one_core():
        return compare(shapes, backbones=BACKBONES, output=str(tmp_path_factory.mktemp("compared") / "c"), **QUICK)


def stored(run: ComparisonRun, network: str, seed: int, split: str) -> Predictions:
    return Predictions.load(RunFolder(run.path).predictions(f"{network} seed {seed}", split))


def table(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def networks(run: ComparisonRun) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in run.metrics["networks"]}


def test_every_network_is_trained_with_every_seed_on_the_same_rows(compared: ComparisonRun) -> None:
    assert list(networks(compared)) == ["small-cnn", "row-gru", "row-rnn"]
    ids = {stored(compared, name, seed, "test").ids for name in networks(compared) for seed in (0, 1)}
    assert len(ids) == 1
    assert {row["updates"]["mean"] for row in networks(compared).values()} == {4 * 6}  # 87 images, 16 an update
    assert (compared.exit_code, compared.metrics["failed"]) == (0, [])


def test_scores_are_those_of_the_stored_predictions(compared: ComparisonRun) -> None:
    for name, row in networks(compared).items():
        for split in ("validation", "test"):
            found = [score(stored(compared, name, seed, split)).accuracy for seed in (0, 1)]
            assert row[split]["accuracy"]["mean"] == pytest.approx(np.mean(found))
            assert row[split]["accuracy"]["sd"] == pytest.approx(np.std(found, ddof=1))
        assert all(0 < one["train_accuracy"] <= 1 and one["images_per_second"] > 0 for one in row["trainings"])


def test_a_training_is_what_train_makes_with_that_seed(compared: ComparisonRun, shapes: Path, tmp_path: Path) -> None:
    options = {key: value for key, value in QUICK.items() if key != "seeds"}
    run = train(shapes, members=[BACKBONES[2]], seed=1, output=str(tmp_path / "run"), tensorboard=False, **options)
    alone = Predictions.load(RunFolder(run.path).predictions("row-rnn", "test"))
    assert np.array_equal(alone.probabilities, stored(compared, "row-rnn", 1, "test").probabilities)


def test_everyone_but_the_baseline_is_tested_with_holms_correction(compared: ComparisonRun) -> None:
    rows = networks(compared)
    assert compared.metrics["baseline"] == "small-cnn"
    assert rows["small-cnn"]["against_baseline"] is None
    tests = [rows[name]["against_baseline"] for name in ("row-gru", "row-rnn")]
    assert all(one["test"] == "images and seeds" and one["seeds"] == 2 for one in tests)
    assert min(one["p_holm"] for one in tests) == pytest.approx(min(1, 2 * min(one["p_value"] for one in tests)))
    for name, one in zip(("row-gru", "row-rnn"), tests, strict=True):
        apart = rows[name]["test"]["accuracy"]["mean"] - rows["small-cnn"]["test"]["accuracy"]["mean"]
        assert one["difference"] == pytest.approx(apart)


def test_images_are_told_by_how_many_get_them_right(compared: ComparisonRun) -> None:
    rows = {row["id"]: row for row in table(compared.path / "images.csv")}
    assert len(rows) == 18
    for name in networks(compared):
        right = np.zeros(18, dtype=int)
        for seed in (0, 1):
            said = stored(compared, name, seed, "test")
            right += said.predicted == said.labels
        assert {image: int(rows[image][name]) for image in said.ids} == dict(zip(said.ids, right.tolist(), strict=True))
    easy = [image for image, row in rows.items() if row["right"] == row["trainings"] == "6"]
    hard = [image for image, row in rows.items() if row["right"] == "0"]
    assert sorted(compared.metrics["easy"]["ids"]) == sorted(easy)
    assert sorted(compared.metrics["hard"]["ids"]) == sorted(hard)
    assert compared.metrics["easy"]["count"] == len(easy)


def test_pairs_say_which_errors_differ(compared: ComparisonRun) -> None:
    pairs = table(compared.path / "pairs.csv")
    assert [(pair["a"], pair["b"]) for pair in pairs] == [
        ("small-cnn", "row-gru"),
        ("small-cnn", "row-rnn"),
        ("row-gru", "row-rnn"),
    ]
    for pair in pairs:
        assert sum(float(pair[key]) for key in ("both", "only_a", "only_b", "neither")) == pytest.approx(1)
    errors = networks(compared)["row-gru"]["errors"]
    assert (errors["only_a"], errors["only_b"]) == (float(pairs[0]["only_b"]), float(pairs[0]["only_a"]))


def test_the_tables_name_every_network_and_its_cost(compared: ComparisonRun) -> None:
    lines = table(compared.path / "networks.csv")
    assert [line["network"] for line in lines] == ["small-cnn", "row-gru", "row-rnn"]
    bundle = load_bundle(RunFolder(compared.path).member("row-gru seed 1").bundle)
    assert int(lines[1]["parameters"]) == count_parameters(bundle.members[0].classifier)
    assert float(lines[1]["flops"]) > 0 and float(lines[1]["seconds_per_epoch_mean"]) > 0
    assert lines[0]["p_holm"] == "" and 0 <= float(lines[1]["p_holm"]) <= 1
    assert compared.report == (compared.path / "report.txt").read_text("utf-8")
    assert max(len(line) for line in compared.report.splitlines()) <= 80
    assert json.loads((compared.path / "metrics.json").read_text("utf-8")) == compared.metrics


def test_a_comparisons_members_can_be_fused(compared: ComparisonRun, tmp_path: Path) -> None:
    fused = combine([compared.path], ensemble_methods=["average"], output=str(tmp_path / "fused"))
    assert len(fused.metrics["members"]) == 6


def test_train_does_not_take_a_comparison_for_a_run(compared: ComparisonRun, shapes: Path) -> None:
    with pytest.raises(StorageError, match="not created by tercet train"):
        train(resume=compared.path)
    with pytest.raises(StorageError, match="not a run folder"):
        compare(resume=shapes)


def test_resume_trains_only_what_is_missing_and_what_failed(shapes: Path, tmp_path: Path) -> None:
    options = {**QUICK, "epochs": 2, "backbones": BACKBONES[1:]}
    first = compare(shapes, output=str(tmp_path / "c"), **options)
    folder = RunFolder(first.path)
    before = {member.name: folder.member(member.name).done.stat().st_mtime_ns for member in Plan.load(folder).members}
    missing, broken = folder.member("row-gru seed 1"), folder.member("row-rnn seed 0")
    for member in (missing, broken):
        member.done.unlink()
    last = broken.checkpoints / "last.ckpt"
    assert last.is_file()
    last.write_bytes(b"damaged")

    second = compare(resume=first.path)
    assert second.exit_code == 4
    assert [(one["network"], one["seed"]) for one in second.metrics["failed"]] == [("row-rnn", 0)]
    assert "FAILED: row-rnn, seed 0" in second.report and "--resume" in second.report
    assert networks(second)["row-rnn"]["seeds"] == [1]
    assert networks(second)["row-rnn"]["against_baseline"]["test"] == "McNemar"  # one seed is left

    last.unlink()
    third = compare(shapes, resume=first.path, output=str(tmp_path / "c"), **options)  # the same command again
    assert (third.exit_code, third.metrics["failed"]) == (0, [])
    after = {name: folder.member(name).done.stat().st_mtime_ns for name in before}
    assert {name for name in before if before[name] != after[name]} == {"row-gru seed 1", "row-rnn seed 0"}
    for key in ("test", "validation", "against_baseline"):
        assert networks(third)["row-rnn"][key] == networks(first)["row-rnn"][key]


def test_another_command_does_not_resume(compared: ComparisonRun) -> None:
    with pytest.raises(ConfigError, match="data, seeds differ"):
        compare("other", resume=compared.path, seeds=3, epochs=4)


def test_a_failing_network_leaves_the_others(shapes: Path, tmp_path: Path) -> None:
    backbones = ["small-cnn", {"model": "test_resnet", "pretrained": False, "recurrent": "rnn", "scan": "rows"}]
    run = compare(shapes, backbones=backbones, sizes=[20], output=str(tmp_path / "c"), **{**QUICK, "epochs": 1})
    assert run.exit_code == 2
    assert [one["seed"] for one in run.metrics["failed"]] == [0, 1]
    assert "single step" in run.metrics["failed"][0]["message"]
    rows = networks(run)
    assert (rows["small-cnn@20"]["seeds"], rows["test_resnet@20"]["seeds"]) == ([0, 1], [])
    assert run.metrics["easy"]["n"] == 18
    assert table(run.path / "networks.csv")[1]["parameters"] == ""


def test_where_nothing_trains_it_is_an_error(shapes: Path, tmp_path: Path) -> None:
    backbone = {"model": "test_resnet", "pretrained": False, "recurrent": "rnn", "scan": "rows", "input.size": [20]}
    with pytest.raises(TercetError, match="single step") as caught:
        compare(shapes, backbones=[backbone], output=str(tmp_path / "c"), **QUICK)
    assert caught.value.exit_code == 2


def test_parameters_are_matched_within_the_tolerance(shapes: Path, tmp_path: Path) -> None:
    options = {**QUICK, "epochs": 1, "seeds": 1, "match_parameters": True, "tolerance": 0.02}
    run = compare(
        shapes, backbones=["row-lstm", "row-rnn", "row-gru"], hidden_size=24, output=str(tmp_path / "c"), **options
    )
    rows = networks(run)
    target = rows["row-lstm"]["parameters"]
    for name in ("row-rnn", "row-gru"):
        assert abs(rows[name]["parameters"] - target) <= 0.02 * target
        assert rows[name]["matched"]["parameters"] == rows[name]["parameters"]
        assert f"{name}: --hidden-size {rows[name]['matched']['width']} gives" in run.report
    assert "matched" not in rows["row-lstm"]


def test_a_size_out_of_reach_leaves_no_folder(shapes: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="parameters with 'small-cnn'"):
        compare(shapes, backbones=["row-rnn", "small-cnn"], match_parameters=True, output=str(tmp_path / "c"), **QUICK)
    assert not (tmp_path / "c").exists()


def test_a_budget_of_flops_buys_each_network_its_updates(shapes: Path, tmp_path: Path) -> None:
    stages = [{"lr": 1e-3, "epochs": 3}, {"lr": 1e-4, "epochs": 1}]
    options = {**QUICK, "seeds": 1, "lr": None, "epochs": None, "stages": stages}
    run = compare(shapes, backbones=BACKBONES[1:], budget="flops:4e7", output=str(tmp_path / "c"), **options)
    for name, row in networks(run).items():
        updates = row["planned_updates"]
        assert updates == int(4e7 / (3 * row["flops"] * 16))
        first, second = Plan.load(RunFolder(run.path)).member(f"{name} seed 0").training.stage_list()
        assert (row["updates"]["mean"], first.lr, second.lr) == (updates, 1e-3, 1e-4)
        assert (first.steps, second.steps) == (round(updates * 3 / 4), updates - round(updates * 3 / 4))
    with pytest.raises(ConfigError, match="pays for no update of 'row-gru'"):
        compare(shapes, backbones=BACKBONES[1:], budget="flops:1e3", output=str(tmp_path / "d"), **options)


def test_a_budget_of_seconds_ends_every_training(shapes: Path, tmp_path: Path) -> None:
    options = {**QUICK, "seeds": 1, "epochs": None, "budget": "seconds:0.5"}
    run = compare(shapes, backbones=BACKBONES[:2], output=str(tmp_path / "c"), **options)
    for row in networks(run).values():
        (member,) = (run.path / "members").glob(f"{row['name']}*")
        assert History.load(member / "history.jsonl").rows[-1].note == "training time limit"
        assert row["updates"]["mean"] > 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "--backbones"),
        ({"backbones": ["smal-cnn"]}, "small-cnn"),
        ({"backbones": ["small-cnn"], "baseline": "row-lstm"}, "not in the grid"),
        ({"backbones": ["small-cnn"], "sead": 3}, "seed"),
        ({"backbones": ["small-cnn"], "device": "gpu"}, "device"),
    ],
)
def test_wrong_options_are_told_before_data_is_touched(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compare("no-such-data", output=str(tmp_path / "c"), **options)
    assert not (tmp_path / "c").exists()


def test_wrong_data_is_told_and_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no-such-data"):
        compare("no-such-data", backbones=["small-cnn"], output=str(tmp_path / "c"))
    assert not (tmp_path / "c").exists()
    with pytest.raises(ConfigError, match="--resume FOLDER"):
        compare()


def test_two_predictions_are_compared_as_they_are(compared: ComparisonRun) -> None:
    one, other = (stored(compared, name, 0, "test") for name in ("small-cnn", "row-rnn"))
    assert compare(one, other) == compare_predictions(one, other)
    with pytest.raises(ConfigError, match="two predictions"):
        compare(one)  # type: ignore[call-overload]


def test_the_command_line_answers_as_python_does(compared: ComparisonRun, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--resume", str(compared.path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == read_json(compared.path / "metrics.json")
    assert main(["compare", "--resume", str(compared.path)]) == 0
    assert capsys.readouterr().out.startswith(compared.report)
