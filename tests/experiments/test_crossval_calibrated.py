"""The average of the folds is calibrated on images that no fold uses, or not at all."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.fixtures.runs import one_core

from tercet.cli.main import main
from tercet.core.calibration import Calibration
from tercet.core.files import read_json
from tercet.core.predictions import Predictions
from tercet.ensemble.bundle import load_bundle
from tercet.experiments.crossval import CrossValidation, crossval
from tercet.export.export import export_model
from tercet.inference.evaluate import evaluate
from tercet.inference.onnx_model import OnnxModel
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
def calibrated(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> CrossValidation:
    with one_core():
        output = str(tmp_path_factory.mktemp("runs") / "cv")
        return crossval(shapes, output=output, calibration={"coverage": 0.8}, **OPTIONS)


@pytest.fixture(scope="module")
def uncalibrated(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> CrossValidation:
    options = {**OPTIONS, "calibration_fraction": 0.0, "epochs": 1}
    with one_core():
        return crossval(shapes, output=str(tmp_path_factory.mktemp("runs") / "cv"), **options)


def ids_of(run: Path) -> dict[str, set[str]]:
    with open(run / "samples.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    return {split: {row["id"] for row in rows if row["split"] == split} for split in ("train", "val", "test", "")}


def test_no_fold_uses_the_calibration_images(calibrated: CrossValidation) -> None:
    splits = ids_of(calibrated.path)
    assert (len(splits["train"]), len(splits["val"]), len(splits["test"])) == (67, 29, 24)
    for split, key in (("validation", "val"), ("test", "test")):
        predictions = Predictions.load(calibrated.path / f"predictions/fold-mean-{split}.npz")
        assert set(predictions.ids) == splits[key]
    for fold in (calibrated.path / "folds").iterdir():
        used = ids_of(fold)
        assert used[""] == splits["val"] | splits["test"]
        assert used["train"] | used["val"] | used["test"] == splits["train"]
        assert load_bundle(fold).calibration is None
    assert "29 images" in calibrated.metrics["protocol"]["how"]


def test_the_bundle_is_calibrated_on_them(calibrated: CrossValidation, shapes: Path) -> None:
    document = calibrated.metrics["calibration"]
    values = {key: value for key, value in document.items() if key not in ("used", "notes", "test")}
    calibration = Calibration.from_dict(values)
    bundle = calibrated.bundle()
    assert bundle.calibration == calibration
    assert calibration.conformal is not None and calibration.conformal.coverage == 0.8
    assert (calibration.rows, calibration.temperature) == (0, 1.0)  # too few rows for a temperature, so that
    assert calibration.conformal.rows == 29  # all of them fit the sets
    test = Predictions.load(calibrated.path / "predictions/fold-mean-test.npz")
    expected = calibration.apply(test)
    predictions = bundle.predict([shapes / name for name in test.ids])
    assert np.abs(predictions.probabilities - expected.probabilities).max() < 1e-5
    assert bundle.card["metrics"]["test"]["log_loss"] == score(expected).log_loss
    assert bundle.card["metrics"]["validation"]["n"] == 29
    assert calibrated.metrics["test"] == score(test).to_dict()  # tables hold uncalibrated scores
    assert document["test"]["ece_after"] == score(expected).ece
    log_loss = evaluate(calibrated.path, shapes).rows[0].scores.log_loss
    assert log_loss == pytest.approx(score(expected).log_loss, abs=1e-5)
    assert "calibration of fold-mean" in calibrated.report and "not calibrated" not in calibrated.report


def test_resume_repeats_the_calibration(calibrated: CrossValidation) -> None:
    before = read_json(calibrated.path / "metrics.json")
    assert crossval(resume=calibrated.path).metrics["calibration"] == before["calibration"]


@pytest.mark.slow
def test_export_and_report_use_the_calibration(calibrated: CrossValidation, shapes: Path, tmp_path: Path) -> None:
    calibration = calibrated.bundle().calibration
    assert calibration is not None
    assert "29 rows: no temperature (needs 100)" in calibrated.report
    assert write_report(calibrated.path).path.is_file()
    exported = export_model(calibrated.path, tmp_path / "mean.onnx")
    assert exported.verification.passed and exported.verification.source.startswith("29 of 29")
    model = OnnxModel.load(exported.path)
    assert model.metadata["calibration"]["temperature"] == calibration.temperature
    validation = Predictions.load(calibrated.path / "predictions/fold-mean-validation.npz")
    predictions = model.predict([shapes / name for name in validation.ids])
    assert np.abs(predictions.probabilities - calibration.apply(validation).probabilities).max() < 1e-4


def test_without_calibration_images_the_bundle_is_not_calibrated(uncalibrated: CrossValidation) -> None:
    assert uncalibrated.bundle().calibration is None and uncalibrated.metrics["calibration"] is None
    assert "The bundle is not calibrated" in uncalibrated.report and "--calibration-fraction" in uncalibrated.report


@pytest.mark.slow
def test_without_calibration_images_the_export_is_verified_on_others(
    uncalibrated: CrossValidation, tmp_path: Path
) -> None:
    exported = export_model(uncalibrated.path, tmp_path / "mean.onnx")
    assert exported.verification.passed and "images of" in exported.verification.source


def test_invalid_calibration_options_are_reported_before_training(
    shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["crossval", str(shapes), "--members", "row-gru", "--output", str(tmp_path / "other")]
    assert main([*arguments, "--calibration.coverage", "0.9"]) == 2
    assert "--calibration-fraction" in capsys.readouterr().err
    assert main([*arguments, "--calibration-fraction", "1"]) == 2
    assert not (tmp_path / "other").exists()
