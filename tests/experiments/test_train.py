import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.fixtures.runs import OPTIONS, draw_folder, metrics_of

from tercet.core.errors import ConfigError, DataError, StorageError, TercetError
from tercet.core.history import History
from tercet.core.predictions import Predictions
from tercet.core.run_folder import RunFolder
from tercet.ensemble.bundle import load_bundle
from tercet.experiments.train import Run, train
from tercet.inference.predict import evaluate
from tercet.metrics.classification import score

pytestmark = pytest.mark.usefixtures("alone")
METHODS = ["average", "pruned", "weighted", "vote", "greedy", "e2e"]


def test_a_run_leaves_everything_that_was_asked(finished: Run) -> None:
    left = {path.name for path in finished.path.iterdir()}
    assert left >= {
        "config.yaml",
        "environment.json",
        "samples.csv",
        "plan.json",
        "metrics.json",
        "report.txt",
        "bundle",
    }
    for name in ("small-cnn", "row-gru", "wide"):
        member = RunFolder(finished.path).member(name)
        history = History.load(member.path / "history.jsonl")
        assert len(history) == (4 if name == "wide" else 6)
        assert len((member.path / "train.log").read_text().splitlines()) == len(history)
        assert (member.bundle / "manifest.json").is_file()
        for split in ("validation", "test"):
            assert (finished.path / "predictions" / f"{name}-{split}.npz").is_file()
    assert not list(finished.path.rglob("*.tmp"))


def test_it_learns_the_shapes(finished: Run) -> None:
    chosen = finished.metrics["chosen"]
    row = next(row for row in finished.metrics["ensembles"] if row["name"] == chosen)
    assert row["test"]["accuracy"] > 0.8
    assert [row["name"] for row in finished.metrics["ensembles"]] == METHODS


def test_what_is_chosen_is_best_on_validation(finished: Run) -> None:
    rows = {row["name"]: row["validation"] for row in finished.metrics["ensembles"]}
    best = max(row["accuracy"] for row in rows.values())
    assert rows[finished.metrics["chosen"]]["accuracy"] == best


def test_stored_predictions_give_the_reported_scores(finished: Run) -> None:
    for row in [*finished.metrics["members"], *finished.metrics["ensembles"]]:
        for split in ("validation", "test"):
            stored = Predictions.load(finished.path / "predictions" / f"{row['name']}-{split}.npz")
            assert score(stored).to_dict() == row[split]


def test_splits_are_disjoint_and_cover_everything(finished: Run) -> None:
    lines = (finished.path / "samples.csv").read_text().splitlines()[1:]
    splits = [line.split(",")[3] for line in lines]
    assert len(lines) == 120
    assert {split: splits.count(split) for split in set(splits)} == {"train": 87, "val": 15, "test": 18}


def test_the_bundle_repeats_the_runs_test_predictions(finished: Run, shapes: Path) -> None:
    chosen = Predictions.load(finished.path / "predictions" / f"{finished.metrics['chosen']}-test.npz")
    bundle = finished.bundle()
    assert bundle.calibration is not None
    said = bundle.predict([shapes / name for name in chosen.ids])
    assert np.abs(said.probabilities - bundle.calibration.apply(chosen).probabilities).max() < 1e-5
    assert said.classes == ("disc", "square", "stroke")


def test_evaluate_on_the_training_data_scores_the_held_out_test_split(finished: Run, shapes: Path) -> None:
    evaluation = evaluate(finished.path, shapes)
    chosen = next(row for row in finished.metrics["ensembles"] if row["name"] == finished.metrics["chosen"])
    assert evaluation.rows[0].scores.n == chosen["test"]["n"]
    assert evaluation.rows[0].scores.accuracy == chosen["test"]["accuracy"]
    assert "held out" in evaluation.subset


def test_evaluate_matches_classes_by_name(finished: Run, tmp_path: Path) -> None:
    other = draw_folder(tmp_path / "other", count=5, seed=9)
    (other / "square").rename(other / "a-new-class")
    evaluation = evaluate(finished.path, other)
    assert evaluation.missing == ("square",)
    assert evaluation.extra == {"a-new-class": 5}
    assert evaluation.rows[0].scores.n == 10
    assert evaluation.rows[0].scores.accuracy > 0.6


def test_the_same_seed_gives_the_same_run(shapes: Path, tmp_path: Path) -> None:
    options = {**OPTIONS, "members": OPTIONS["members"][1:], "ensemble_methods": ["average", "e2e"]}
    first, second = (train(shapes, output=str(tmp_path / name), **options) for name in "ab")
    for method in ("average", "e2e"):
        one, other = (Predictions.load(run.path / "predictions" / f"{method}-test.npz") for run in (first, second))
        assert np.array_equal(one.probabilities, other.probabilities)


def test_one_member_needs_no_fusion(shapes: Path, tmp_path: Path) -> None:
    run = train(shapes, output=str(tmp_path / "run"), **{**OPTIONS, "members": OPTIONS["members"][:1]})
    assert run.metrics["ensembles"] == []
    assert run.metrics["chosen"] == "small-cnn"
    assert len(run.bundle().members) == 1


def test_the_best_members_can_be_selected(shapes: Path, tmp_path: Path) -> None:
    options = {**OPTIONS, "ensemble_methods": ["average"], "fusion": {"num_members": 2}}
    run = train(shapes, output=str(tmp_path / "run"), **options)
    order = sorted(
        run.metrics["members"], key=lambda row: (-row["validation"]["accuracy"], row["validation"]["log_loss"])
    )
    assert set(run.metrics["ensembles"][0]["members"]) == {row["name"] for row in order[:2]}
    assert len(run.bundle().members) == 2


def test_choosing_on_the_test_split_is_said_loudly(shapes: Path, tmp_path: Path) -> None:
    run = train(
        shapes, output=str(tmp_path / "run"), monitor_split="test", **{**OPTIONS, "ensemble_methods": ["average"]}
    )
    assert run.metrics["protocol"]["monitor_split"] == "test"
    assert "WARNING" in run.report and "optimistic" in run.report


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"members": ["smal-cnn"]}, "small-cnn"),
        ({"membres": ["small-cnn"]}, "members"),
        ({"members": ["small-cnn"], "epochs": -1}, "epochs"),
        ({"members": [{"model": "small-cnn", "lrr": 1}]}, "lr"),
        ({"fusion": {"regime": "joint", "data": "validation"}}, "joint"),
        ({"fusion": {"regime": "frozen", "data": "out-of-fold"}}, "cached"),
        ({"members": ["small-cnn"], "scan": "rows"}, "recurrent"),
        ({"device": "gpu"}, "device"),
    ],
)
def test_wrong_options_are_told_before_data_is_touched(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        train("no-such-data", output=str(tmp_path / "run"), **options)
    assert not (tmp_path / "run").exists()


def test_wrong_data_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no-such-data"):
        train("no-such-data", output=str(tmp_path / "run"), members=["small-cnn"])


def test_an_existing_folder_is_not_overwritten(shapes: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("precious")
    with pytest.raises(StorageError, match="exists"):
        train(shapes, output=str(tmp_path / "run"), **OPTIONS)
    assert (tmp_path / "run" / "thesis.txt").read_text() == "precious"


def test_unreadable_images_are_named_and_too_many_are_an_error(tmp_path: Path) -> None:
    data = draw_folder(tmp_path / "data", count=12)
    (data / "disc" / "broken.png").write_bytes(b"not an image")
    options = {**OPTIONS, "members": OPTIONS["members"][2:]}
    with pytest.raises(DataError, match=r"broken\.png"):
        train(data, output=str(tmp_path / "a"), **options)
    run = train(data, output=str(tmp_path / "b"), data={"max_bad_fraction": 0.2}, **options)
    assert [row["location"] for row in json.loads((run.path / "unreadable.json").read_text())] == ["disc/broken.png"]


def test_a_failing_member_leaves_the_others_and_can_be_resumed(shapes: Path, tmp_path: Path) -> None:
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(b"not weights")
    bad = {"name": "bad", "model": "test_resnet", "weights": str(weights), "input.size": [32], "epochs": 1}
    with pytest.raises(TercetError, match="member bad") as error:
        train(shapes, output=str(tmp_path / "run"), **{**OPTIONS, "members": [*OPTIONS["members"][2:], bad]})
    assert error.value.exit_code == 4
    assert RunFolder(tmp_path / "run").member("wide").finished()
    assert not RunFolder(tmp_path / "run").member("bad").finished()


def test_resume_takes_no_other_options(finished: Run) -> None:
    with pytest.raises(ConfigError, match="takes no"):
        train(resume=finished.path, epochs=3)


def test_resuming_a_finished_run_repeats_its_metrics(finished: Run) -> None:
    before = metrics_of(finished.path)
    again = train(resume=finished.path)
    for row, other in zip(before["members"], again.metrics["members"], strict=True):
        assert row == other
    assert again.metrics["chosen"] == before["chosen"]


def test_a_tampered_bundle_is_refused(finished: Run, tmp_path: Path) -> None:
    import shutil

    for file in sorted(path.name for path in (finished.path / "bundle").iterdir()):
        copy = tmp_path / file
        shutil.copytree(finished.path / "bundle", copy)
        content = bytearray((copy / file).read_bytes())
        content[len(content) // 2] ^= 4
        (copy / file).write_bytes(bytes(content))
        with pytest.raises(TercetError) as error:
            load_bundle(copy)
        assert error.value.exit_code == 4


def test_evaluate_finds_the_held_out_images_of_a_grouped_split_again(shapes: Path, tmp_path: Path) -> None:
    options = {**OPTIONS, "members": OPTIONS["members"][2:], "data": {"group_from": r"-(\d)\d*\.png"}}
    run = train(shapes, output=str(tmp_path / "run"), **options)
    evaluation = evaluate(run.path, shapes)  # without the option that made the groups
    held_out = Predictions.load(run.path / "predictions" / "wide-test.npz")
    assert set(evaluation.predictions.ids) == set(held_out.ids)


def test_what_was_left_out_is_in_the_report(tmp_path: Path) -> None:
    data = draw_folder(tmp_path / "data", count=12)
    (data / "disc" / "broken.png").write_bytes(b"not an image")
    (data / "disc" / "notes.txt").write_text("not a picture")
    options = {**OPTIONS, "members": OPTIONS["members"][2:], "data": {"max_bad_fraction": 0.2}}
    run = train(data, output=str(tmp_path / "run"), **options)
    assert "broken.png" in run.report and "notes.txt" in run.report


def test_a_schedule_without_a_stage_to_shape_is_refused(shapes: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="single stage"):
        train(shapes, output=str(tmp_path / "run"), members=["small-cnn"], schedule="cosine")


def test_weights_that_are_not_there_are_told_before_data_is_touched(tmp_path: Path) -> None:
    with pytest.raises(TercetError, match="--weights") as error:
        train("no-such-data", output=str(tmp_path / "run"), members=["test_resnet"])
    assert error.value.exit_code == 4


WITHOUT_AVX512 = """
import sys, torch
from tercet import train
from tercet.core.errors import ConfigError

if torch.ops.mkldnn._is_mkldnn_bf16_supported():
    sys.exit("not emulated")
options = {"epochs": 1, "lr": 1e-3, "threads": 1, "ensemble_methods": ["average"], "members": ["row-lstm", "small-cnn"]}
run = train(sys.argv[1], precision="auto", output=f"{sys.argv[2]}/auto", **options)
print([member["precision"] for member in run.metrics["members"] if member["name"] == "row-lstm"])
print((run.path / "members" / "row-lstm" / "train.log").read_text().splitlines()[0])
try:
    train(sys.argv[1], precision="bf16", output=f"{sys.argv[2]}/bf16", **options)
except ConfigError as error:
    print(error)
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="oneDNN hides units of x86 processors only")
def test_processors_without_avx512_train_lstms_in_32_bits(shapes: Path, tmp_path: Path) -> None:
    hidden = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
    command = [sys.executable, "-c", WITHOUT_AVX512, str(shapes), str(tmp_path)]
    done = subprocess.run(command, env=hidden, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    precision, log, error = done.stdout.splitlines()
    assert precision == "['32']" and "precision 32: bf16 cannot be computed on this cpu" in log
    assert "'row-lstm' cannot be computed in bf16" in error and error.endswith("use --precision 32 or --precision auto")
    assert not (tmp_path / "bf16" / "members").exists()
