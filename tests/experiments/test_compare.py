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
QUICK: dict[str, Any] = {"epochs": 2, "lr": 3e-3, "batch_size": 16, "threads": 1, "seeds": 2}


@pytest.fixture(scope="module")
def compared(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> ComparisonRun:
    with one_core():
        return compare(shapes, backbones=BACKBONES, output=str(tmp_path_factory.mktemp("compared") / "c"), **QUICK)


def stored(run: ComparisonRun, network: str, seed: int, split: str) -> Predictions:
    return Predictions.load(RunFolder(run.path).predictions(f"{network} seed {seed}", split))


def table(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def network_rows(run: ComparisonRun) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in run.metrics["networks"]}


def test_all_networks_and_seeds_use_the_same_images(compared: ComparisonRun) -> None:
    assert list(network_rows(compared)) == ["small-cnn", "row-gru", "row-rnn"]
    ids = {stored(compared, name, seed, "test").ids for name in network_rows(compared) for seed in (0, 1)}
    assert len(ids) == 1
    assert {row["updates"]["mean"] for row in network_rows(compared).values()} == {2 * 6}  # 87 images in batches of 16
    assert (compared.exit_code, compared.metrics["failed"]) == (0, [])


def test_scores_are_those_of_the_stored_predictions(compared: ComparisonRun) -> None:
    for name, row in network_rows(compared).items():
        for split in ("validation", "test"):
            accuracies = [score(stored(compared, name, seed, split)).accuracy for seed in (0, 1)]
            assert row[split]["accuracy"]["mean"] == pytest.approx(np.mean(accuracies))
            assert row[split]["accuracy"]["sd"] == pytest.approx(np.std(accuracies, ddof=1))
        for training in row["trainings"]:
            assert 0 < training["train_accuracy"] <= 1 and training["images_per_second"] > 0


def test_a_training_equals_that_of_train_with_the_same_seed(
    compared: ComparisonRun, shapes: Path, tmp_path: Path
) -> None:
    options = {key: value for key, value in QUICK.items() if key != "seeds"}
    run = train(shapes, members=[BACKBONES[2]], seed=1, output=str(tmp_path / "run"), tensorboard=False, **options)
    alone = Predictions.load(RunFolder(run.path).predictions("row-rnn", "test"))
    assert np.array_equal(alone.probabilities, stored(compared, "row-rnn", 1, "test").probabilities)


def test_networks_are_tested_against_the_baseline_with_holms_correction(compared: ComparisonRun) -> None:
    rows = network_rows(compared)
    assert compared.metrics["baseline"] == "small-cnn"
    assert rows["small-cnn"]["against_baseline"] is None
    tests = [rows[name]["against_baseline"] for name in ("row-gru", "row-rnn")]
    assert all(test["test"] == "images and seeds" and test["seeds"] == 2 for test in tests)
    assert min(test["p_holm"] for test in tests) == pytest.approx(min(1, 2 * min(test["p_value"] for test in tests)))
    for name, test in zip(("row-gru", "row-rnn"), tests, strict=True):
        difference = rows[name]["test"]["accuracy"]["mean"] - rows["small-cnn"]["test"]["accuracy"]["mean"]
        assert test["difference"] == pytest.approx(difference)


def test_images_are_listed_by_the_number_of_correct_trainings(compared: ComparisonRun) -> None:
    rows = {row["id"]: row for row in table(compared.path / "images.csv")}
    assert len(rows) == 18
    for name in network_rows(compared):
        right = np.zeros(18, dtype=int)
        for seed in (0, 1):
            predictions = stored(compared, name, seed, "test")
            right += predictions.predicted == predictions.labels
        counts = {image: int(rows[image][name]) for image in predictions.ids}
        assert counts == dict(zip(predictions.ids, right.tolist(), strict=True))
    easy = [image for image, row in rows.items() if row["right"] == row["trainings"] == "6"]
    hard = [image for image, row in rows.items() if row["right"] == "0"]
    assert sorted(compared.metrics["easy"]["ids"]) == sorted(easy)
    assert sorted(compared.metrics["hard"]["ids"]) == sorted(hard)
    assert compared.metrics["easy"]["count"] == len(easy)


def test_pairs_have_shares_of_common_and_different_errors(compared: ComparisonRun) -> None:
    pairs = table(compared.path / "pairs.csv")
    assert [(pair["a"], pair["b"]) for pair in pairs] == [
        ("small-cnn", "row-gru"),
        ("small-cnn", "row-rnn"),
        ("row-gru", "row-rnn"),
    ]
    for pair in pairs:
        assert sum(float(pair[key]) for key in ("both", "only_a", "only_b", "neither")) == pytest.approx(1)
    errors = network_rows(compared)["row-gru"]["errors"]
    assert (errors["only_a"], errors["only_b"]) == (float(pairs[0]["only_b"]), float(pairs[0]["only_a"]))


def test_tables_list_every_network_and_its_cost(compared: ComparisonRun) -> None:
    lines = table(compared.path / "networks.csv")
    assert [line["network"] for line in lines] == ["small-cnn", "row-gru", "row-rnn"]
    bundle = load_bundle(RunFolder(compared.path).member("row-gru seed 1").bundle)
    assert int(lines[1]["parameters"]) == count_parameters(bundle.members[0].classifier)
    assert float(lines[1]["flops"]) > 0 and float(lines[1]["seconds_per_epoch_mean"]) > 0
    assert lines[0]["p_holm"] == "" and 0 <= float(lines[1]["p_holm"]) <= 1
    assert compared.report == (compared.path / "report.txt").read_text("utf-8")
    assert max(len(line) for line in compared.report.splitlines()) <= 80
    assert json.loads((compared.path / "metrics.json").read_text("utf-8")) == compared.metrics


def test_members_of_a_comparison_can_be_combined(compared: ComparisonRun, tmp_path: Path) -> None:
    ensemble = combine([compared.path], ensemble_methods=["average"], output=str(tmp_path / "ensemble"))
    assert len(ensemble.metrics["members"]) == 6


def test_train_does_not_resume_a_comparison(compared: ComparisonRun, shapes: Path) -> None:
    with pytest.raises(StorageError, match="created by tercet compare: continue it with tercet compare --resume"):
        train(resume=compared.path)
    with pytest.raises(StorageError, match="not a run folder"):
        compare(resume=shapes)


def test_resume_runs_missing_and_failed_trainings_only(shapes: Path, tmp_path: Path) -> None:
    options = {**QUICK, "epochs": 2, "backbones": BACKBONES[1:]}
    first = compare(shapes, output=str(tmp_path / "c"), **options)
    folder = RunFolder(first.path)
    before = {member.name: folder.member(member.name).done.stat().st_mtime_ns for member in Plan.load(folder).members}
    missing, broken = folder.member("row-gru seed 1"), folder.member("row-rnn seed 0")
    for member in (missing, broken):
        member.done.unlink()
    assert not broken.checkpoints.exists()  # only unfinished trainings need them
    broken.checkpoints.mkdir()
    last = broken.checkpoints / "last.ckpt"
    last.write_bytes(b"damaged")

    second = compare(resume=first.path)
    assert second.exit_code == 4
    assert [(failure["network"], failure["seed"]) for failure in second.metrics["failed"]] == [("row-rnn", 0)]
    assert "FAILED: row-rnn, seed 0" in second.report and "--resume" in second.report
    assert network_rows(second)["row-rnn"]["seeds"] == [1]
    assert network_rows(second)["row-rnn"]["against_baseline"]["test"] == "McNemar"  # a single seed

    last.unlink()
    third = compare(shapes, resume=first.path, output=str(tmp_path / "c"), **options)  # options may be repeated
    assert (third.exit_code, third.metrics["failed"]) == (0, [])
    after = {name: folder.member(name).done.stat().st_mtime_ns for name in before}
    assert {name for name in before if before[name] != after[name]} == {"row-gru seed 1", "row-rnn seed 0"}
    for key in ("test", "validation", "against_baseline"):
        assert network_rows(third)["row-rnn"][key] == network_rows(first)["row-rnn"][key]


def test_resume_rejects_changed_options(compared: ComparisonRun) -> None:
    with pytest.raises(ConfigError, match="remove data, seeds"):
        compare("other", resume=compared.path, seeds=3, epochs=2)


def test_a_failing_network_does_not_stop_the_others(shapes: Path, tmp_path: Path) -> None:
    backbones = ["small-cnn", {"model": "test_resnet", "pretrained": False, "recurrent": "rnn", "scan": "rows"}]
    run = compare(shapes, backbones=backbones, sizes=[20], output=str(tmp_path / "c"), **{**QUICK, "epochs": 1})
    assert run.exit_code == 2
    assert [failure["seed"] for failure in run.metrics["failed"]] == [0, 1]
    assert "single step" in run.metrics["failed"][0]["message"]
    rows = network_rows(run)
    assert (rows["small-cnn@20"]["seeds"], rows["test_resnet@20"]["seeds"]) == ([0, 1], [])
    assert run.metrics["easy"]["n"] == 18
    assert table(run.path / "networks.csv")[1]["parameters"] == ""


def test_a_comparison_without_a_finished_training_raises(shapes: Path, tmp_path: Path) -> None:
    backbone = {"model": "test_resnet", "pretrained": False, "recurrent": "rnn", "scan": "rows", "input.size": [20]}
    with pytest.raises(TercetError, match="single step") as caught:
        compare(shapes, backbones=[backbone], output=str(tmp_path / "c"), **QUICK)
    assert caught.value.exit_code == 2


def test_parameters_are_matched_within_the_tolerance(shapes: Path, tmp_path: Path) -> None:
    options = {**QUICK, "epochs": 1, "seeds": 1, "hidden_size": 24, "match_parameters": True, "tolerance": 0.02}
    run = compare(shapes, backbones=["row-lstm", "row-rnn"], output=str(tmp_path / "c"), **options)
    rows = network_rows(run)
    target = rows["row-lstm"]["parameters"]
    matched = rows["row-rnn"]
    assert abs(matched["parameters"] - target) <= 0.02 * target
    assert matched["matched"]["parameters"] == matched["parameters"]
    assert f"row-rnn: --hidden-size {matched['matched']['width']} gives" in run.report
    assert "matched" not in rows["row-lstm"]


def test_an_unreachable_parameter_count_raises_and_leaves_no_folder(shapes: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="parameters with 'small-cnn'"):
        compare(shapes, backbones=["row-rnn", "small-cnn"], match_parameters=True, output=str(tmp_path / "c"), **QUICK)
    assert not (tmp_path / "c").exists()


def test_a_budget_of_flops_determines_the_steps_of_each_network(shapes: Path, tmp_path: Path) -> None:
    stages = [{"lr": 1e-3, "epochs": 3}, {"lr": 1e-4, "epochs": 1}]
    options = {**QUICK, "seeds": 1, "lr": None, "epochs": None, "stages": stages}
    run = compare(shapes, backbones=BACKBONES[1:], budget="flops:4e7", output=str(tmp_path / "c"), **options)
    for name, row in network_rows(run).items():
        steps = row["planned_updates"]
        assert steps == int(4e7 / (3 * row["flops"] * 16))
        first, second = Plan.load(RunFolder(run.path)).member(f"{name} seed 0").training.stage_list()
        assert (row["updates"]["mean"], first.lr, second.lr) == (steps, 1e-3, 1e-4)
        assert (first.steps, second.steps) == (round(steps * 3 / 4), steps - round(steps * 3 / 4))
    with pytest.raises(ConfigError, match="too small for 'row-gru'"):
        compare(shapes, backbones=BACKBONES[1:], budget="flops:1e3", output=str(tmp_path / "d"), **options)


def test_a_budget_of_seconds_stops_every_training(shapes: Path, tmp_path: Path) -> None:
    options = {**QUICK, "seeds": 1, "epochs": None, "budget": "seconds:0.5"}
    run = compare(shapes, backbones=BACKBONES[:2], output=str(tmp_path / "c"), **options)
    for row in network_rows(run).values():
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
def test_invalid_options_raise_before_data_is_read(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compare("no-such-data", output=str(tmp_path / "c"), **options)
    assert not (tmp_path / "c").exists()


def test_missing_data_raises_and_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no-such-data"):
        compare("no-such-data", backbones=["small-cnn"], output=str(tmp_path / "c"))
    assert not (tmp_path / "c").exists()
    with pytest.raises(ConfigError, match="--resume FOLDER"):
        compare()


def test_two_predictions_are_compared_without_training(compared: ComparisonRun) -> None:
    a, b = (stored(compared, name, 0, "test") for name in ("small-cnn", "row-rnn"))
    assert compare(a, b) == compare_predictions(a, b)
    with pytest.raises(ConfigError, match="two predictions"):
        compare(a)  # type: ignore[call-overload]


def test_the_command_line_returns_the_result_of_the_python_function(
    compared: ComparisonRun, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", "--resume", str(compared.path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == read_json(compared.path / "metrics.json")
    assert main(["compare", "--resume", str(compared.path)]) == 0
    assert capsys.readouterr().out.startswith(compared.report)
