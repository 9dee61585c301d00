"""Calibration of runs: rows it is fitted on, bundle, predictions, report."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.fixtures.report_runs import write_run
from tests.fixtures.runs import draw_folder, one_core

from tercet.cli.main import main
from tercet.config.run import CalibrationConfig
from tercet.core.calibration import Calibration, prediction_sets
from tercet.core.errors import ConfigError
from tercet.core.files import read_json, write_json
from tercet.core.prediction_files import read_predictions
from tercet.core.predictions import Predictions
from tercet.core.run_folder import RunFolder
from tercet.ensemble.bundle import load_bundle
from tercet.ensemble.calibrate import calibrate_probabilities, split_half
from tercet.experiments.calibrate import CalibrationResult, fit_calibration
from tercet.experiments.ensemble import combine
from tercet.experiments.plan import Plan
from tercet.experiments.train import Run, train
from tercet.inference.evaluate import evaluate
from tercet.inference.predict import predict_files
from tercet.metrics.classification import score
from tercet.report.run import write_report

CLASSES = ("a", "b", "c", "d")


def overconfident(count: int, *, seed: int = 0, sharpness: float = 2.5) -> Predictions:
    """Return predictions with logits too large by the factor `sharpness`."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 2, (count, len(CLASSES)))
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = (probabilities.cumsum(axis=1) > generator.random((count, 1))).argmax(axis=1)
    ids = [f"{seed}-{row}" for row in range(count)]
    return Predictions.from_logits(sharpness * logits, ids=ids, classes=CLASSES, labels=labels)


def fitted(
    validation: Predictions,
    test: Predictions | None = None,
    *,
    method: str = "average",
    fitted_on_validation: bool = False,
    groups: list[str] | None = None,
    seed: int = 0,
    **options: Any,
) -> CalibrationResult:
    predictions = {"validation": validation} | ({} if test is None else {"test": test})
    result = fit_calibration(
        predictions,
        CalibrationConfig(**options),
        method=method,
        fitted_on_validation=fitted_on_validation,
        groups=groups,
        seed=seed,
    )
    assert result is not None
    return result


# ------------------------------------------------------------------------------------------ rows


def test_the_temperature_is_fitted_on_every_row() -> None:
    validation, test = overconfident(400), overconfident(500, seed=1)
    result = fitted(validation, test, method="weighted", fitted_on_validation=True)
    assert result.used and result.notes == ()
    assert result.calibration == calibrate_probabilities(validation)
    assert result.calibration.rows == 400
    assert (result.calibration.reject, result.calibration.conformal) == (None, None)
    assert result.test is not None
    assert result.test["ece_after"] < result.test["ece_before"]
    assert result.test["log_loss_after"] == score(result.calibration.apply(test)).log_loss
    assert score(result.validation).log_loss == pytest.approx(result.calibration.log_loss_after)


def test_guarantees_are_fitted_on_rows_of_their_own() -> None:
    validation, test = overconfident(1000), overconfident(2000, seed=1)
    result = fitted(validation, test, seed=3, reject_risk=0.2, coverage=0.9)
    assert result.notes == ()
    calibration = result.calibration
    first, second = split_half(validation, seed=3)
    assert calibration.temperature == calibrate_probabilities(validation.take(first), seed=3).temperature
    assert calibration.reject is not None and calibration.conformal is not None and result.test is not None
    rows = (calibration.rows, calibration.reject.rows, calibration.conformal.rows)
    assert rows == (len(first), len(second), len(second))
    assert abs(result.test["set_coverage"] - 0.9) < 0.04
    assert result.test["errors_accepted"] < 0.22 < 1 - score(test).accuracy
    wrong = validation.probabilities.copy()
    wrong[second] = np.roll(wrong[second], 1, axis=1)  # the temperature does not depend on the second half
    other = fitted(replace(validation, probabilities=wrong), seed=3, reject_risk=0.2, coverage=0.9)
    assert other.calibration.temperature == calibration.temperature
    assert other.calibration.reject is None


def test_sets_without_a_temperature_are_fitted_on_every_row() -> None:
    result = fitted(overconfident(99), temperature="none", coverage=0.9)
    assert result.calibration.conformal is not None and result.test is None
    rows = (result.calibration.rows, result.calibration.conformal.rows)
    assert (result.calibration.temperature, *rows) == (1.0, 0, 99)


def test_methods_fitted_on_all_rows_have_no_guarantees() -> None:
    result = fitted(overconfident(300), method="weighted", fitted_on_validation=True, reject_risk=0.2, coverage=0.9)
    assert (result.calibration.reject, result.calibration.conformal) == (None, None)
    assert result.calibration.rows == 300 and result.used
    assert "weighted was fitted on all validation images" in result.notes[0]
    assert result.notes[0] in result.to_text("weighted")


def test_missing_and_limited_guarantees_are_in_the_report() -> None:
    groups = [f"{row % 5}" for row in range(60)]
    result = fitted(overconfident(60), groups=groups, reject_risk=0.001, coverage=0.99)
    text = result.to_text("average")
    for note in ("no rejection threshold", "no prediction sets", "groups"):
        assert note in text
    assert result.to_dict()["notes"] == list(result.notes)


def test_a_temperature_that_does_not_help_is_in_the_report() -> None:
    result = fitted(overconfident(200, sharpness=1.0))
    assert not result.used and "T = 1" in result.to_text("average")


@pytest.mark.parametrize("count", [2, 9, 49, 50])
def test_a_temperature_needs_enough_rows(count: int) -> None:
    result = fitted(overconfident(count))
    assert (result.calibration.rows == count) == (count >= 50)
    text = f"{count} rows: no temperature (needs 50)"
    assert (text in result.to_text("average")) == (text in result.notes) == (count < 50)
    if count < 50:
        assert result.calibration == Calibration() and not result.used


def test_few_rows_are_left_to_the_guarantees() -> None:
    result = fitted(overconfident(99), coverage=0.9)
    assert result.notes == ("99 rows: no temperature (needs 100)",)
    assert result.calibration.conformal is not None and result.calibration.conformal.rows == 99
    assert fitted(overconfident(100), coverage=0.9).calibration.rows == 50


def test_nothing_is_fitted_without_option_rows_or_classes() -> None:
    validation = overconfident(50)
    single_class = Predictions.of(np.ones((5, 1)), labels=[0] * 5)
    for predictions, options in (
        (validation, {"temperature": "none"}),
        (overconfident(1), {"coverage": 0.5}),
        (validation.with_labels(np.full(50, -1)), {"coverage": 0.5}),
        (single_class, {}),
    ):
        config = CalibrationConfig(**options)
        assert fit_calibration({"validation": predictions}, config, method="a", fitted_on_validation=False) is None


def test_a_risk_above_the_error_rate_rejects_nothing() -> None:
    result = fitted(overconfident(800), reject_risk=0.6)
    assert result.calibration.reject is not None
    assert result.calibration.reject.threshold == 0
    assert "no rejection threshold needed" in result.to_text("average")


def test_tiny_data_do_not_fail() -> None:
    config = CalibrationConfig(reject_risk=0.5, coverage=0.5)
    for count in (2, 3, 5, 9):
        for seed in range(5):
            predictions = {"validation": overconfident(count, seed=seed)}
            result = fit_calibration(predictions, config, method="a", fitted_on_validation=False)
            assert result is None or np.isfinite(result.calibration.temperature)


@pytest.mark.parametrize("options", [{"reject_risk": 0}, {"reject_risk": 1.2}, {"coverage": 1}, {"temperature": "hot"}])
def test_invalid_options_are_an_error(options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"calibration[.-]"):
        train(tmp_path, calibration=options)


# ------------------------------------------------------------------------------------------ whole runs


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return images that leave enough validation rows for a temperature and guarantees."""
    return draw_folder(tmp_path_factory.mktemp("many") / "shapes", count=90)


@pytest.fixture(scope="module")
def guaranteed(many: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return a run whose bundle has a rejection threshold and prediction sets."""
    members = [
        {"model": "small-cnn", "epochs": 3},
        {"model": "row-gru", "epochs": 4, "hidden_size": 16, "num_layers": 1},
    ]
    with one_core():
        return train(
            many,
            members=members,
            ensemble_methods=["average"],
            data={"val_fraction": 0.5},
            calibration={"coverage": 0.8, "reject_risk": 0.45},
            lr=3e-3,
            batch_size=16,
            threads=1,
            tensorboard=False,
            output=str(tmp_path_factory.mktemp("guaranteed") / "run"),
        )


def calibration_of(document: dict[str, Any]) -> Calibration:
    """Return the calibration from the entry in metrics.json."""
    return Calibration.from_dict({key: document[key] for key in document if key not in ("used", "notes", "test")})


def test_a_run_calibrates_its_bundle_and_not_its_members(finished: Run) -> None:
    document = finished.metrics["calibration"]
    bundle = load_bundle(finished.path)
    assert bundle.calibration is not None
    assert bundle.calibration.temperature == document["temperature"]
    assert {"used", "notes", "test", "ece_before", "ece_after"} <= document.keys()
    assert f"calibration of {finished.metrics['chosen']}\n" in finished.report
    for member in finished.metrics["members"]:
        assert load_bundle(finished.path / "members" / member["name"]).calibration is None


def test_card_and_metrics_hold_the_scores_of_the_bundle(guaranteed: Run, many: Path) -> None:
    document, bundle = guaranteed.metrics["calibration"], load_bundle(guaranteed.path)
    assert document["used"]
    evaluation = evaluate(bundle, many)
    scores = evaluation.to_dict()
    for key, value in scores["guarantees"].items():
        assert document["test"][key] == pytest.approx(value)
    assert scores["guarantees"].keys() == {"accepted", "errors_accepted", "set_coverage", "set_size"}
    assert "set coverage" in evaluation.to_text()
    assert scores["log_loss"] == pytest.approx(document["test"]["log_loss_after"], abs=1e-5)
    assert bundle.card["metrics"]["test"]["log_loss"] == pytest.approx(scores["log_loss"], abs=1e-5)
    uncalibrated = guaranteed.metrics["ensembles"][0]["test"]
    assert uncalibrated["log_loss"] == pytest.approx(document["test"]["log_loss_before"])
    assert uncalibrated["accuracy"] == scores["accuracy"]
    assert Plan.load(RunFolder(guaranteed.path)).calibration == CalibrationConfig(coverage=0.8, reject_risk=0.45)


def test_predictions_show_rejections_and_sets(guaranteed: Run, shapes: Path, tmp_path: Path) -> None:
    bundle = load_bundle(guaranteed.path)
    assert bundle.calibration is not None
    reject, sets = bundle.calibration.reject, bundle.calibration.conformal
    assert reject is not None and sets is not None
    confidence = predict_files(guaranteed.path, [shapes]).predictions.probabilities.max(axis=1)
    reject = replace(reject, threshold=float(np.median(confidence)))  # rejects half of the images
    strict = replace(bundle, calibration=replace(bundle.calibration, reject=reject)).save(tmp_path / "strict")
    result = predict_files(strict, [shapes], csv=str(tmp_path / "out.csv"))
    stored = read_predictions(tmp_path / "out.csv")
    images = result.to_dict()["images"]
    assert {image["rejected"] for image in images} == {True, False}
    rejected, in_set = reject.rejected(stored.probabilities), prediction_sets(stored.probabilities, sets.quantile)
    with open(tmp_path / "out.csv", encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    for row, image, is_rejected, members in zip(rows, images, rejected, in_set, strict=True):
        assert row["rejected"] == ("yes" if is_rejected else "no") and image["rejected"] is bool(is_rejected)
        assert row["set"] == " | ".join(image["set"]) and image["set"][0] == image["predicted"]
        assert {*image["set"]} == {name for name, is_member in zip(stored.classes, members, strict=True) if is_member}
    lines = result.to_text().splitlines()
    assert [" REJECTED" in line for line in lines] == rejected.tolist()
    assert all("set: " in line for line in lines)


def test_without_guarantees_predictions_have_no_such_columns(finished: Run, shapes: Path, tmp_path: Path) -> None:
    result = predict_files(finished.path, [shapes / "disc"], csv=str(tmp_path / "out.csv"))
    assert (tmp_path / "out.csv").read_text().splitlines()[0] == "id,predicted,disc,square,stroke"
    assert result.to_dict()["images"][0].keys() == {"id", "predicted", "probabilities"}
    assert "REJECTED" not in result.to_text() and "set:" not in result.to_text()


def test_the_ensemble_command_calibrates(
    finished: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], alone: None
) -> None:
    output = tmp_path / "combined"
    options = ["--ensemble-methods", "average", "--calibration.coverage", "0.6", "--calibration.temperature", "none"]
    assert main(["ensemble", str(finished.path), *options, "--output", str(output), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)["calibration"]
    assert document["temperature"] == 1 and document["conformal"]["coverage"] == 0.6
    assert load_bundle(output).calibration == calibration_of(document)
    assert main(["ensemble", str(finished.path), "--calibration.coverage", "60"]) == 2
    assert "calibration.coverage" in capsys.readouterr().err


def test_guarantees_need_a_method_not_fitted_on_validation(finished: Run, shapes: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\(weighted, e2e\) are fitted"):
        combine([finished.path], ensemble_methods=["weighted", "e2e"], calibration={"coverage": 0.9})
    with pytest.raises(ConfigError, match=r"\(greedy\) are fitted"):
        train(
            shapes,
            members=["small-cnn", "row-gru"],
            ensemble_methods=["greedy"],
            calibration={"reject_risk": 0.1},
            output=str(tmp_path / "run"),
        )
    assert not (tmp_path / "run").exists()


def test_a_threshold_of_one_rejects_everything(guaranteed: Run, shapes: Path) -> None:
    bundle = load_bundle(guaranteed.path)
    assert bundle.calibration is not None and bundle.calibration.reject is not None
    strict = replace(bundle.calibration, reject=replace(bundle.calibration.reject, threshold=1.0))
    predictions = replace(bundle, calibration=strict).predict(shapes / "disc")
    assert isinstance(predictions, Predictions) and strict.reject is not None
    assert strict.reject.rejected(predictions.probabilities).all()


# ------------------------------------------------------------------------------------------ the report page


def test_the_page_shows_scores_before_and_after(guaranteed: Run) -> None:
    result = write_report(guaranteed.path)
    page, document = result.path.read_text("utf-8"), guaranteed.metrics["calibration"]
    for key in ("ece_before", "ece_after", "log_loss_after"):
        assert f"{document[key]:.4f}" in page and f"{document['test'][key]:.4f}" in page
    assert f"temperature {document['temperature']:.3f}" in page
    assert {path.stem for path in result.figures} >= {"reliability", "reliability-calibrated"}


def test_a_page_without_a_temperature_shows_the_notes(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", classes=("a", "b"), count=10, members=("member",))
    metrics = read_json(run / "metrics.json")
    calibration = Calibration(1.0, 60, 0.1, 0.1, 1, 1, 1, 1).to_dict()
    entry = {**calibration, "used": False, "notes": ["it is <so>"], "test": None}
    write_json(run / "metrics.json", {**metrics, "calibration": entry})
    assert "t is &lt;so&gt;" in write_report(run).path.read_text("utf-8")
    assert not (run / "figures" / "reliability-calibrated.png").exists()
