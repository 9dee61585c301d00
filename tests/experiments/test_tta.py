"""Test-time augmentation of runs, bundles and submissions."""

import csv
import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
from tests.fixtures.runs import OPTIONS, metrics_of, one_core

from tercet.cli import main as cli
from tercet.core.errors import ConfigError, DataError
from tercet.core.predictions import Predictions
from tercet.core.run_folder import RunFolder
from tercet.ensemble.bundle import load_bundle
from tercet.ensemble.combine import average
from tercet.experiments.ensemble import combine
from tercet.experiments.plan import Plan
from tercet.experiments.train import Run, train
from tercet.experiments.tta import choose_tta, is_tta_chosen
from tercet.inference.evaluate import evaluate
from tercet.inference.predict import predict, predict_files
from tercet.metrics.classification import score

pytestmark = pytest.mark.usefixtures("alone")
VIEWS = "crops:1,3@1.2x+flip"
LEVELS = ["none", "crops:1@1.2x+flip", "crops:3@1.2x+flip"]
NAMES = ("small-cnn", "wide")
HEAD = {"width": 16, "steps": 8, "folds": 2, "batch_size": 16}
SMALL = {
    **OPTIONS,
    "members": [
        {"model": "small-cnn", "epochs": 2},
        {"name": "wide", "model": "small-cnn", "epochs": 1, "head_hidden_dim": 48},
    ],
    "ensemble_methods": ["average", "e2e"],
    "fusion": HEAD,
    "seed": 3,
    "tta": VIEWS,
}


@pytest.fixture(scope="module")
def tta_run(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    with one_core():
        return train(shapes, output=str(tmp_path_factory.mktemp("tta") / "run"), **SMALL)


def make_best(run: RunFolder, level: str) -> None:
    """Replace the validation predictions: all correct at one level, all wrong at the others."""
    for name in NAMES:
        for other in LEVELS:
            path = run.member(name).level(other, "validation")
            stored = Predictions.load(path)
            probabilities = np.full(stored.probabilities.shape, 0.05)
            probabilities[np.arange(len(stored)), (stored.labels + (other != level)) % 3] = 0.9
            Predictions(stored.ids, stored.classes, probabilities, stored.labels).save(path)


@pytest.fixture(scope="module", params=["none", "crops:3@1.2x+flip"], ids=["plain", "views"])
def decided(tta_run: Run, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> tuple[Run, str]:
    """Return a copy of the run, resumed after one level was made the best on validation; and that level."""
    run = RunFolder(Path(shutil.copytree(tta_run.path, tmp_path_factory.mktemp("decided") / "run")))
    make_best(run, request.param)
    with one_core():
        return train(resume=run.path), request.param


def test_every_level_is_compared_with_plain_prediction(tta_run: Run) -> None:
    document, run = tta_run.metrics["tta"], RunFolder(tta_run.path)
    assert (document["requested"], document["seed"], document["split"]) == (VIEWS, 3, "validation")
    assert [(level["views"], level["passes"]) for level in document["levels"]] == list(
        zip(LEVELS, (1, 2, 6), strict=True)
    )
    for level in document["levels"]:
        members = [Predictions.load(run.member(name).level(level["views"], "validation")) for name in NAMES]
        assert level["accuracy"] == score(average(members)).accuracy
        assert [level["members"][name]["log_loss"] for name in NAMES] == [score(member).log_loss for member in members]
    best = max(level["accuracy"] for level in document["levels"])
    assert document["chosen"] == next(level["views"] for level in document["levels"] if level["accuracy"] == best)
    plain, gain = document["levels"][0], document["gain"]
    compared = next(level for level in document["levels"] if level["views"] == gain["of"])
    assert gain["of"] != "none" and gain["difference"] == pytest.approx(compared["accuracy"] - plain["accuracy"])
    assert "test-time augmentation: average of the members" in tta_run.report
    assert f"{gain['of']} against plain" in tta_run.report
    json.dumps(tta_run.metrics, allow_nan=False)


def test_bundle_and_stored_predictions_use_the_chosen_level(decided: tuple[Run, str], shapes: Path) -> None:
    done, level = decided
    run = RunFolder(done.path)
    assert done.metrics["tta"]["chosen"] == level
    bundle = done.bundle()
    assert {str(member.views) for member in bundle.members} == {level}
    assert {member.views.seed for member in bundle.members} == {3}
    for name in NAMES:
        stored = Predictions.load(run.predictions(name, "test"))
        at_level = Predictions.load(run.member(name).level(level, "test"))
        assert np.array_equal(stored.probabilities, at_level.probabilities)
        predictions = load_bundle(run.member(name).bundle).predict([shapes / name for name in stored.ids])
        assert np.abs(predictions.probabilities - stored.probabilities).max() < 1e-5
    stored = Predictions.load(run.predictions(done.metrics["chosen"], "test"))
    predictions = bundle.predict([shapes / name for name in stored.ids])
    assert bundle.calibration is not None
    assert np.abs(predictions.probabilities - bundle.calibration.apply(stored).probabilities).max() < 1e-5


def test_choosing_again_changes_nothing(decided: tuple[Run, str]) -> None:
    run = RunFolder(decided[0].path)
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    choose_tta(run, Plan.load(run))
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before


def test_a_tie_selects_fewer_passes(tta_run: Run, tmp_path: Path) -> None:
    run = RunFolder(Path(shutil.copytree(tta_run.path, tmp_path / "run")))
    for name in NAMES:
        for level in LEVELS[1:]:
            shutil.copy(run.member(name).level("none", "validation"), run.member(name).level(level, "validation"))
    choice = choose_tta(run, Plan.load(run))
    assert choice is not None and str(choice.chosen.views) == "none"


def test_a_run_without_the_option_has_no_levels(finished: Run) -> None:
    assert finished.metrics["tta"] is None and "test-time" not in finished.report
    run = RunFolder(finished.path)
    assert choose_tta(run, Plan.load(run)) is None and is_tta_chosen(run, Plan.load(run))
    assert not list(run.path.rglob("tta"))


@pytest.mark.parametrize(("regime", "data"), [("cached", "out-of-fold"), ("cached", "train"), ("joint", "train")])
def test_end_to_end_ensembles_are_trained_and_saved_at_the_level(
    tta_run: Run, tmp_path: Path, shapes: Path, regime: str, data: str
) -> None:
    run = RunFolder(Path(shutil.copytree(tta_run.path, tmp_path / "run")))
    make_best(run, LEVELS[2])
    for name in NAMES:
        run.predictions(name, "validation").unlink()  # as in a run that was stopped before the choice
    fusion = {**HEAD, "regime": regime, "data": data}
    plain = {"temperature": "none"}
    result = combine(
        [run.path], ensemble_methods=["e2e"], output=str(tmp_path / "out"), fusion=fusion, calibration=plain
    )
    assert {str(member.views) for member in result.bundle().members} == {LEVELS[2]}
    stored = Predictions.load(tmp_path / "out" / "predictions" / "e2e-test.npz")
    predictions = result.bundle().predict([shapes / name for name in stored.ids])
    assert np.abs(predictions.probabilities - stored.probabilities).max() < 1e-5
    if data == "out-of-fold":
        for fold in run.member(NAMES[0]).folds():
            assert fold.predictions.read_bytes() == fold.level(LEVELS[2], "held-out").read_bytes()


def test_invalid_views_are_an_error_before_training(shapes: Path, tmp_path: Path) -> None:
    for tta, message in (("crops:3@12", "at least 20"), ("crops:0@30", "positive"), ("mirror", "unknown view")):
        with pytest.raises(ConfigError, match=message):
            train(shapes, output=str(tmp_path / "run"), **{**SMALL, "tta": tta})
        assert not (tmp_path / "run").exists()


# ------------------------------------------------------------------------------------------ the bundle


def test_the_views_of_a_bundle_can_be_overridden(decided: tuple[Run, str], shapes: Path) -> None:
    done, level = decided
    images = sorted((shapes / "disc").glob("*.png"))[:5]
    default, plain, other = (predict(done.path, images, tta=tta).probabilities for tta in (None, "none", "vflip"))
    assert (level == "none") == np.array_equal(default, plain)
    assert not np.allclose(plain, other)
    again = predict_files(done.path, images, tta=LEVELS[2]).predictions.probabilities
    assert level == "none" or np.allclose(again, default, atol=1e-6)  # with the seed of the bundle


def test_evaluate_scores_both_with_and_without_tta(decided: tuple[Run, str], shapes: Path) -> None:
    done, level = decided
    evaluation = evaluate(done.path, shapes)
    plain = evaluate(done.path, shapes, tta="none")
    assert plain.plain is None and plain.to_dict()["plain"] is None
    if level == "none":
        assert evaluation.plain is None and evaluation.rows[0].scores == plain.rows[0].scores
        return
    assert evaluation.to_dict()["plain"]["accuracy"] == plain.to_dict()["accuracy"]
    assert ", plain" in evaluation.to_text() and "test-time augmentation against plain" in evaluation.to_text()
    assert evaluation.rows[0].scores == score(evaluation.predictions)
    stored = Predictions.load(RunFolder(done.path).predictions(done.metrics["chosen"], "test"))
    assert np.abs(evaluation.predictions.aligned_to(stored).probabilities - stored.probabilities).max() < 1e-5


# ------------------------------------------------------------------------------------------ submissions


def write_sample(path: Path, names: list[str], header: str = "image,label") -> Path:
    with open(path, "w", newline="") as stream:
        csv.writer(stream).writerows([header.split(","), *([name, "disc"] for name in names)])
    return path


def test_a_submission_from_the_command_line(
    finished: Run, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [f"{kind}-{index}" for index in (3, 11, 2) for kind in ("stroke", "disc")]
    for name in names:
        shutil.copy(shapes / name.split("-")[0] / f"{name}.png", tmp_path)
    sample = write_sample(tmp_path / "sample.csv", names)
    images = sorted(map(str, tmp_path.glob("*.png")))
    arguments = [
        "predict",
        str(finished.path),
        *images,
        "--submission",
        str(sample),
        "--csv",
        str(tmp_path / "out.csv"),
    ]
    assert cli.main([*arguments, "--tta", "flip"]) == 0
    with open(tmp_path / "out.csv", newline="") as stream:
        rows = list(csv.reader(stream))
    predictions = predict(finished.path, images, tta="flip")
    expected = {
        Path(name).stem: label for name, label in zip(predictions.ids, predictions.predicted_names, strict=True)
    }
    assert rows == [["image", "label"], *([name, expected[name]] for name in names)]
    capsys.readouterr()
    assert cli.main([*arguments[:-2]]) == 2
    assert "csv" in capsys.readouterr().err
    assert cli.main([*arguments, "--tta", "crops:3@5"]) == 2
    assert "at least 20" in capsys.readouterr().err


def test_a_submission_of_ids_for_a_folder_that_also_holds_training_images(
    finished: Run, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As of classify-leaves, whose images are in one folder, and iNaturalist, whose ids are numbers."""
    images = [{"id": index, "file_name": f"test2019/disc-{index}.png"} for index in (5, 9)]
    (tmp_path / "test.json").write_text(json.dumps({"images": images}))
    sample = write_sample(tmp_path / "sample.csv", ["9", "5"], "id,predicted")
    arguments = ["predict", str(finished.path), str(shapes), "--submission", str(sample), "--csv"]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        code = cli.main([*arguments, str(tmp_path / "out.csv"), "--submission-files", str(tmp_path / "test.json")])
    output = capsys.readouterr()
    assert code == 0, output.err
    assert any("images without a row in" in text for text in [output.err, *(str(item.message) for item in caught)])
    expected = predict(finished.path, [shapes / "disc" / f"disc-{index}.png" for index in (9, 5)]).predicted_names
    with open(tmp_path / "out.csv", newline="") as stream:
        assert list(csv.reader(stream)) == [["id", "predicted"], ["9", expected[0]], ["5", expected[1]]]
    assert len(output.out.splitlines()) == 2


def test_a_submission_row_without_image_is_an_error_before_prediction(
    finished: Run, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample = write_sample(tmp_path / "sample.csv", [f"disc-{index}" for index in range(41)])
    monkeypatch.setattr(
        "tercet.ensemble.bundle.Bundle.predict_member_batches", lambda *_: pytest.fail("images were predicted")
    )
    with pytest.raises(DataError, match="1 of its 41 rows have no image, such as 'disc-40'"):
        predict_files(finished.path, [shapes / "disc"], submission=str(sample), csv=str(tmp_path / "out.csv"))
    assert not (tmp_path / "out.csv").exists()


def test_an_unreadable_image_of_a_submission_is_an_error(finished: Run, shapes: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"broken")
    sample = write_sample(tmp_path / "sample.csv", ["broken", "good"])
    shutil.copy(shapes / "disc" / "disc-1.png", tmp_path / "good.png")
    with pytest.raises(DataError, match="broken"):
        predict_files(
            finished.path,
            [tmp_path / "broken.png", tmp_path / "good.png"],
            submission=str(sample),
            csv=str(tmp_path / "out.csv"),
        )
    assert not (tmp_path / "out.csv").exists()


def test_metrics_are_stored(decided: tuple[Run, str]) -> None:
    assert metrics_of(decided[0].path)["tta"] == decided[0].metrics["tta"]
