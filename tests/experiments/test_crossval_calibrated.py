"""The mean of folds is calibrated on images that no fold saw, or not at all."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.fixtures.runs import one_core

from tercet.cli.main import main
from tercet.core.calibration import Calibration
from tercet.core.predictions import Predictions
from tercet.ensemble.calibrate import calibrate_probabilities
from tercet.experiments.crossval import CrossValidation, crossval
from tercet.export.export import export_model
from tercet.inference.onnx_model import OnnxModel
from tercet.inference.predict import evaluate
from tercet.metrics.classification import score
from tercet.report.run import write_report

pytestmark = pytest.mark.usefixtures("alone")
GRU = {"name": "gru", "model": "row-gru", "hidden_size": 8, "num_layers": 1, "head_hidden_dim": 6}
OPTIONS: dict[str, Any] = {
    "members": [GRU],
    "folds": 2,
    "calibration_fraction": 0.3,
    "epochs": 4,
    "lr": 1e-2,
    "batch_size": 16,
    "tensorboard": False,
    "threads": 1,
    "data": {"test_fraction": 0.2},
}


@pytest.fixture(scope="module")
def done(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> CrossValidation:
    with one_core():
        output = str(tmp_path_factory.mktemp("runs") / "cv")
        return crossval(shapes, output=output, calibration={"coverage": 0.8}, **OPTIONS)


def ids_of(run: Path) -> dict[str, set[str]]:
    with open(run / "samples.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    return {split: {row["id"] for row in rows if row["split"] == split} for split in ("train", "val", "test", "")}


def test_no_fold_sees_what_calibrates(done: CrossValidation) -> None:
    whole = ids_of(done.path)
    assert (len(whole["train"]), len(whole["val"]), len(whole["test"])) == (67, 29, 24)
    said = {
        split: Predictions.load(done.path / f"predictions/fold-mean-{split}.npz") for split in ("validation", "test")
    }
    assert (set(said["validation"].ids), set(said["test"].ids)) == (whole["val"], whole["test"])
    for fold in (done.path / "folds").iterdir():
        seen = ids_of(fold)
        assert seen[""] == whole["val"] | whole["test"]
        assert seen["train"] | seen["val"] | seen["test"] == whole["train"]
    assert "29 images reserved for calibration" in done.metrics["protocol"]["how"]


def test_the_bundle_answers_with_the_mean_calibrated_on_them(done: CrossValidation, shapes: Path) -> None:
    told = {key: value for key, value in done.metrics["calibration"].items() if key not in ("used", "notes", "test")}
    one = Calibration.from_dict(told)
    bundle = done.bundle()
    assert bundle.calibration == one and one.conformal is not None and one.conformal.coverage == 0.8
    assert one.rows + one.conformal.rows == 29  # halves: what promises is fitted on rows of its own
    test = Predictions.load(done.path / "predictions/fold-mean-test.npz")
    answered = one.apply(test)
    said = bundle.predict([shapes / name for name in test.ids])
    assert np.abs(said.probabilities - answered.probabilities).max() < 1e-5
    assert bundle.card["metrics"]["test"]["log_loss"] == score(answered).log_loss
    assert bundle.card["metrics"]["validation"]["n"] == 29
    assert done.metrics["test"] == score(test).to_dict()  # tables stay as they are fused
    assert done.metrics["calibration"]["test"]["ece_after"] == score(answered).ece
    assert evaluate(done.path, shapes).rows[0].scores.log_loss == pytest.approx(score(answered).log_loss, abs=1e-5)
    assert "calibration of fold-mean" in done.report and "not calibrated" not in done.report


def test_the_temperature_is_that_of_the_mean(tmp_path: Path, shapes: Path) -> None:
    again = crossval(shapes, output=str(tmp_path / "cv"), **OPTIONS)
    said = Predictions.load(again.path / "predictions/fold-mean-validation.npz")
    found = calibrate_probabilities(said)
    assert again.bundle().calibration == found and found.rows == 29 and found.temperature != 1
    before = json.loads((again.path / "metrics.json").read_text())
    resumed = crossval(resume=again.path)
    assert resumed.metrics["calibration"] == before["calibration"]
    page = write_report(resumed.path)
    assert f"temperature {found.temperature:.3f}" in page.path.read_text()
    made = export_model(again.path, tmp_path / "mean.onnx")
    assert made.verification.passed and made.verification.source.startswith("29 of 29: validation images of")
    file = OnnxModel.load(made.path)
    assert file.metadata["calibration"]["temperature"] == found.temperature
    paths = [shapes / name for name in said.ids]
    gap = file.predict(paths).probabilities - found.apply(said).probabilities
    assert np.abs(gap).max() < 1e-4


def test_without_such_images_nothing_is_calibrated_and_the_report_says_so(
    shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = crossval(shapes, output=str(tmp_path / "cv"), **{**OPTIONS, "calibration_fraction": 0.0, "epochs": 1})
    assert plain.bundle().calibration is None and plain.metrics["calibration"] is None
    assert "The bundle is not calibrated" in plain.report and "--calibration-fraction" in plain.report
    made = export_model(plain.path, tmp_path / "mean.onnx")
    assert made.verification.passed and "images of" in made.verification.source
    words = ["crossval", str(shapes), "--members", "row-gru", "--output", str(tmp_path / "other")]
    assert main([*words, "--calibration.coverage", "0.9"]) == 2
    assert "keep some with --calibration-fraction" in capsys.readouterr().err
    assert main([*words, "--calibration-fraction", "1"]) == 2
    assert not (tmp_path / "other").exists()
