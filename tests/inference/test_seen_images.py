"""`evaluate` detects training images by their content, and scores them only with --include-seen."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tercet.cli.main import main
from tercet.config.run import DataConfig
from tercet.core.errors import DataError, ModelError
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


def add_splits(folder: Path) -> None:
    for kind in ("disc", "square", "stroke"):
        for split, pattern in (("train", "*[5-9].png"), ("test", "*[0-4].png")):
            (folder / split / kind).mkdir(parents=True)
            for path in sorted((folder / kind).glob(pattern)):
                path.rename(folder / split / kind / path.name)
        (folder / kind).rmdir()


@pytest.mark.parametrize("change", [add_image, relabel_image, rename_images, add_splits])
def test_a_folder_that_changed_since_training_is_refused(
    finished: Run, file: Path, shapes: Path, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    folder = Path(shutil.copytree(shapes, tmp_path / "data"))
    change(folder)
    member = finished.path / "members" / "wide"
    for model in (finished.path, member, file):
        with pytest.raises(DataError, match=r"\d+ of \d+ images of .* were used in training: .*--include-seen"):
            evaluate(model, folder)
        result: Any = evaluate(model, folder, include_seen=True)
        assert "were used in training" in result.subset
        assert result.rows[0].scores.n == sum("train" not in path.parts for path in folder.rglob("*.png"))


def test_the_number_of_training_images_is_exact(finished: Run, shapes: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(shapes, tmp_path / "data"))
    add_image(folder)
    with pytest.raises(DataError, match=f"{120 - _HELD_OUT} of 121 images"):
        evaluate(finished.path, folder)
    held_out = set(evaluate(finished.path, shapes).predictions.ids)
    assert len(held_out) == _HELD_OUT
    for path in sorted(folder.rglob("*.png")):
        if str(path.relative_to(folder)) not in held_out and path.name != "new.png":
            path.unlink()
    result = evaluate(finished.path, folder)  # without training images, no option is needed
    assert (result.subset, result.rows[0].scores.n) == ("all images", _HELD_OUT + 1)


def test_include_seen_scores_all_images_of_the_training_data(
    finished: Run, shapes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(finished.path), str(shapes), "--include-seen"]) == 0
    assert f"{120 - _HELD_OUT} of 120 images" in " ".join(capsys.readouterr().out.split())


def test_training_images_are_a_one_line_error(
    finished: Run, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add_image(Path(shutil.copytree(shapes, tmp_path / "data")))
    assert main(["evaluate", str(finished.path), str(tmp_path / "data")]) == 3
    output = capsys.readouterr()
    assert output.out == "" and len(output.err.splitlines()) == 1


def test_copies_within_the_splits_of_unchanged_data_are_allowed(shapes: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(shapes, tmp_path / "data"))
    add_splits(folder)
    shutil.copy(folder / "train" / "disc" / "disc-5.png", folder / "test" / "disc" / "copy.png")
    options: dict[str, Any] = {"members": ["small-cnn"], "epochs": 1, "threads": 1, "tensorboard": False}
    run = train(folder, output=str(tmp_path / "run"), **options)
    assert evaluate(run.path, folder).rows[0].scores.n == 61
    add_image(folder / "train")
    with pytest.raises(DataError, match="1 of 61 images"):
        evaluate(run.path, folder)


def test_cross_validation_bundles_have_no_held_out_images(tmp_path: Path) -> None:
    folder = draw_folder(tmp_path / "data", count=8)
    options: dict[str, Any] = {"members": ["small-cnn"], "epochs": 1, "threads": 1, "tensorboard": False}
    result = crossval(folder, folds=2, output=str(tmp_path / "cv"), **options)
    with pytest.raises(DataError, match=r"nothing was held out: .*--include-seen"):
        evaluate(result.path, folder)
    add_image(folder)
    with pytest.raises(DataError, match="24 of 25 images"):
        evaluate(result.path, folder)
    assert evaluate(result.path, draw_folder(tmp_path / "other", count=3, seed=5)).rows[0].scores.n == 9


def test_old_bundles_without_image_digests_compare_paths(finished: Run, shapes: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(shapes, tmp_path / "data"))
    bundle = finished.bundle()
    data = {key: value for key, value in bundle.card["data"].items() if key != "seen"} | {"source": str(folder)}
    replace(bundle, card={**bundle.card, "data": data}).save(tmp_path / "old")
    assert "held out" in evaluate(tmp_path / "old", folder).subset
    add_image(folder)
    with pytest.raises(DataError, match=r"has changed since the bundle was trained on it: .*--include-seen"):
        evaluate(tmp_path / "old", folder)
    other = draw_folder(tmp_path / "other", count=3, seed=5)
    assert evaluate(tmp_path / "old", other).subset == "all images"


def test_a_damaged_list_of_training_images_is_refused(finished: Run, tmp_path: Path) -> None:
    bundle = finished.bundle()
    data = {**bundle.card["data"], "seen": "AAAA"}
    replace(bundle, card={**bundle.card, "data": data}).save(tmp_path / "odd")
    with pytest.raises(ModelError, match="list of training images cannot be read"):
        evaluate(tmp_path / "odd", draw_folder(tmp_path / "other", count=3, seed=5), config=DataConfig())


def test_digests_are_small_and_not_served(finished: Run, file: Path) -> None:
    seen = load_bundle(finished.path).card["data"]["seen"]
    assert len(seen) <= 11 * (120 - _HELD_OUT) + 4
    assert "seen" not in finished.metrics["data"]
    model = OnnxModel.load(file)
    assert model.metadata["card"]["data"]["seen"] == seen
    assert "seen" not in describe_model(model, "shapes")["card"]["data"]
