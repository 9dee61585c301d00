"""TensorBoard images of training stages."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tercet.core.history import EpochRow
from tercet.data.image_cache import ImageCache
from tercet.data.pixel_values import Pixels
from tercet.experiments.tensorboard import StageImages, stage_images
from tercet.experiments.train import train
from tercet.metrics.classification import validation_scores
from tercet.training.callbacks import TensorBoard

TAGS = ["confusion/validation", "samples/validation"]
LABELS = np.arange(40) % 3


def logits(num_correct: int) -> np.ndarray:
    predicted = np.where(np.arange(40) < num_correct, LABELS, (LABELS + 1) % 3)
    return np.eye(3)[predicted] * 5


def row(epoch: int, scores: dict[str, float], note: str = "") -> EpochRow:
    return EpochRow(0, epoch, 10 * (epoch + 1), 0.1, 1.0, 0.5, scores, 1.0, best=False, note=note)


def images_of(folder: Path) -> dict[str, list[tuple[int, Image.Image]]]:
    events = EventAccumulator(str(folder), size_guidance={"images": 0}).Reload()
    return {
        tag: [(event.step, Image.open(io.BytesIO(event.encoded_image_string))) for event in events.Images(tag)]
        for tag in events.Tags()["images"]
    }


@pytest.fixture
def store() -> ImageCache:
    pixels: Pixels = np.random.default_rng(0).integers(0, 255, (50, 8, 8, 1), dtype=np.uint8)
    return ImageCache(pixels.reshape(-1), np.tile(np.array([8, 8, 1]), (50, 1)))


def stage_callback(folder: Path, store: ImageCache) -> StageImages:
    rows = np.arange(10, 50)
    classes = ["disc", "$x$", "<b>"]
    return StageImages(
        TensorBoard(folder), validation_scores, classes=classes, store=store, rows=rows, monitor="accuracy"
    )


def test_the_best_validation_of_a_stage_is_drawn(tmp_path: Path, store: ImageCache) -> None:
    single, several = stage_callback(tmp_path / "a", store), stage_callback(tmp_path / "b", store)
    for images, counts in ((single, [38]), (several, [10, 38, 20])):
        for epoch, num_correct in enumerate(counts):
            scores = images.score(logits(num_correct), LABELS)
            assert scores == validation_scores(logits(num_correct), LABELS)
            last = epoch == len(counts) - 1
            images.on_epoch_end(row(epoch, scores, "stage complete" if last else ""))
    drawn = images_of(tmp_path / "b")
    assert sorted(drawn) == TAGS
    assert [step for step, _ in drawn[TAGS[0]]] == [30]
    # epoch 2 was the best of three: below the title, the image equals that of a single epoch
    (_, first), (_, second) = images_of(tmp_path / "a")[TAGS[0]][0], drawn[TAGS[0]][0]
    assert first.size == second.size
    assert np.array_equal(np.asarray(first)[60:], np.asarray(second)[60:])
    assert not np.array_equal(np.asarray(first)[:60], np.asarray(second)[:60])


def test_a_stage_without_recorded_validation_is_not_drawn(tmp_path: Path, store: ImageCache) -> None:
    images = stage_callback(tmp_path, store)
    images.on_epoch_end(row(3, {}, "stage complete"))  # as after a resume in the last epoch
    assert images_of(tmp_path) == {}


def test_without_tensorboard_the_scorer_is_unchanged(store: ImageCache) -> None:
    scorer, callbacks = stage_images(
        [], validation_scores, classes=["a"], store=store, rows=np.arange(3), monitor="loss"
    )
    assert (scorer, callbacks) == (validation_scores, [])


@pytest.mark.usefixtures("alone")
def test_a_run_draws_its_stages_and_trains_the_same_weights_as_without(shapes: Path, tmp_path: Path) -> None:
    common = {"members": ["small-cnn"], "lr": 3e-3, "epochs": 2, "batch_size": 16, "threads": 1}
    runs = [train(shapes, output=str(tmp_path / str(flag)), tensorboard=flag, **common) for flag in (True, False)]
    member = runs[0].path / "members" / "small-cnn"
    drawn = images_of(member / "tensorboard")
    steps = [json.loads(line)["step"] for line in (member / "history.jsonl").read_text().splitlines()]
    assert sorted(drawn) == TAGS
    assert all([step for step, _ in drawn[tag]] == steps[-1:] for tag in TAGS)
    bundles = [sorted((run.path / "bundle").rglob("*.safetensors")) for run in runs]
    assert bundles[0]
    assert [path.read_bytes() for path in bundles[0]] == [path.read_bytes() for path in bundles[1]]
