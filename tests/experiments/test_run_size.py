"""The size of a run folder, and runs whose images were deleted or have changed."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.fixtures.runs import one_core

import tercet
from tercet.core.errors import DataError
from tercet.core.run_folder import RunFolder
from tercet.experiments.plan import Plan
from tercet.experiments.train import Run, train

OPTIONS = {"epochs": 1, "tensorboard": False, "threads": 1}


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write 60 smooth JPEG files of 256 x 256 pixels, whose decoded pixels take up 16 times the space."""
    root = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    for index in range(60):
        coarse = generator.integers(0, 256, (12, 12, 3), dtype=np.uint8)
        folder = root / ("even", "odd")[index % 2]  # classes that no network tells apart: the report lists errors
        folder.mkdir(exist_ok=True)
        Image.fromarray(coarse).resize((256, 256), Image.Resampling.BICUBIC).save(folder / f"{index}.jpg", quality=90)
    return root


@pytest.fixture(scope="module")
def run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    options = {**OPTIONS, "members": ["small-cnn", "row-gru"], "input": {"size": [16]}}
    with one_core():
        return train(photos, output=str(tmp_path_factory.mktemp("runs") / "run"), console=False, **options)


def test_a_finished_run_holds_no_decoded_photos(run: Run, photos: Path) -> None:
    bundles = sum(size_of(path) for path in run.path.rglob("bundle"))
    assert size_of(run.path) < 3 * size_of(photos) + bundles < 60 * 256 * 256 * 3
    assert not list(run.path.rglob("pixels.npy"))


def test_a_finished_run_reads_its_photos_again(run: Run, photos: Path, tmp_path: Path) -> None:
    prepared = Plan.load(RunFolder(run.path)).open_data(RunFolder(run.path))
    table = prepared.table
    expected = np.asarray(Image.open(photos / table.locations[7]))
    np.testing.assert_array_equal(prepared.images.read(7), expected)
    combined = tercet.combine([run.path], method="average", output=str(tmp_path / "both"))
    assert combined.metrics["chosen"] == "average"


@pytest.mark.usefixtures("alone")
def test_photos_that_are_gone_are_named_where_they_are_needed(run: Run, photos: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.move(photos, moved)
    try:
        page = tercet.write_report([run.path], output=tmp_path / "page.html")
        assert "no longer available" in Path(page.path).read_text("utf-8")
        unfinished = tmp_path / "copy"
        shutil.copytree(run.path, unfinished)
        RunFolder(unfinished).member("row-gru").done.unlink()
        with pytest.raises(DataError, match=r"\.jpg can no longer be read"):
            train(resume=unfinished, console=False)
    finally:
        shutil.move(moved, photos)
    resumed = train(resume=unfinished, console=False)
    assert resumed.metrics["chosen"] == run.metrics["chosen"]
    assert not list(unfinished.rglob("pixels.npy"))
