"""Whole runs of `train`: files, scores, reproducibility, data faults, option errors, resume."""

import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.fixtures.runs import OPTIONS, draw_folder, metrics_of

from tercet.core.errors import ConfigError, DataError, StorageError, TercetError
from tercet.core.history import History
from tercet.core.output import count
from tercet.core.predictions import Predictions
from tercet.core.run_folder import RunFolder
from tercet.ensemble.bundle import load_bundle
from tercet.experiments.ensemble import combine
from tercet.experiments.train import Run, train
from tercet.inference.evaluate import evaluate
from tercet.metrics.classification import score

pytestmark = pytest.mark.usefixtures("alone")
METHODS = ["average", "pruned", "weighted", "vote", "greedy", "e2e"]
WIDE = {"name": "wide", "model": "small-cnn", "epochs": 1, "head_hidden_dim": 48}
SINGLE: dict[str, Any] = {**OPTIONS, "members": [WIDE]}


# ------------------------------------------------------------------------------------------ files and scores


def test_a_run_writes_all_files(finished: Run) -> None:
    names = {path.name for path in finished.path.iterdir()}
    assert names >= {
        "run.json",
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


def test_the_chosen_ensemble_is_best_on_validation_and_accurate_on_test(finished: Run) -> None:
    rows = {row["name"]: row for row in finished.metrics["ensembles"]}
    assert list(rows) == METHODS
    chosen = rows[finished.metrics["chosen"]]
    assert chosen["validation"]["accuracy"] == max(row["validation"]["accuracy"] for row in rows.values())
    assert chosen["test"]["accuracy"] > 0.8


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


def test_the_bundle_repeats_the_test_predictions_of_the_run(finished: Run, shapes: Path) -> None:
    stored = Predictions.load(finished.path / "predictions" / f"{finished.metrics['chosen']}-test.npz")
    bundle = finished.bundle()
    assert bundle.calibration is not None
    predictions = bundle.predict([shapes / name for name in stored.ids])
    assert np.abs(predictions.probabilities - bundle.calibration.apply(stored).probabilities).max() < 1e-5
    assert predictions.classes == ("disc", "square", "stroke")


def test_a_changed_bundle_is_not_loaded(finished: Run, tmp_path: Path) -> None:
    for file in sorted(path.name for path in (finished.path / "bundle").iterdir()):
        copy = tmp_path / file
        shutil.copytree(finished.path / "bundle", copy)
        content = bytearray((copy / file).read_bytes())
        content[len(content) // 2] ^= 4
        (copy / file).write_bytes(bytes(content))
        with pytest.raises(TercetError) as error:
            load_bundle(copy)
        assert error.value.exit_code == 4


# ------------------------------------------------------------------------------------------ evaluation


def test_evaluate_on_the_training_data_scores_the_held_out_test_split(finished: Run, shapes: Path) -> None:
    evaluation = evaluate(finished.path, shapes)
    chosen = next(row for row in finished.metrics["ensembles"] if row["name"] == finished.metrics["chosen"])
    assert evaluation.rows[0].scores.n == chosen["test"]["n"]
    assert evaluation.rows[0].scores.accuracy == chosen["test"]["accuracy"]
    assert "the model has not seen" in evaluation.subset


def test_evaluate_matches_classes_by_name(finished: Run, tmp_path: Path) -> None:
    other = draw_folder(tmp_path / "other", count=5, seed=9)
    (other / "square").rename(other / "a-new-class")
    evaluation = evaluate(finished.path, other)
    assert evaluation.missing == ("square",)
    assert evaluation.extra == {"a-new-class": 5}
    assert evaluation.rows[0].scores.n == 10
    assert evaluation.rows[0].scores.accuracy > 0.6


def test_evaluate_finds_the_test_split_of_grouped_data(shapes: Path, tmp_path: Path) -> None:
    options = {**SINGLE, "data": {"group_from": r"-(\d)\d*\.png"}}
    run = train(shapes, output=str(tmp_path / "run"), **options)
    evaluation = evaluate(run.path, shapes)  # without the option that defined the groups
    test = Predictions.load(run.path / "predictions" / "wide-test.npz")
    assert set(evaluation.predictions.ids) == set(test.ids)


# ------------------------------------------------------------------------------------------ reproducibility, options


def test_the_same_seed_gives_the_same_members_and_ensembles(finished: Run, shapes: Path, tmp_path: Path) -> None:
    options = {**OPTIONS, "members": OPTIONS["members"][:2], "ensemble_methods": ["average"]}
    again = train(shapes, output=str(tmp_path / "members"), **options)
    methods = combine([finished.path], ensemble_methods=["e2e"], output=str(tmp_path / "e2e"), fusion=OPTIONS["fusion"])
    for run, name in ((again, "small-cnn"), (again, "row-gru"), (methods, "e2e")):
        first, second = (
            Predictions.load(path / "predictions" / f"{name}-test.npz") for path in (finished.path, run.path)
        )
        assert np.array_equal(first.probabilities, second.probabilities)


def test_a_single_member_needs_no_ensemble(shapes: Path, tmp_path: Path) -> None:
    run = train(shapes, output=str(tmp_path / "run"), **SINGLE)
    assert run.metrics["ensembles"] == []
    assert run.metrics["chosen"] == "wide"
    assert len(run.bundle().members) == 1


def test_the_best_members_can_be_selected(finished: Run, tmp_path: Path) -> None:
    result = combine(
        [finished.path], ensemble_methods=["average"], fusion={"num_members": 2}, output=str(tmp_path / "two")
    )
    order = sorted(
        finished.metrics["members"], key=lambda row: (-row["validation"]["accuracy"], row["validation"]["log_loss"])
    )
    assert set(result.metrics["ensembles"][0]["members"]) == {row["name"] for row in order[:2]}
    assert len(result.bundle().members) == 2


def test_selection_on_the_test_split_is_a_warning_in_the_report(shapes: Path, tmp_path: Path) -> None:
    run = train(shapes, output=str(tmp_path / "run"), monitor_split="test", **SINGLE)
    assert run.metrics["protocol"]["monitor_split"] == "test"
    assert run.report.startswith("WARNING") and "optimistic" in run.report


def test_counts_have_singular_and_plural_nouns() -> None:
    assert [count(1, "class"), count(2, "class")] == ["1 class", "2 classes"]
    assert [count(1, "training"), count(0, "training")] == ["1 training", "0 trainings"]


# ------------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"members": ["smal-cnn"]}, "small-cnn"),
        ({"membres": ["small-cnn"]}, "members"),
        ({"members": ["small-cnn"], "epochs": -1}, "epochs"),
        ({"members": [{"model": "small-cnn", "lrr": 1}]}, "lr"),
        ({"fusion": {"regime": "joint", "data": "validation"}}, "joint"),
        ({"members": ["small-cnn"], "scan": "rows"}, "--scan has no effect on any member"),
        ({"device": "gpu"}, "device"),
        ({"members": ["small-cnn"], "schedule": "cosine", "preset": "paper"}, "single stage"),
    ],
)
def test_wrong_options_are_reported_before_data_are_read(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        train("no-such-data", output=str(tmp_path / "run"), **options)
    assert not (tmp_path / "run").exists()


def test_missing_weights_are_reported_before_data_are_read(tmp_path: Path) -> None:
    with pytest.raises(TercetError, match="--weights") as error:
        train("no-such-data", output=str(tmp_path / "run"), members=["test_resnet"])
    assert error.value.exit_code == 4


def test_missing_data_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no-such-data"):
        train("no-such-data", output=str(tmp_path / "run"), members=["small-cnn"])


def test_an_existing_folder_is_not_overwritten(shapes: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("precious")
    with pytest.raises(StorageError, match="exists"):
        train(shapes, output=str(tmp_path / "run"), **OPTIONS)
    assert (tmp_path / "run" / "thesis.txt").read_text() == "precious"


def test_too_many_unreadable_images_are_an_error_and_few_are_reported(tmp_path: Path) -> None:
    data = draw_folder(tmp_path / "data", count=12)
    (data / "disc" / "notes.txt").write_text("not an image")
    for number in range(6):  # five are accepted in any data
        (data / "disc" / f"broken-{number}.png").write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"broken-0\.png"):
        train(data, output=str(tmp_path / "a"), **SINGLE)
    run = train(data, output=str(tmp_path / "b"), data={"max_bad_fraction": 0.2}, **SINGLE)
    bad = [row["location"] for row in json.loads((run.path / "unreadable.json").read_text())]
    assert bad == [f"disc/broken-{number}.png" for number in range(6)]
    assert "broken-5.png" in run.report and "notes.txt" in run.report


def test_a_failing_member_leaves_the_others_finished(shapes: Path, tmp_path: Path) -> None:
    bad = {**WIDE, "name": "bad", "lr": 1e30}
    with pytest.raises(TercetError, match="member bad") as error:
        train(shapes, output=str(tmp_path / "run"), **{**OPTIONS, "members": [WIDE, bad]})
    assert error.value.exit_code == 6
    assert RunFolder(tmp_path / "run").member("wide").finished()
    assert not RunFolder(tmp_path / "run").member("bad").finished()


# ------------------------------------------------------------------------------------------ resume, precision


def test_resume_takes_no_other_options(finished: Run) -> None:
    with pytest.raises(ConfigError, match="remove epochs"):
        train(resume=finished.path, epochs=3)


def test_resuming_a_finished_run_repeats_its_metrics(finished: Run) -> None:
    before = metrics_of(finished.path)
    again = train(resume=finished.path)
    assert again.metrics["members"] == before["members"]
    assert again.metrics["chosen"] == before["chosen"]


WITHOUT_BF16 = """
import sys, torch
from tercet import train
from tercet.core.errors import ConfigError

if torch.ops.mkldnn._is_mkldnn_bf16_supported():
    sys.exit("not emulated")
options = {"epochs": 1, "lr": 1e-3, "threads": 1, "members": ["row-lstm"]}
run = train(sys.argv[1], precision="auto", output=f"{sys.argv[2]}/auto", **options)
print([member["precision"] for member in run.metrics["members"]])
print((run.path / "members" / "row-lstm" / "train.log").read_text().splitlines()[0])
try:
    train(sys.argv[1], precision="bf16", output=f"{sys.argv[2]}/bf16", **options)
except ConfigError as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="oneDNN hides units of x86 processors only")
def test_processors_without_bf16_train_lstms_in_32_bits(shapes: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
    command = [sys.executable, "-c", WITHOUT_BF16, str(shapes), str(tmp_path)]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert process.returncode == 0, process.stderr
    precision, log, error = process.stdout.splitlines()
    assert precision == "['32']" and "precision 32: bf16 cannot be computed on this cpu" in log
    assert "'row-lstm' cannot be computed in bf16" in error and error.endswith("use --precision 32 or --precision auto")
    assert not (tmp_path / "bf16" / "members").exists()
