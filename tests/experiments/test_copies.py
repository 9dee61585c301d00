"""Copies in `train`, `crossval` and `compare`: kept together where Tercet divides, reported where splits are given."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.fixtures.runs import draw, draw_folder, metrics_of

from tercet.cli.main import main
from tercet.core.predictions import Predictions
from tercet.core.run_folder import RunFolder
from tercet.experiments.compare import compare
from tercet.experiments.crossval import crossval
from tercet.experiments.train import train
from tercet.report.run import write_report

pytestmark = pytest.mark.usefixtures("alone")
OPTIONS: dict[str, Any] = {"members": ["small-cnn"], "epochs": 1, "threads": 1, "tensorboard": False}
SENTENCE = "4 of 9 test images have copies among the training images"


@pytest.fixture(scope="module")
def torn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Given splits in which four test images are training images, two of them encoded again."""
    root = tmp_path_factory.mktemp("torn")
    for split, count, seed in (("train", 8, 0), ("val", 3, 1), ("test", 3, 2)):
        draw_folder(root / split, count, seed=seed)
    for number, kind in enumerate(("disc", "square", "disc", "stroke")):
        original, copy = (
            root / "train" / kind / f"{kind}-{number}.png",
            root / "test" / kind / f"{kind}-{number % 3}.png",
        )
        shutil.copy(original, copy)
        if number % 2:
            Image.open(original).convert("RGB").save(copy, compress_level=0)
    return root


def accuracy(run: Path, name: str, split: str, *, without: set[str]) -> float:
    predictions = Predictions.load(RunFolder(run).predictions(name, split))
    rows = [row for row, sample in enumerate(predictions.ids) if sample not in without]
    return float(np.mean(predictions.probabilities.argmax(axis=1)[rows] == predictions.labels[rows]))


def test_train_reports_accuracy_with_and_without_torn_images(
    torn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--members", "small-cnn,row-gru", "--epochs", "1", "--threads", "1", "--tensorboard", "false"]
    arguments += ["--output", str(tmp_path / "run"), "--hidden-size", "8"]
    assert main(["train", str(torn), *arguments]) == 0
    output = capsys.readouterr()
    metrics = metrics_of(tmp_path / "run")
    copies = metrics["copies"]["test"]
    assert (copies["images"], copies["of"], copies["copies_among"]) == (4, 9, "training")
    for key, without in (("score", set()), ("score_without", set(copies["ids"]))):
        assert copies[key] == pytest.approx(accuracy(tmp_path / "run", metrics["chosen"], "test", without=without))
    assert SENTENCE in output.err
    line = f"with and {copies['score_without']:.4f} without them"
    assert f"WARNING: {SENTENCE}" in output.out and line in output.out
    assert SENTENCE in " ".join(metrics["data"]["notes"])
    page = write_report(tmp_path / "run").path.read_text()
    assert "Copies of images in several splits or folds" in page and line in page
    assert (tmp_path / "run" / "images" / "digests.npy").is_file()


def test_compare_reports_torn_copies(torn: Path, tmp_path: Path) -> None:
    options = {key: value for key, value in OPTIONS.items() if key != "members"}
    result = compare(torn, backbones=["small-cnn"], seeds=2, output=str(tmp_path / "grid"), **options)
    copies = result.metrics["copies"]["test"]
    names = [training["member"] for training in result.metrics["networks"][0]["trainings"]]
    scores = [accuracy(tmp_path / "grid", name, "test", without=set(copies["ids"])) for name in names]
    assert copies["score_without"] == pytest.approx(np.mean(scores)) and len(scores) == 2
    assert f"WARNING: {SENTENCE}" in " ".join(result.report.split())


def test_crossval_keeps_copies_together_and_reports_given_folds_that_tear_them(tmp_path: Path) -> None:
    folder = draw_folder(tmp_path / "data", 8)
    for kind in ("disc", "square", "stroke"):
        for number in range(3):
            shutil.copy(folder / kind / f"{kind}-{number}.png", folder / kind / f"copy-{number}.png")
    result = crossval(folder, folds=3, output=str(tmp_path / "cv"), **OPTIONS)
    assert result.metrics["copies"] == {} and "copies kept together" in result.metrics["protocol"]["how"]
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.png"))
    rows = [
        f"{name},{name.split('/')[0]},{2 if 'copy' in name else 1 + number % 2}" for number, name in enumerate(names)
    ]
    (folder / "table.csv").write_text("\n".join(["image,label,fold", *rows]))
    given = crossval(folder / "table.csv", output=str(tmp_path / "given"), **OPTIONS)
    copies = given.metrics["copies"]["pooled"]
    assert "held-out images have copies among the other folds' images" in copies["text"]
    assert copies["of"] == 33 and 0 < copies["images"] <= 18
    scored = accuracy(tmp_path / "given", "chosen", "pooled", without=set(copies["ids"]))
    assert copies["score_without"] == pytest.approx(scored) and "WARNING: " in given.report


def test_a_test_split_of_copies_only_has_no_accuracy_without_them(tmp_path: Path) -> None:
    root = draw_folder(tmp_path / "data" / "train", 6).parent
    shutil.copytree(root / "train", root / "test")
    run = train(root, output=str(tmp_path / "run"), **OPTIONS)
    copies = json.loads((run.path / "metrics.json").read_text())["copies"]["test"]
    assert copies["score"] is not None and copies["score_without"] is None
    assert "No image is left without them" in run.report


def test_excluded_images_are_left_out_of_training(tmp_path: Path) -> None:
    folder = draw_folder(tmp_path / "data", 8)
    draw("disc", np.random.default_rng(9)).save(folder / "disc" / "bad one.png")
    (tmp_path / "exclude.txt").write_text("# by hand\ndisc/bad one.png\n\nsquare/square-3.png\n")
    run = train(folder, output=str(tmp_path / "run"), data={"exclude": str(tmp_path / "exclude.txt")}, **OPTIONS)
    samples = (run.path / "samples.csv").read_text()
    assert len(samples.splitlines()) == 1 + 23 and "bad one" not in samples and "square-3" not in samples
    assert any("2 images left out" in note for note in run.metrics["data"]["notes"])
