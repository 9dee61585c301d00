import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tercet.core.history import EpochRow
from tercet.data.decode import Pixels
from tercet.data.image_cache import ImageCache
from tercet.experiments.tensorboard import StageImages, stage_images
from tercet.experiments.train import train
from tercet.metrics.classification import validation_scores
from tercet.training.callbacks import TensorBoard

TAGS = ["confusion/validation", "samples/validation"]
LABELS = np.arange(40) % 3


def logits(right: int) -> np.ndarray:
    said = np.where(np.arange(40) < right, LABELS, (LABELS + 1) % 3)
    return np.eye(3)[said] * 5


def row(epoch: int, scores: dict[str, float], note: str = "") -> EpochRow:
    return EpochRow(0, epoch, 10 * (epoch + 1), 0.1, 1.0, 0.5, scores, 1.0, best=False, note=note)


def pictures(folder: Path) -> dict[str, list[tuple[int, Image.Image]]]:
    events = EventAccumulator(str(folder), size_guidance={"images": 0}).Reload()
    return {
        tag: [(one.step, Image.open(io.BytesIO(one.encoded_image_string))) for one in events.Images(tag)]
        for tag in events.Tags()["images"]
    }


@pytest.fixture
def store() -> ImageCache:
    pixels: Pixels = np.random.default_rng(0).integers(0, 255, (50, 8, 8, 1), dtype=np.uint8)
    return ImageCache(pixels.reshape(-1), np.tile(np.array([8, 8, 1]), (50, 1)))


def watching(folder: Path, store: ImageCache) -> StageImages:
    rows = np.arange(10, 50)
    classes = ["disc", "$x$", "<b>"]
    return StageImages(
        TensorBoard(folder), validation_scores, classes=classes, store=store, rows=rows, monitor="accuracy"
    )


def test_the_best_validation_of_a_stage_is_drawn(tmp_path: Path, store: ImageCache) -> None:
    straight, risen = watching(tmp_path / "a", store), watching(tmp_path / "b", store)
    for images, rights in ((straight, [38]), (risen, [10, 38, 20])):
        for epoch, right in enumerate(rights):
            scores = images.score(logits(right), LABELS)
            assert scores == validation_scores(logits(right), LABELS)
            last = epoch == len(rights) - 1
            images.on_epoch_end(row(epoch, scores, "stage complete" if last else ""))
    found = pictures(tmp_path / "b")
    assert sorted(found) == TAGS
    assert [step for step, _ in found[TAGS[0]]] == [30]
    # Epoch 2 was the best of three: below the title all is as if it had been the only one.
    (_, one), (_, other) = pictures(tmp_path / "a")[TAGS[0]][0], found[TAGS[0]][0]
    assert one.size == other.size
    assert np.array_equal(np.asarray(one)[60:], np.asarray(other)[60:])
    assert not np.array_equal(np.asarray(one)[:60], np.asarray(other)[:60])


def test_a_stage_that_was_interrupted_is_drawn_from_what_is_known(tmp_path: Path, store: ImageCache) -> None:
    images = watching(tmp_path, store)
    images.on_epoch_end(row(3, {}, "stage complete"))  # no validation was seen: nothing to draw, no fault
    assert pictures(tmp_path) == {}


def test_without_a_board_nothing_stands_in_between(store: ImageCache) -> None:
    found = stage_images([], validation_scores, classes=["a"], store=store, rows=np.arange(3), monitor="loss")
    assert found == (validation_scores, [])


@pytest.mark.usefixtures("alone")
def test_a_run_shows_each_stage_and_learns_the_same_as_without(shapes: Path, tmp_path: Path) -> None:
    stages = [{"lr": 3e-3, "epochs": 2}, {"lr": 3e-4, "epochs": 1}]
    common = {"members": ["small-cnn"], "stages": stages, "batch_size": 16, "threads": 1}
    runs = [train(shapes, output=str(tmp_path / str(wanted)), tensorboard=wanted, **common) for wanted in (True, False)]
    member = runs[0].path / "members" / "small-cnn"
    found = pictures(member / "tensorboard")
    steps = [json.loads(line)["step"] for line in (member / "history.jsonl").read_text().splitlines()]
    assert sorted(found) == TAGS
    assert all([step for step, _ in found[tag]] == steps[1:] for tag in TAGS)
    bundles = [sorted((run.path / "bundle").rglob("*.safetensors")) for run in runs]
    assert bundles[0]
    assert [path.read_bytes() for path in bundles[0]] == [path.read_bytes() for path in bundles[1]]
