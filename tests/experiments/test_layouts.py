"""Layouts of public data sets, with generated images, in the commands: audit, train, crossval and evaluate."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.fixtures.image_trees import archives
from tests.fixtures.runs import draw

import tercet
from tercet.cli.main import main
from tercet.config.run import DataConfig
from tercet.core.errors import DataError
from tercet.data.load import load_table
from tercet.experiments.train import Run
from tercet.inference.predict import predict_files

KINDS = ("disc", "square", "stroke")
QUICK = ["--members", "small-cnn", "--epochs", "1", "--lr", "1e-3", "--tensorboard", "false", "--threads", "1"]


def draw_files(root: Path, folder: str, count: int, name: str = "{kind}/{index}.png", seed: int = 1) -> None:
    """Draw images of each kind below a folder."""
    generator = np.random.default_rng(seed)
    for kind in KINDS:
        for index in range(count):
            path = root / folder / name.format(kind=kind, index=index, number=KINDS.index(kind) * count + index)
            path.parent.mkdir(parents=True, exist_ok=True)
            draw(kind, generator).save(path)


def mri(root: Path) -> None:
    draw_files(root, "Training", 9)
    draw_files(root, "Testing", 3, seed=2)


def fruits(root: Path) -> None:
    draw_files(root, "fruits-360/Training", 9)
    draw_files(root, "fruits-360/Test", 3, seed=2)
    draw_files(root, "fruits-360/test-multiple_fruits", 1, "{number}.png", seed=3)


def scenes(root: Path) -> None:
    draw_files(root, "seg_train/seg_train", 9)
    draw_files(root, "seg_test/seg_test", 3, seed=2)
    draw_files(root, "seg_pred/seg_pred", 1, "{number}.png", seed=3)


def seedlings(root: Path) -> None:
    draw_files(root, "train", 9)
    draw_files(root, "test", 1, "{number}.png", seed=3)
    (root / "sample_submission.csv").write_text("file,species\n" + "".join(f"{row}.png,disc\n" for row in range(3)))


def names(root: Path) -> None:
    draw_files(root, "train", 9, "{kind}.{index}.png")
    draw_files(root, "test1", 1, "{number}.png", seed=3)


LAYOUTS: dict[str, tuple[Any, list[str], str]] = {
    "brain MRI": (mri, [], "training = Training/ (3 classes); test = Testing/ (3 classes)"),
    "fruits": (fruits, [], "test = fruits-360/Test/ (3 classes); unlabelled = fruits-360/test-multiple_fruits/"),
    "Intel scenes": (scenes, [], "test = seg_test/seg_test/ (3 classes); unlabelled = seg_pred/seg_pred/"),
    "plant seedlings": (seedlings, [], "training = train/ (3 classes); unlabelled = test/"),
    "dogs against cats": (names, ["--data.class-from", r"^([a-z]+)\."], "train/ (3 classes); unlabelled = test1/"),
}


@pytest.mark.parametrize(("write", "options", "text"), LAYOUTS.values(), ids=LAYOUTS)
def test_audit_prints_the_layout(
    write: Any, options: list[str], text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "data")
    for data in (tmp_path / "data", archives(tmp_path / "data")[0]):
        assert main(["audit", str(data), *options]) == 0
        printed = capsys.readouterr().out
        (line,) = [line for line in printed.splitlines() if line.startswith("layout: ")]
        assert text in line
        assert "tercet train would fail" not in printed
    assert main(["audit", str(tmp_path / "data"), *options, "--json"]) == 0
    assert f"layout: {json.loads(capsys.readouterr().out)['layout']}" == line


def test_train_predicts_the_unlabelled_test_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seedlings(tmp_path / "data")
    run = tmp_path / "run"
    assert main(["train", str(tmp_path / "data"), *QUICK, "--predict-test", "--output", str(run)]) == 0
    printed = capsys.readouterr().out
    assert "layout: training = train/ (3 classes); unlabelled = test/" in printed
    assert f"3 unlabelled test images predicted: {run / 'test_predictions.csv'}" in (run / "report.txt").read_text()
    with open(run / "test_predictions.csv", encoding="utf-8") as stream:
        predicted = {row["id"]: row["predicted"] for row in csv.DictReader(stream)}
    assert [*predicted] == ["test/0.png", "test/1.png", "test/2.png"] and {*predicted.values()} <= {*KINDS}
    submission = (run / "submission.csv").read_text().splitlines()
    assert submission == ["file,species", *(f"{row}.png,{predicted[f'test/{row}.png']}" for row in range(3))]
    assert main(["evaluate", str(run), str(tmp_path / "data"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["n"] == 4  # held out for the test: 15 % of 27
    # a sample submission for other images is reported, and the predictions are written
    (run / "submission.csv").unlink()
    (tmp_path / "data/sample_submission.csv").write_text("file,species\n7.png,disc\n")
    assert main(["train", "--resume", str(run)]) == 0
    assert "no submission written: " in capsys.readouterr().out and not (run / "submission.csv").exists()


def test_predict_test_needs_unlabelled_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mri(tmp_path / "data")
    assert main(["train", str(tmp_path / "data"), *QUICK, "--predict-test", "--output", str(tmp_path / "run")]) == 2
    assert "data has no unlabelled test images" in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_python_reads_layouts(tmp_path: Path) -> None:
    mri(tmp_path / "data")
    (tmp_path / "data/Training").rename(tmp_path / "data/north")
    (tmp_path / "data/Testing").rename(tmp_path / "data/south")
    with pytest.raises(DataError, match=r"--data.train north --data.test south"):
        tercet.train(tmp_path / "data", members=["small-cnn"], epochs=1, lr=1e-3, console=False)
    data = {"train": "north", "test": "south"}
    report = tercet.audit_data(tmp_path / "data", data=data, console=False)
    assert report.layout == "training = north/ (3 classes); test = south/ (3 classes)"
    assert report.result.split_sizes["train"] + report.result.split_sizes["val"] == 27
    estimator = tercet.TercetClassifier(
        ["small-cnn"], epochs=1, lr=1e-3, verbose=False, options={"data": data, "tensorboard": False}
    )
    estimator.fit(tmp_path / "data")
    assert estimator.metrics_["chosen"] == "small-cnn" and tuple(estimator.classes_) == KINDS


def test_crossval_uses_the_given_test_split(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scenes(tmp_path / "data")
    arguments = ["crossval", str(tmp_path / "data"), "--folds", "2", *QUICK, "--output", str(tmp_path / "cv"), "--json"]
    assert main(arguments) == 0
    document = json.loads(capsys.readouterr().out)
    assert sum(fold["n"] for fold in document["folds"]) == 27  # the nine test images are in no fold


@pytest.mark.parametrize("write", [mri, fruits, scenes])
def test_evaluate_scores_the_test_split_only(
    write: Any, finished: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "data")
    assert main(["evaluate", str(finished.path), str(tmp_path / "data"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["n"] == 9
    assert main(["evaluate", str(finished.path), str(tmp_path / "data"), "--data.layout", "classes"]) != 0


def test_output_of_the_commands_within_the_data_is_left_out(finished: Run, tmp_path: Path) -> None:
    data = tmp_path / "data"
    draw_files(data, "", 4)
    expected = load_table(data, DataConfig())
    shutil.copytree(finished.path, data / "runs/data-1")
    tercet.audit_data(data, output=str(tmp_path / "checked"), console=False)
    (tmp_path / "checked").rename(data / "checked")
    tercet.explain_images(finished.path, [data / "disc/0.png"], output=data / "explanations")
    tercet.write_report([finished.path, data / "runs/data-1"], output=data / "both.html")
    predict_files(finished.path, [data / "disc"], csv=str(data / "predictions.csv"))
    assert len([*data.rglob("*.png")]) > 20
    table = load_table(data, DataConfig())
    assert (table.ids, table.classes, table.empty) == (expected.ids, KINDS, ())
    assert [note.partition(": ")[0] for note in table.notes] == ["output of Tercet within the data, left out"]
