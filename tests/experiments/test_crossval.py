"""Cross-validation: held-out predictions, scores, bundle, resume, errors."""

import csv
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.fixtures.runs import draw, one_core

from tercet.cli.main import main
from tercet.core.errors import ConfigError, DataError, ModelError, StorageError, TercetError
from tercet.core.predictions import Predictions
from tercet.core.run_folder import RunFolder
from tercet.ensemble.bundle import load_bundle
from tercet.ensemble.combine import average
from tercet.experiments.crossval import CrossValidation, crossval
from tercet.experiments.train import train
from tercet.inference.evaluate import evaluate
from tercet.metrics.classification import score

pytestmark = pytest.mark.usefixtures("alone")
CNN = {"name": "cnn", "model": "small-cnn", "head_hidden_dim": 8}
GRU = {"name": "gru", "model": "row-gru", "hidden_size": 8, "num_layers": 1, "head_hidden_dim": 6}
QUICK: dict[str, Any] = {"epochs": 1, "lr": 3e-3, "batch_size": 16, "tensorboard": False, "threads": 1}
PEOPLE = ("ann", "ben", "c/d")


def write_table(path: Path, rows: list[dict[str, Any]]) -> Path:
    with open(path, "w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture(scope="module")
def image_rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Draw two kinds of shapes for three people and a test split; return the rows of a table."""
    folder, generator = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    rows = []
    for number in range(66):
        kind, person = ("disc", "stroke")[number % 2], (*PEOPLE, "test")[min(number // 18, 3)]
        draw(kind, generator).save(folder / f"{number}.png")
        split = "test" if person == "test" else "train"
        rows.append({"image": f"{number}.png", "label": kind, "person": person, "split": split, "root": folder})
    return rows


@pytest.fixture(scope="module")
def signs(image_rows: list[dict[str, Any]]) -> Path:
    rows = [{key: row[key] for key in ("image", "label", "person", "split")} for row in image_rows]
    return write_table(image_rows[0]["root"] / "signs.csv", rows)


@pytest.fixture(scope="module")
def by_person(signs: Path, tmp_path_factory: pytest.TempPathFactory) -> CrossValidation:
    """Return a finished cross-validation with one fold per person."""
    with one_core():
        return crossval(
            signs,
            leave_one_group_out=True,
            members=[CNN, GRU],
            **QUICK,
            data={"group_column": "person", "val_fraction": 0.4},
            ensemble_methods=["average", "weighted", "e2e"],
            fusion={"width": 8, "steps": 3, "folds": 2, "choose": "best"},  # so that ensembles are shipped
            output=str(tmp_path_factory.mktemp("runs") / "cv"),
        )


@pytest.fixture
def copy(by_person: CrossValidation, tmp_path: Path) -> Iterator[Path]:
    yield Path(shutil.copytree(by_person.path, tmp_path / "copy"))


def samples(run: Path) -> list[dict[str, str]]:
    with open(run / "samples.csv", newline="") as stream:
        return list(csv.DictReader(stream))


def folds_of(path: Path) -> list[Path]:
    return sorted((path / "folds").iterdir())


def test_methods_fitted_on_one_person_are_scored_but_not_chosen(by_person: CrossValidation) -> None:
    for number in (1, 2, 3):  # without the held-out person: one for training, one for validation
        fold = json.loads((by_person.path / f"folds/{number}/metrics.json").read_text())
        assert [row["name"] for row in fold["ensembles"]] == ["average", "weighted", "e2e"]
        assert (fold["not_chosen"], fold["chosen"]) == (["weighted", "e2e"], "average")
        assert "belong to one group" in (by_person.path / f"folds/{number}/report.txt").read_text()


def test_every_image_is_predicted_once_by_networks_trained_without_its_person(
    by_person: CrossValidation, signs: Path
) -> None:
    pooled = by_person.predictions()
    rows = {row["id"]: row for row in samples(by_person.path)}
    assert sorted(pooled.ids) == sorted(name for name, row in rows.items() if row["split"] == "train")
    names = [fold["name"] for fold in by_person.metrics["folds"]]
    assert names == list(PEOPLE)
    row_of = {name: row for row, name in enumerate(pooled.ids)}
    for name, run in zip(names, folds_of(by_person.path), strict=True):
        by_split: dict[str, set[str]] = {split: set() for split in ("train", "val", "test", "")}
        for row in samples(run):
            by_split[row["split"]].add(row["id"])
        assert {rows[sample]["group"] for sample in by_split["test"]} == {name}
        assert not by_split["test"] & (by_split["train"] | by_split["val"])
        assert {rows[sample]["group"] for sample in by_split[""]} == {"test"}  # no fold uses the test split
        held_out = sorted(by_split["test"])
        predictions = load_bundle(run).predict([signs.parent / rows[sample]["location"] for sample in held_out])
        expected = pooled.probabilities[[row_of[sample] for sample in held_out]]
        assert np.abs(predictions.probabilities - expected).max() < 1e-5


def test_held_out_images_do_not_affect_the_training(image_rows: list[dict[str, Any]], tmp_path: Path) -> None:
    """Changed images and labels in a fold do not change a bit of the networks that hold it out."""
    bundles = []
    for attempt in ("plain", "changed"):
        folder = tmp_path / attempt
        folder.mkdir()
        rows = []
        for number, row in enumerate(image_rows[:36]):
            changed = attempt == "changed" and number % 3 == 0
            label = ("stroke" if row["label"] == "disc" else "disc") if changed else row["label"]
            with Image.open(row["root"] / row["image"]) as image:
                (image.rotate(90) if changed else image).save(folder / row["image"])
            rows.append({"image": row["image"], "label": label, "fold": number % 3})
        done = crossval(
            write_table(folder / "table.csv", rows), members=[GRU], **QUICK, output=str(tmp_path / f"cv-{attempt}")
        )
        assert [fold["name"] for fold in done.metrics["folds"]] == ["0", "1", "2"]
        bundles.append([next((run / "bundle").glob("*.safetensors")).read_bytes() for run in folds_of(done.path)])
    assert [first == second for first, second in zip(*bundles, strict=True)] == [True, False, False]


def test_the_scores_are_those_of_the_stored_predictions(by_person: CrossValidation) -> None:
    metrics = by_person.metrics
    assert metrics["pooled"] == score(by_person.predictions()).to_dict()
    assert metrics["pooled"]["n"] == 54 == sum(fold["n"] for fold in metrics["folds"])
    assert [row["name"] for row in metrics["members"]] == ["cnn", "gru"]
    assert [row["name"] for row in metrics["ensembles"]] == ["average", "weighted", "e2e"]
    for row in [*metrics["members"], *metrics["ensembles"]]:
        assert row["pooled"] == score(by_person.predictions(row["name"])).to_dict()
        accuracies = [scores["accuracy"] for scores in row["folds"].values()]
        assert list(row["folds"]) == list(PEOPLE)
        assert row["mean"]["accuracy"] == pytest.approx(np.mean(accuracies))
        assert row["sd"]["accuracy"] == pytest.approx(np.std(accuracies, ddof=1))
    assert metrics == json.loads((by_person.path / "metrics.json").read_text())
    for fold, run in zip(metrics["folds"], folds_of(by_person.path), strict=True):
        fold_metrics = json.loads((run / "metrics.json").read_text())
        chosen = next(row for row in fold_metrics["ensembles"] if row["name"] == fold_metrics["chosen"])
        assert fold["chosen"] == fold_metrics["chosen"] and fold["accuracy"] == chosen["test"]["accuracy"]
    for word in (*PEOPLE, "average", "weighted", "e2e", "±", "chosen", "fold-mean"):
        assert word in by_person.report


def test_the_bundle_averages_the_folds_and_is_scored_on_the_test_split(by_person: CrossValidation, signs: Path) -> None:
    stored = Predictions.load(by_person.path / "predictions" / "fold-mean-test.npz")
    assert len(stored) == 12
    paths = [signs.parent / name for name in stored.ids]
    folds = [load_bundle(run).predict(paths) for run in folds_of(by_person.path)]
    assert np.abs(average(folds).probabilities - stored.probabilities).max() < 1e-5
    assert np.abs(by_person.bundle().predict(paths).probabilities - stored.probabilities).max() < 1e-5
    assert by_person.metrics["test"] == score(stored).to_dict()
    assert len(by_person.metrics["test_by_fold"]) == 3
    card = by_person.bundle().card["metrics"]
    assert card["pooled"]["accuracy"] == by_person.metrics["pooled"]["accuracy"] and card["test"]["n"] == 12
    assert evaluate(by_person.path, signs).rows[0].scores.accuracy == by_person.metrics["test"]["accuracy"]


def test_a_fold_is_an_ordinary_run(by_person: CrossValidation, copy: Path) -> None:
    again = train(resume=copy / "folds" / "2")  # its images are in the folder of the cross-validation
    assert (
        again.metrics["members"] == json.loads((by_person.path / "folds" / "2" / "metrics.json").read_text())["members"]
    )
    assert not (copy / "folds" / "2" / "images").exists()


def test_resume_trains_only_what_is_missing(by_person: CrossValidation, copy: Path) -> None:
    fold = RunFolder(copy / "folds" / "2")
    before = {path: path.stat().st_mtime_ns for path in (copy / "folds").rglob("member.json")}
    fold.member("gru").done.unlink()
    fold.report.unlink()
    shutil.rmtree(fold.bundle)
    again = crossval(resume=copy)
    changed = {path for path in before if path.stat().st_mtime_ns != before[path]}
    assert changed == {fold.member("gru").done}
    assert again.metrics["pooled"] == by_person.metrics["pooled"]


def test_a_failed_fold_does_not_stop_the_others(copy: Path) -> None:
    broken = RunFolder(copy / "folds" / "2")
    broken.member("gru").done.unlink()
    broken.member("gru").checkpoints.mkdir()
    (broken.member("gru").checkpoints / "last.ckpt").write_bytes(b"not a checkpoint")
    for run in map(RunFolder, folds_of(copy)):
        run.report.unlink()
    with pytest.raises(TercetError, match=r"member gru of fold ben: .*--resume") as caught:
        crossval(resume=copy)
    assert caught.value.exit_code == ModelError.exit_code
    assert [RunFolder(run).report.is_file() for run in folds_of(copy)] == [True, False, True]


def test_members_can_be_limited_to_folds(signs: Path, tmp_path: Path) -> None:
    """As in the paper's Cassava ensemble: one network in some folds, the average of several in others."""
    done = crossval(
        signs,
        folds=3,
        members=[CNN, GRU],
        fold_members=["gru=2+3"],
        ensemble_methods=["average"],
        **QUICK,
        output=str(tmp_path / "cv"),
    )
    assert [fold["chosen"] for fold in done.metrics["folds"]] == ["cnn", "average", "average"]
    cnn, gru = done.metrics["members"]
    assert (list(cnn["folds"]), list(gru["folds"])) == (["1", "2", "3"], ["2", "3"])
    assert done.metrics["ensembles"][0]["pooled"] == done.metrics["pooled"] and done.metrics["pooled"]["n"] == 54
    assert [member.name for member in done.bundle().members] == ["1/cnn", "2/cnn", "2/gru", "3/cnn", "3/gru"]


def test_each_fold_chooses_its_test_time_augmentation(signs: Path, tmp_path: Path) -> None:
    done = crossval(
        signs,
        folds=2,
        members=[CNN, GRU],
        ensemble_methods=["average"],
        tta="flip+shifts:1",
        **QUICK,
        output=str(tmp_path / "cv"),
    )
    pooled = done.predictions()
    for run in folds_of(done.path):
        held_out = [row["id"] for row in samples(run) if row["split"] == "test"]
        predictions = load_bundle(run).predict([signs.parent / name for name in held_out])
        expected = pooled.take([pooled.ids.index(name) for name in held_out])
        assert np.abs(predictions.probabilities - expected.probabilities).max() < 1e-5
    test = Predictions.load(done.path / "predictions" / "fold-mean-test.npz")
    predictions = done.bundle().predict([signs.parent / name for name in test.ids])
    assert np.abs(predictions.probabilities - test.probabilities).max() < 1e-5


def test_selection_on_the_held_out_fold_is_a_warning_in_the_report(
    image_rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    rows = [{key: row[key] for key in ("image", "label")} for row in image_rows]
    table = write_table(image_rows[0]["root"] / "plain.csv", rows)
    done = crossval(table, folds=2, members=[GRU], monitor_split="test", **QUICK, output=str(tmp_path / "cv"))
    assert done.report.startswith("WARNING: epochs and ensembles were selected on the held-out folds themselves")
    assert done.metrics["ensembles"] == [] and done.metrics["comparison"] is None and done.metrics["test"] is None
    assert done.metrics["pooled"] == done.metrics["members"][0]["pooled"] and done.metrics["pooled"]["n"] == 66
    assert "evaluate it on new data" in done.report
    with pytest.raises(DataError, match=r"all 66 labelled images .* were used in training"):
        evaluate(done.path, table)


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--folds", "1"], 2, "folds 1"),
        (["--folds", "3", "--leave-one-group-out"], 2, "give either --folds or --leave-one-group-out"),
        (["--folds", "40"], 3, "use --folds 27"),
        (["--leave-one-group-out"], 3, "--data.group-column"),
        (["--data.group-column", "split", "--folds", "2"], 3, "belong to the group 'train'"),
        (["--data.group-column", "person", "--folds", "4"], 3, "use --folds 3"),
        (["--data.group-column", "nobody"], 2, "'nobody'"),
        (["--fold-members", "small-cnn"], 2, "MEMBER=FOLD+FOLD"),
        (["--fold-members", "smal-cnn=1"], 2, "no member 'smal-cnn', did you mean 'small-cnn'?"),
        (["--fold-members", "small-cnn=1+9"], 2, "no fold '9'"),
        (["--fold-members", "small-cnn=1"], 2, "no member for fold 2"),
        (["--data.val-fraction", "0"], 3, "validation"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_invalid_options_are_reported_before_training(
    signs: Path, options: list[str], code: int, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["crossval", str(signs), "--members", "small-cnn", "--epochs", "1", *options]
    exit_code = main([*arguments, "--output", str(tmp_path / "cv")])
    streams = capsys.readouterr()
    assert (exit_code, streams.out) == (code, "")
    assert message in streams.err.splitlines()[0]
    assert not (tmp_path / "cv").exists()


def test_the_command_prints_the_scores_as_json(
    image_rows: list[dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{key: row[key] for key in ("image", "label")} for row in image_rows[:30]]
    table = write_table(image_rows[0]["root"] / "few.csv", rows)
    arguments = ["crossval", table, "--folds", "2", "--members", "row-gru", "--hidden-size", "8", "--num-layers", "1"]
    arguments += ["--epochs", "1", "--tensorboard", "false", "--output", tmp_path / "cv", "--json"]
    assert main([str(argument) for argument in arguments]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [(fold["name"], fold["n"]) for fold in document["folds"]] == [("1", 15), ("2", 15)]
    assert document["pooled"]["n"] == 30 and set(document["pooled"]) >= {"accuracy", "accuracy_low", "macro_f1"}


def test_each_kind_of_folder_is_resumed_with_its_own_command(by_person: CrossValidation) -> None:
    with pytest.raises(StorageError, match="crossval --resume"):
        train(resume=by_person.path)
    with pytest.raises(StorageError, match="train --resume"):
        crossval(resume=by_person.path / "folds" / "1")
    with pytest.raises(ConfigError, match="remove folds"):
        crossval(resume=by_person.path, folds=3)
