"""From a run's options to the bundle, the report and the answers: what is calibrated, and on which rows."""

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
from tercet.experiments.calibrate import fit_calibration
from tercet.experiments.crossval import crossval
from tercet.experiments.ensemble import combine
from tercet.experiments.plan import Plan
from tercet.experiments.train import Run, train
from tercet.inference.predict import evaluate, predict_files
from tercet.metrics.classification import score
from tercet.report.run import write_report

QUICK: dict[str, Any] = {"lr": 3e-3, "batch_size": 16, "threads": 1, "tensorboard": False}
CLASSES = ("a", "b", "c", "d")


def world(count: int, *, seed: int = 0, sharp: float = 2.5) -> Predictions:
    """Return over-confident predictions of labels drawn from the truth."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 2, (count, len(CLASSES)))
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = (shares.cumsum(axis=1) > generator.random((count, 1))).argmax(axis=1)
    ids = [f"{seed}-{row}" for row in range(count)]
    return Predictions.from_logits(sharp * logits, ids=ids, classes=CLASSES, labels=labels)


# ------------------------------------------------------------------------------------------ which rows


def test_a_temperature_learns_from_every_row() -> None:
    said = {"validation": world(400), "test": world(500, seed=1)}
    found = fit_calibration(said, CalibrationConfig(), method="weighted", taken=True)
    assert found is not None and found.used and found.notes == ()
    assert found.calibration == calibrate_probabilities(said["validation"])
    assert found.calibration.rows == 400
    assert (found.calibration.reject, found.calibration.conformal) == (None, None)
    assert found.test is not None
    assert found.test["ece_after"] < found.test["ece_before"]
    assert found.test["log_loss_after"] == score(found.calibration.apply(said["test"])).log_loss
    assert score(found.validation).log_loss == pytest.approx(found.calibration.log_loss_after)


def test_what_is_promised_rests_on_rows_of_its_own() -> None:
    said = {"validation": world(1000), "test": world(2000, seed=1)}
    config = CalibrationConfig(reject_risk=0.2, coverage=0.9)
    found = fit_calibration(said, config, method="average", taken=False, seed=3)
    assert found is not None and found.notes == ()
    one = found.calibration
    first, second = split_half(said["validation"], seed=3)
    assert one.temperature == calibrate_probabilities(said["validation"].take(first), seed=3).temperature
    assert one.reject is not None and one.conformal is not None and found.test is not None
    assert (one.rows, one.reject.rows, one.conformal.rows) == (len(first), len(second), len(second))
    assert abs(found.test["set_coverage"] - 0.9) < 0.04
    assert found.test["errors_answered"] < 0.22 < 1 - score(said["test"]).accuracy
    turned = said["validation"].probabilities.copy()
    turned[second] = np.roll(turned[second], 1, axis=1)  # what is said of the other half does not move the temperature
    other = fit_calibration(
        {"validation": replace(said["validation"], probabilities=turned)}, config, method="", taken=False, seed=3
    )
    assert other is not None and other.calibration.temperature == one.temperature
    assert other.calibration.reject is None


def test_sets_alone_without_a_temperature_take_every_row() -> None:
    config = CalibrationConfig(temperature="none", coverage=0.9)
    found = fit_calibration({"validation": world(99)}, config, method="average", taken=False)
    assert found is not None and found.calibration.conformal is not None and found.test is None
    assert (found.calibration.temperature, found.calibration.rows, found.calibration.conformal.rows) == (1.0, 0, 99)


def test_a_way_that_took_all_rows_promises_nothing() -> None:
    config = CalibrationConfig(reject_risk=0.2, coverage=0.9)
    found = fit_calibration({"validation": world(300)}, config, method="weighted", taken=True)
    assert found is not None
    assert (found.calibration.reject, found.calibration.conformal) == (None, None)
    assert found.calibration.rows == 300 and found.used
    assert "weighted was fitted on all validation rows" in found.notes[0] and found.notes[0] in found.to_text(
        "weighted"
    )


def test_reasons_and_limits_are_told() -> None:
    config = CalibrationConfig(reject_risk=0.001, coverage=0.99)
    groups = [f"{row % 5}" for row in range(60)]
    found = fit_calibration({"validation": world(60)}, config, method="average", taken=False, groups=groups)
    assert found is not None
    text = found.to_text("average")
    for told in ("no reject threshold", "no prediction sets", "groups"):
        assert told in text
    assert found.to_dict()["notes"] == list(found.notes)


def test_nothing_to_calibrate() -> None:
    said = {"validation": world(50)}
    assert fit_calibration(said, CalibrationConfig(temperature="none"), method="a", taken=False) is None
    for empty in (world(1), said["validation"].with_labels(np.full(50, -1))):
        assert fit_calibration({"validation": empty}, CalibrationConfig(coverage=0.5), method="a", taken=False) is None
    one = Predictions.of(np.ones((5, 1)), labels=[0] * 5)
    assert fit_calibration({"validation": one}, CalibrationConfig(), method="a", taken=False) is None


def test_a_risk_above_the_error_rate_rejects_nothing() -> None:
    found = fit_calibration(
        {"validation": world(800)}, CalibrationConfig(reject_risk=0.6), method="average", taken=False
    )
    assert found is not None and found.calibration.reject is not None
    assert found.calibration.reject.threshold == 0
    assert "nothing need be rejected: of what is answered at most 0.6 is wrong" in found.to_text("average")


def test_tiny_data_does_not_fail() -> None:
    for count in (2, 3, 5, 9):
        for seed in range(5):
            config = CalibrationConfig(reject_risk=0.5, coverage=0.5)
            found = fit_calibration({"validation": world(count, seed=seed)}, config, method="a", taken=False)
            assert found is None or np.isfinite(found.calibration.temperature)


@pytest.mark.parametrize("options", [{"reject_risk": 0}, {"reject_risk": 1.2}, {"coverage": 1}, {"temperature": "hot"}])
def test_options_that_cannot_be(options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"calibration[.-]"):
        train(tmp_path, calibration=options)


# ------------------------------------------------------------------------------------------ whole runs


@pytest.fixture(scope="module")
def promised(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return a run whose bundle rejects and makes sets."""
    members = [
        {"model": "small-cnn", "epochs": 3},
        {"model": "row-gru", "epochs": 4, "hidden_size": 16, "num_layers": 1},
    ]
    options = {"members": members, "ensemble_methods": ["average"], "data": {"val_fraction": 0.5}, **QUICK}
    calibration = {"coverage": 0.8, "reject_risk": 0.45}
    with one_core():
        return train(
            shapes, output=str(tmp_path_factory.mktemp("promised") / "run"), calibration=calibration, **options
        )


def test_a_run_calibrates_what_it_ships(finished: Run) -> None:
    told = finished.metrics["calibration"]
    bundle = load_bundle(finished.path)
    assert bundle.calibration is not None
    assert bundle.calibration.temperature == told["temperature"]
    assert {"used", "notes", "test", "ece_before", "ece_after"} <= told.keys()
    assert f"calibration of {finished.metrics['chosen']}\n" in finished.report
    for member in finished.metrics["members"]:
        assert load_bundle(finished.path / "members" / member["name"]).calibration is None


def test_the_bundle_answers_as_its_card_and_the_metrics_say(promised: Run, shapes: Path) -> None:
    told, bundle = promised.metrics["calibration"], load_bundle(promised.path)
    assert told["used"]
    measured = evaluate(bundle, shapes).to_dict()
    for key, value in measured["promises"].items():
        assert told["test"][key] == pytest.approx(value)
    assert measured["promises"].keys() == {"answered", "errors_answered", "set_coverage", "set_size"}
    assert "set coverage" in evaluate(bundle, shapes).to_text()
    assert measured["log_loss"] == pytest.approx(told["test"]["log_loss_after"], abs=1e-5)
    assert bundle.card["metrics"]["test"]["log_loss"] == pytest.approx(measured["log_loss"], abs=1e-5)
    plain = promised.metrics["ensembles"][0]["test"]
    assert plain["log_loss"] == pytest.approx(told["test"]["log_loss_before"])
    assert plain["accuracy"] == measured["accuracy"]
    assert Plan.load(RunFolder(promised.path)).calibration == CalibrationConfig(coverage=0.8, reject_risk=0.45)


def test_answers_have_their_columns(promised: Run, shapes: Path, tmp_path: Path) -> None:
    bundle = load_bundle(promised.path)
    assert bundle.calibration is not None
    reject, sets = bundle.calibration.reject, bundle.calibration.conformal
    assert reject is not None and sets is not None
    tops = predict_files(promised.path, [shapes]).predictions.probabilities.max(axis=1)
    reject = replace(reject, threshold=float(np.median(tops)))  # so that half is rejected
    strict = replace(bundle, calibration=replace(bundle.calibration, reject=reject)).save(tmp_path / "strict")
    done = predict_files(strict, [shapes], csv=str(tmp_path / "out.csv"))
    said = read_predictions(tmp_path / "out.csv")
    assert {row["rejected"] for row in done.to_dict()["images"]} == {True, False}
    unsure, inside = reject.rejected(said.probabilities), prediction_sets(said.probabilities, sets.quantile)
    with open(tmp_path / "out.csv", encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    images = done.to_dict()["images"]
    for row, told, refused, chosen in zip(rows, images, unsure, inside, strict=True):
        assert row["rejected"] == ("yes" if refused else "no") and told["rejected"] is bool(refused)
        assert row["set"] == " | ".join(told["set"]) and told["set"][0] == told["predicted"]
        assert {*told["set"]} == {name for name, one in zip(said.classes, chosen, strict=True) if one}
    lines = done.to_text().splitlines()
    assert [" REJECTED" in line for line in lines] == unsure.tolist()
    assert all("set: " in line for line in lines)


def test_without_promises_answers_look_as_before(finished: Run, shapes: Path, tmp_path: Path) -> None:
    done = predict_files(finished.path, [shapes / "disc"], csv=str(tmp_path / "out.csv"))
    assert (tmp_path / "out.csv").read_text().splitlines()[0] == "id,predicted,disc,square,stroke"
    assert done.to_dict()["images"][0].keys() == {"id", "predicted", "probabilities"}
    assert "REJECTED" not in done.to_text() and "set:" not in done.to_text()


def test_the_command_line(finished: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], alone: None) -> None:
    output = tmp_path / "fused"
    options = ["--ensemble-methods", "average", "--calibration.coverage", "0.6", "--calibration.temperature", "none"]
    assert main(["ensemble", str(finished.path), *options, "--output", str(output), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["calibration"]
    assert told["temperature"] == 1 and told["conformal"]["coverage"] == 0.6
    assert load_bundle(output).calibration == Calibration.from_dict(_plain(told))
    assert main(["ensemble", str(finished.path), "--calibration.coverage", "60"]) == 2
    assert "calibration.coverage" in capsys.readouterr().err


def test_ways_that_leave_no_rows_are_refused_before_any_work(finished: Run, shapes: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="weighted, e2e learn from all of them"):
        combine([finished.path], ensemble_methods=["weighted", "e2e"], calibration={"coverage": 0.9})
    members = ["small-cnn", "row-gru"]
    with pytest.raises(ConfigError, match="greedy learn"):
        train(
            shapes,
            members=members,
            ensemble_methods=["greedy"],
            calibration={"reject_risk": 0.1},
            output=str(tmp_path / "run"),
        )
    assert not (tmp_path / "run").exists()


def test_sets_of_labels_are_refused(tmp_path: Path) -> None:
    table = draw_folder(tmp_path / "shapes", count=6) / "table.csv"
    names = [f"{kind}/{kind}-{row}.png" for kind in ("disc", "square") for row in range(6)]
    table.write_text("image,label\n" + "".join(f"{name},{name[0]}|x\n" for name in names))
    options = {"data": {"label_separator": "|"}, "members": ["small-cnn"], "output": str(tmp_path / "run"), **QUICK}
    with pytest.raises(ConfigError, match=r"calibration\.reject_risk and coverage are for one class an image"):
        train(table, calibration={"coverage": 0.9}, **options)
    done = train(table, epochs=1, **options)
    assert done.metrics["calibration"] is None and "not calibrated" in done.report


def test_folds_stay_as_they_are(shapes: Path, tmp_path: Path, alone: None) -> None:
    done = crossval(shapes, members=["small-cnn"], epochs=1, folds=2, output=str(tmp_path / "run"), **QUICK)
    assert load_bundle(done.path).calibration is None
    assert read_json(done.path / "folds" / "1" / "metrics.json")["calibration"] is None


# ------------------------------------------------------------------------------------------ the report's page


def test_the_page_shows_before_and_after(promised: Run) -> None:
    done = write_report(promised.path)
    page, told = done.path.read_text("utf-8"), promised.metrics["calibration"]
    for key in ("ece_before", "ece_after", "log_loss_after"):
        assert f"{told[key]:.4f}" in page and f"{told['test'][key]:.4f}" in page
    assert f"temperature {told['temperature']:.3f}" in page
    told_of = "are rejected. Of the accepted" if told["reject"]["threshold"] else "No prediction has to be rejected"
    assert told_of in page and "contain the true class of at least 80 %" in page
    assert {path.stem for path in done.figures} >= {"reliability", "reliability-calibrated"}


@pytest.mark.parametrize(
    ("calibration", "shown"), [(None, ""), (Calibration(1.0, 60, 0.1, 0.1, 1, 1, 1, 1), "No temp")]
)
def test_a_page_without_a_temperature(tmp_path: Path, calibration: Calibration | None, shown: str) -> None:
    run = write_run(tmp_path / "run")
    metrics = read_json(run / "metrics.json")
    told = (
        None if calibration is None else {**calibration.to_dict(), "used": False, "notes": ["it is <so>"], "test": None}
    )
    write_json(run / "metrics.json", {**metrics, "calibration": told})
    page = write_report(run).path.read_text("utf-8")
    assert (("scaling does not reduce" in page) and ("It is &lt;so&gt;." in page)) is bool(shown)
    assert not (run / "figures" / "reliability-calibrated.png").exists()


def _plain(told: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in told.items() if key not in ("used", "notes", "test")}


def test_a_threshold_that_rejects_all_is_told(promised: Run, shapes: Path) -> None:
    bundle = load_bundle(promised.path)
    assert bundle.calibration is not None and bundle.calibration.reject is not None
    strict = replace(bundle.calibration, reject=replace(bundle.calibration.reject, threshold=1.0))
    said = replace(bundle, calibration=strict).predict(shapes / "disc")
    assert isinstance(said, Predictions) and strict.reject is not None
    assert strict.reject.rejected(said.probabilities).all()
