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
from tercet.inference.predict import evaluate
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
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Draw two kinds of shapes by three people and some for a test split; return the rows of a table."""
    folder, generator = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    rows = []
    for number in range(66):
        kind, person = ("disc", "stroke")[number % 2], (*PEOPLE, "test")[min(number // 18, 3)]
        draw(kind, generator).save(folder / f"{number}.png")
        split = "test" if person == "test" else "train"
        rows.append({"image": f"{number}.png", "label": kind, "person": person, "split": split, "root": folder})
    return rows


@pytest.fixture(scope="module")
def signs(pictures: list[dict[str, Any]]) -> Path:
    rows = [{key: row[key] for key in ("image", "label", "person", "split")} for row in pictures]
    return write_table(pictures[0]["root"] / "signs.csv", rows)


@pytest.fixture(scope="module")
def left_out(signs: Path, tmp_path_factory: pytest.TempPathFactory) -> CrossValidation:
    """Return a finished cross-validation with one fold a person."""
    with one_core():
        return crossval(
            signs,
            leave_one_group_out=True,
            members=[CNN, GRU],
            **{**QUICK, "epochs": 3},
            data={"group_column": "person", "val_fraction": 0.4},
            ensemble_methods=["average", "weighted", "e2e"],
            fusion={"width": 8, "steps": 10, "folds": 2},
            output=str(tmp_path_factory.mktemp("runs") / "cv"),
        )


@pytest.fixture
def copy(left_out: CrossValidation, tmp_path: Path) -> Iterator[Path]:
    yield Path(shutil.copytree(left_out.path, tmp_path / "copy"))


def samples(run: Path) -> list[dict[str, str]]:
    with open(run / "samples.csv", newline="") as stream:
        return list(csv.DictReader(stream))


def folds_of(path: Path) -> list[Path]:
    return sorted((path / "folds").iterdir())


def test_what_was_fitted_on_one_person_is_measured_and_not_chosen(left_out: CrossValidation) -> None:
    for number in (1, 2, 3):  # two persons are left: one to learn from, one to choose with
        fold = json.loads((left_out.path / f"folds/{number}/metrics.json").read_text())
        assert [one["name"] for one in fold["ensembles"]] == ["average", "weighted", "e2e"]
        assert (fold["not_chosen"], fold["chosen"]) == (["weighted", "e2e"], "average")
        assert "are of one group" in (left_out.path / f"folds/{number}/report.txt").read_text()


def test_every_image_is_held_out_once_by_networks_that_never_saw_its_person(
    left_out: CrossValidation, signs: Path
) -> None:
    pooled = left_out.predictions()
    rows = {row["id"]: row for row in samples(left_out.path)}
    assert sorted(pooled.ids) == sorted(name for name, row in rows.items() if row["split"] == "train")
    names = [fold["name"] for fold in left_out.metrics["folds"]]
    assert names == list(PEOPLE)
    row_of = {name: row for row, name in enumerate(pooled.ids)}
    for name, run in zip(names, folds_of(left_out.path), strict=True):
        by_split: dict[str, set[str]] = {split: set() for split in ("train", "val", "test", "")}
        for row in samples(run):
            by_split[row["split"]].add(row["id"])
        assert {rows[one]["group"] for one in by_split["test"]} == {name}
        assert not by_split["test"] & (by_split["train"] | by_split["val"])
        assert {rows[one]["group"] for one in by_split[""]} == {"test"}  # no fold sees the data's own test split
        held = sorted(by_split["test"])
        said = load_bundle(run).predict([signs.parent / rows[one]["location"] for one in held])
        assert np.abs(said.probabilities - pooled.probabilities[[row_of[one] for one in held]]).max() < 1e-5


def test_held_out_images_do_not_touch_the_training(pictures: list[dict[str, Any]], tmp_path: Path) -> None:
    """Other pictures with other labels in a fold leave the networks that hold it out as they were, to the last bit."""
    bundles = []
    for attempt in ("plain", "changed"):
        folder = tmp_path / attempt
        folder.mkdir()
        rows = []
        for number, row in enumerate(pictures[:36]):
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
    assert [one == other for one, other in zip(*bundles, strict=True)] == [True, False, False]


def test_the_figures_are_those_of_the_stored_predictions(left_out: CrossValidation) -> None:
    metrics = left_out.metrics
    assert metrics["pooled"] == score(left_out.predictions()).to_dict()
    assert metrics["pooled"]["n"] == 54 == sum(fold["n"] for fold in metrics["folds"])
    assert [row["name"] for row in metrics["members"]] == ["cnn", "gru"]
    assert [row["name"] for row in metrics["ensembles"]] == ["average", "weighted", "e2e"]
    for row in [*metrics["members"], *metrics["ensembles"]]:
        assert row["pooled"] == score(left_out.predictions(row["name"])).to_dict()
        accuracies = [scores["accuracy"] for scores in row["folds"].values()]
        assert list(row["folds"]) == list(PEOPLE)
        assert row["mean"]["accuracy"] == pytest.approx(np.mean(accuracies))
        assert row["sd"]["accuracy"] == pytest.approx(np.std(accuracies, ddof=1))
    assert metrics == json.loads((left_out.path / "metrics.json").read_text())
    for fold, run in zip(metrics["folds"], folds_of(left_out.path), strict=True):
        own = json.loads((run / "metrics.json").read_text())
        chosen = next(row for row in own["ensembles"] if row["name"] == own["chosen"])
        assert fold["chosen"] == own["chosen"] and fold["accuracy"] == chosen["test"]["accuracy"]
    for word in (*PEOPLE, "average", "weighted", "e2e", "±", "chosen", "fold-mean"):
        assert word in left_out.report


def test_the_bundle_is_the_mean_of_the_folds_and_alone_meets_the_test_split(
    left_out: CrossValidation, signs: Path
) -> None:
    said = Predictions.load(left_out.path / "predictions" / "fold-mean-test.npz")
    assert len(said) == 12
    paths = [signs.parent / name for name in said.ids]
    folds = [load_bundle(run).predict(paths) for run in folds_of(left_out.path)]
    assert np.abs(average(folds).probabilities - said.probabilities).max() < 1e-5
    assert np.abs(left_out.bundle().predict(paths).probabilities - said.probabilities).max() < 1e-5
    assert left_out.metrics["test"] == score(said).to_dict()
    assert len(left_out.metrics["test_by_fold"]) == 3
    card = left_out.bundle().card["metrics"]
    assert card["pooled"]["accuracy"] == left_out.metrics["pooled"]["accuracy"] and card["test"]["n"] == 12
    assert evaluate(left_out.path, signs).rows[0].scores.accuracy == left_out.metrics["test"]["accuracy"]


def test_a_fold_is_an_ordinary_run(left_out: CrossValidation, copy: Path) -> None:
    again = train(resume=copy / "folds" / "2")  # its images lie in the whole
    assert (
        again.metrics["members"] == json.loads((left_out.path / "folds" / "2" / "metrics.json").read_text())["members"]
    )
    assert not (copy / "folds" / "2" / "images").exists()


def test_only_what_is_missing_is_trained_again(left_out: CrossValidation, copy: Path) -> None:
    lost = RunFolder(copy / "folds" / "2")
    before = {path: path.stat().st_mtime_ns for path in (copy / "folds").rglob("member.json")}
    lost.member("gru").done.unlink()
    shutil.rmtree(lost.member("gru").checkpoints)
    lost.report.unlink()
    shutil.rmtree(lost.bundle)
    again = crossval(resume=copy)
    changed = {path for path in before if path.stat().st_mtime_ns != before[path]}
    assert changed == {lost.member("gru").done}
    assert again.metrics["pooled"] == left_out.metrics["pooled"]


def test_a_failed_fold_is_named_and_leaves_the_others(copy: Path) -> None:
    broken = RunFolder(copy / "folds" / "2")
    broken.member("gru").done.unlink()
    (broken.member("gru").checkpoints / "last.ckpt").write_bytes(b"no checkpoint")
    for run in map(RunFolder, folds_of(copy)):
        run.report.unlink()
    with pytest.raises(TercetError, match=r"member gru of fold ben: .*--resume") as caught:
        crossval(resume=copy)
    assert caught.value.exit_code == ModelError.exit_code
    assert [RunFolder(run).report.is_file() for run in folds_of(copy)] == [True, False, True]


def test_members_in_chosen_folds(signs: Path, tmp_path: Path) -> None:
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


def test_each_fold_settles_its_own_test_time_augmentation(signs: Path, tmp_path: Path) -> None:
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
        held = [row["id"] for row in samples(run) if row["split"] == "test"]
        said = load_bundle(run).predict([signs.parent / name for name in held])
        expected = pooled.take([pooled.ids.index(name) for name in held])
        assert np.abs(said.probabilities - expected.probabilities).max() < 1e-5
    test = Predictions.load(done.path / "predictions" / "fold-mean-test.npz")
    said = done.bundle().predict([signs.parent / name for name in test.ids])
    assert np.abs(said.probabilities - test.probabilities).max() < 1e-5


def test_one_member_and_a_report_that_says_when_the_held_out_fold_chose(
    pictures: list[dict[str, Any]], tmp_path: Path
) -> None:
    rows = [{key: row[key] for key in ("image", "label")} for row in pictures]
    table = write_table(pictures[0]["root"] / "plain.csv", rows)
    done = crossval(table, folds=2, members=[GRU], monitor_split="test", **QUICK, output=str(tmp_path / "cv"))
    assert done.report.startswith("WARNING: epochs and ensembles were chosen on the held-out folds themselves")
    assert done.metrics["ensembles"] == [] and done.metrics["comparison"] is None and done.metrics["test"] is None
    assert done.metrics["pooled"] == done.metrics["members"][0]["pooled"] and done.metrics["pooled"]["n"] == 66
    assert "only others can measure it" in done.report
    with pytest.raises(DataError, match="nothing was held out: evaluate it on other images"):
        evaluate(done.path, table)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--folds", "1"], 2, "folds 1 must be at least 2"),
        (["--folds", "3", "--leave-one-group-out"], 2, "either folds or leave_one_group_out"),
        (["--folds", "40"], 3, "class 'disc' has 27 image(s), fewer than 40 folds: use --folds 27"),
        (["--leave-one-group-out"], 3, "has no groups"),
        (["--data.group-column", "split", "--folds", "2"], 3, "the group 'train'"),
        (["--data.group-column", "person", "--folds", "4"], 3, "3 groups, fewer than 4 folds: use --folds 3"),
        (["--data.group-column", "nobody"], 2, "no column 'nobody'"),
        (["--fold-members", "small-cnn"], 2, "not of the form MEMBER=FOLD+FOLD"),
        (["--fold-members", "smal-cnn=1"], 2, "no member 'smal-cnn', did you mean 'small-cnn'?"),
        (["--fold-members", "small-cnn=1+9"], 2, "no fold '9'"),
        (["--fold-members", "small-cnn=1"], 2, "no member for fold 2"),
        (["--data.val-fraction", "0"], 3, "no images are left for validation"),
        (["--resume", "."], 2, "takes no"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_cannot_be_is_said_before_anything_is_trained(
    signs: Path, words: list[str], code: int, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "cv"
    found = main(["crossval", str(signs), "--members", "small-cnn", "--epochs", "1", *words, "--output", str(place)])
    said = capsys.readouterr()
    assert (found, said.out) == (code, "")
    assert message in said.err and len(said.err.splitlines()) == 1
    assert not place.exists()


def test_the_answer_as_json(pictures: list[dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{key: row[key] for key in ("image", "label")} for row in pictures[:30]]
    table = write_table(pictures[0]["root"] / "few.csv", rows)
    words = ["crossval", table, "--folds", "2", "--members", "row-gru", "--hidden-size", "8", "--num-layers", "1"]
    words += ["--epochs", "1", "--tensorboard", "false", "--output", tmp_path / "cv", "--json"]
    assert main([str(word) for word in words]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [(fold["name"], fold["n"]) for fold in document["folds"]] == [("1", 15), ("2", 15)]
    assert document["pooled"]["n"] == 30 and set(document["pooled"]) >= {"accuracy", "accuracy_low", "macro_f1"}


def test_runs_and_cross_validations_are_not_taken_for_each_other(left_out: CrossValidation) -> None:
    with pytest.raises(StorageError, match="crossval --resume"):
        train(resume=left_out.path)
    with pytest.raises(StorageError, match="train --resume"):
        crossval(resume=left_out.path / "folds" / "1")
    with pytest.raises(ConfigError, match="takes no folds"):
        crossval(resume=left_out.path, folds=3)
