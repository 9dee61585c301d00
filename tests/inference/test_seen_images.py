"""`evaluate` leaves out training images, recognized by files and pixels, and scores them only with --include-seen."""

import base64
import itertools
import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tercet.cli.main import main
from tercet.config.run import DataConfig
from tercet.core.errors import DataError, ModelError
from tercet.core.predictions import Predictions
from tercet.data.seen_images import DIGEST_KEYS
from tercet.ensemble.bundle import load_bundle
from tercet.experiments.crossval import crossval
from tercet.experiments.train import Run, train
from tercet.export.export import export_model
from tercet.inference.evaluate import evaluate
from tercet.inference.onnx_model import OnnxModel
from tercet.serve.responses import describe_model
from tests.fixtures.runs import draw, draw_folder, one_core

pytestmark = pytest.mark.usefixtures("alone")
_HELD_OUT = 18  # of 120 images, by default


@pytest.fixture(scope="module")
def file(finished: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with one_core():
        return export_model(finished.path, tmp_path_factory.mktemp("exported") / "shapes.onnx").path


def add_image(folder: Path) -> None:
    draw("disc", np.random.default_rng(999)).save(folder / "disc" / "new.png")


def relabel_image(folder: Path) -> None:
    (folder / "disc" / "disc-3.png").rename(folder / "square" / "was-a-disc.png")


def rename_images(folder: Path) -> None:
    for path in sorted(folder.rglob("*.png")):
        path.rename(path.with_name(f"x-{path.name}"))


def remove_images(folder: Path) -> None:
    for path in sorted(folder.rglob("*[0-4].png")):
        path.unlink()


def encode_again(folder: Path) -> None:
    """Change the bytes of every file, but no pixel: other formats and modes, comments and EXIF blocks."""
    for number, path in enumerate(sorted(folder.rglob("*.png"))):
        image = Image.open(path).copy()
        path.unlink()
        if number % 4 == 0:
            image.save(path.with_suffix(".bmp"))
        elif number % 4 == 1:
            image.convert("RGB").save(path.with_suffix(".webp"), lossless=True)
        elif number % 4 == 2:
            exif = Image.Exif()
            exif[0x010E] = "taken at noon"
            image.save(path, exif=exif, compress_level=1)
        else:
            image.convert("RGBA").save(path.with_suffix(".tif"), compression="tiff_lzw")


def add_splits(folder: Path) -> None:
    for kind in ("disc", "square", "stroke"):
        for split, pattern in (("train", "*[5-9].png"), ("test", "*[0-4].png")):
            (folder / split / kind).mkdir(parents=True)
            for path in sorted((folder / kind).glob(pattern)):
                path.rename(folder / split / kind / path.name)
        (folder / kind).rmdir()


CHANGES = (add_image, relabel_image, rename_images, remove_images, encode_again, add_splits)


def stored_predictions(run: Run) -> Predictions:
    return Predictions.load(run.path / "predictions" / f"{run.metrics['chosen']}-test.npz")


def fingerprints(folder: Path, paths: Iterable[Path]) -> set[str]:
    """Return the pixels of images as text: what identifies them whatever their names are."""
    return {Image.open(folder / path).convert("L").tobytes().hex() for path in paths}


@pytest.mark.parametrize("change", CHANGES)
def test_only_unseen_images_of_a_changed_folder_are_scored(
    finished: Run, file: Path, shapes: Path, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    folder = Path(shutil.copytree(shapes, tmp_path / "data"))
    unseen = fingerprints(shapes, map(Path, stored_predictions(finished).ids))
    assert len(unseen) == _HELD_OUT
    change(folder)
    unseen |= fingerprints(folder, folder.rglob("new.png"))
    scored = [path for path in folder.rglob("*.*") if "train" not in path.parts]
    expected = fingerprints(folder, scored) & unseen
    for model in (finished.path, finished.path / "members" / "wide", file):
        result: Any = evaluate(model, folder)
        assert fingerprints(folder, map(Path, result.predictions.ids)) == expected
        seen = {"images": len(scored) - len(expected), "of": len(scored), "scored": False}
        assert result.to_dict()["seen"] == {**seen, "compared": ["files", "pixels"]}
        sentence = f"{seen['images']} of {seen['of']} images were used in training and are left out"
        assert sentence in result.subset and "WARNING" not in result.to_text()
        everything: Any = evaluate(model, folder, include_seen=True)
        assert everything.rows[0].scores.n == len(scored)
        assert "WARNING: " in everything.to_text() and everything.to_dict()["seen"]["scored"]


def test_scores_on_unchanged_data_are_those_of_the_run(finished: Run, shapes: Path) -> None:
    result: Any = evaluate(finished.path, shapes)
    predictions = stored_predictions(finished)
    assert result.predictions.ids == predictions.ids
    assert np.abs(result.predictions.probabilities - predictions.probabilities).max() < 1e-5


def test_include_seen_is_a_red_line_and_in_json(
    finished: Run, shapes: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert main(["evaluate", str(finished.path), str(shapes), "--include-seen", "--json"]) == 0
    output = capsys.readouterr()
    line = f"{120 - _HELD_OUT} of 120 images were used in training and are scored, too: the scores are optimistic"
    assert json.loads(output.out)["warning"] == line
    assert f"\x1b[1;31mWARNING: {line}" in output.err
    assert main(["evaluate", str(finished.path), str(shapes)]) == 0
    output = capsys.readouterr()
    assert f"{120 - _HELD_OUT} of 120 images were used" in " ".join(output.out.split()) and "WARNING" not in output.err


def test_only_training_images_are_a_one_line_error(
    finished: Run, file: Path, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(shapes, tmp_path / "data"))
    for name in evaluate(finished.path, folder).predictions.ids:
        (folder / name).unlink()
    encode_again(folder)
    for model in (finished.path, file):
        assert main(["evaluate", str(model), str(folder)]) == 3
        output = capsys.readouterr()
        assert output.out == "" and len(output.err.splitlines()) == 1
        assert f"all {120 - _HELD_OUT} labelled images of " in output.err and "--include-seen" in output.err


def test_a_fold_ensemble_has_seen_what_any_fold_used(tmp_path: Path) -> None:
    folder = draw_folder(tmp_path / "data", count=8)
    options: dict[str, Any] = {"members": ["small-cnn"], "epochs": 1, "threads": 1, "tensorboard": False}
    result = crossval(folder, folds=2, output=str(tmp_path / "cv"), **options)
    exported = export_model(result.path, tmp_path / "folds.onnx").path
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    encode_again(copy)
    for model, data in ((result.path, folder), (exported, copy)):
        with pytest.raises(DataError, match=r"all 24 labelled images .*--include-seen"):
            evaluate(model, data)
    add_image(folder)
    evaluation: Any = evaluate(result.path, folder)
    assert evaluation.predictions.ids == ("disc/new.png",) and "24 of 25 images" in evaluation.subset
    assert evaluate(result.path, draw_folder(tmp_path / "other", count=3, seed=5)).rows[0].scores.n == 9
    first: Any = evaluate(result.path / "folds" / "1", folder)  # one fold has not seen the images that it holds out
    held_out = Predictions.load(result.path / "folds" / "1" / "predictions" / "small-cnn-test.npz")
    assert set(first.predictions.ids) == {*held_out.ids, "disc/new.png"}


def test_copies_of_training_images_in_a_given_test_split_are_left_out(shapes: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(shapes, tmp_path / "data"))
    add_splits(folder)
    shutil.copy(folder / "train" / "disc" / "disc-5.png", folder / "test" / "disc" / "copy.png")
    options: dict[str, Any] = {"members": ["small-cnn"], "epochs": 1, "threads": 1, "tensorboard": False}
    run = train(folder, output=str(tmp_path / "run"), **options)
    assert any("1 of 61 test images have copies among the" in note for note in run.metrics["data"]["notes"])
    result: Any = evaluate(run.path, folder)
    assert result.rows[0].scores.n == 60 and "1 of 61 images" in result.subset


def test_digests_can_be_left_out(shapes: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"members": ["small-cnn"], "epochs": 1, "threads": 1, "tensorboard": False}
    folder = Path(shutil.copytree(shapes, tmp_path / "data"))
    run = train(folder, output=str(tmp_path / "run"), data={"image_digests": False}, **options)
    assert not {"seen", "seen_pixels"} & load_bundle(run.path).card["data"].keys()
    assert evaluate(run.path, folder).rows[0].scores.n == _HELD_OUT  # the same data: divided as in training
    other = draw_folder(tmp_path / "other", count=3, seed=5)
    assert "whether images were used in training is unknown" in evaluate(run.path, other).to_text()
    add_image(folder)
    with pytest.raises(DataError, match="has changed since the bundle was trained on it"):
        evaluate(run.path, folder)


def test_older_bundles_with_digests_of_files_compare_files(finished: Run, shapes: Path, tmp_path: Path) -> None:
    bundle, folder = finished.bundle(), Path(shutil.copytree(shapes, tmp_path / "data"))
    data = {key: value for key, value in bundle.card["data"].items() if key != "seen_pixels"}
    replace(bundle, card={**bundle.card, "data": data}).save(tmp_path / "old")
    rename_images(folder)
    result: Any = evaluate(tmp_path / "old", folder)
    assert result.rows[0].scores.n == _HELD_OUT and result.seen.compared == ("files",)


def test_old_bundles_without_image_digests_compare_paths(finished: Run, shapes: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(shapes, tmp_path / "data"))
    bundle = finished.bundle()
    data = {key: value for key, value in bundle.card["data"].items() if key not in DIGEST_KEYS}
    data["source"] = str(folder)
    replace(bundle, card={**bundle.card, "data": data}).save(tmp_path / "old")
    assert "held out" in evaluate(tmp_path / "old", folder).subset
    add_image(folder)
    with pytest.raises(DataError, match=r"has changed since the bundle was trained on it, .*--include-seen"):
        evaluate(tmp_path / "old", folder)
    other = draw_folder(tmp_path / "other", count=3, seed=5)
    assert evaluate(tmp_path / "old", other).subset == "all images"


def test_a_damaged_list_of_training_images_is_refused(finished: Run, tmp_path: Path) -> None:
    bundle = finished.bundle()
    other = draw_folder(tmp_path / "other", count=3, seed=5)
    for number, damage in enumerate(itertools.product(DIGEST_KEYS, ("AAAA", "%", 7, None))):
        data = {**bundle.card["data"], damage[0]: damage[1]}
        replace(bundle, card={**bundle.card, "data": data}).save(tmp_path / str(number))
        with pytest.raises(ModelError, match="list of training images cannot be read"):
            evaluate(tmp_path / str(number), other, config=DataConfig())


def test_digests_are_small_and_not_served(finished: Run, file: Path) -> None:
    card = load_bundle(finished.path).card["data"]
    for key in DIGEST_KEYS:
        assert len(base64.b64decode(card[key])) == 8 * (120 - _HELD_OUT)
        assert key not in finished.metrics["data"]
    model = OnnxModel.load(file)
    assert model.metadata["card"]["data"] == card
    assert not {*DIGEST_KEYS} & describe_model(model, "shapes")["card"]["data"].keys()
