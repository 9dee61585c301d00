"""The value range of a training travels with its bundle and exported file."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tercet import evaluate, load_bundle, train
from tercet.config.deployment import MEBIBYTE, ServerLimits
from tercet.config.run import DataConfig
from tercet.core.errors import DataError
from tercet.data.decoding import Decoding
from tercet.experiments.ensemble import combine
from tercet.experiments.train import Run
from tercet.export.export import export_model
from tercet.inference.onnx_model import OnnxModel
from tercet.inference.predict import predict_files
from tercet.serve.batching import MemoryBudget, MemoryLease
from tercet.serve.uploads import Upload, decode_upload

FACTORS = {"bits8": 1, "bits12": 16}
OPTIONS: dict[str, Any] = {"members": ["small-cnn"], "tensorboard": False, "console": False}


def stripes(root: Path, factor: int, count: int, *, seed: int = 0) -> Path:
    """Write images of two classes, bright at the left or the right, with 8-bit values times a factor in 16 bits."""
    generator = np.random.default_rng(seed)
    for label, columns in (("left", slice(12)), ("right", slice(12, 24))):
        (root / label).mkdir(parents=True)
        for number in range(count):
            values = generator.integers(20, 60, (24, 24))
            values[:, columns] += 150
            dtype = np.uint8 if factor == 1 else np.uint16
            Image.fromarray((values * factor).astype(dtype)).save(root / label / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("stripes")
    return {name: stripes(root / name, factor, 4, seed=1) for name, factor in FACTORS.items()}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    root = tmp_path_factory.mktemp("run")
    return train(
        stripes(root / "data", 16, 12),
        output=str(root / "run"),
        data={"value_range": "0,4095"},
        epochs=2,
        lr=3e-3,
        **OPTIONS,
    )


@pytest.fixture(scope="module")
def file(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("file") / "model.onnx"
    export_model(run.path, path)
    return path


def test_bundle_and_file_scale_alike(run: Run, file: Path, images: dict[str, Path]) -> None:
    bundle = predict_files(run.path, [images["bits12"]]).predictions
    plain = predict_files(run.path, [images["bits8"]]).predictions
    np.testing.assert_allclose(bundle.values, plain.values, atol=0.02)  # 4095 is not 16 * 255
    exported = predict_files(file, [images["bits12"]]).predictions
    np.testing.assert_allclose(exported.values, bundle.values, atol=1e-4)
    for model in (load_bundle(run.path), OnnxModel.load(file)):
        assert Decoding.of_card(model.card) == Decoding("0,4095")
        np.testing.assert_allclose(model.predict(images["bits12"]).values, bundle.values, atol=1e-4)


def test_evaluation_uses_the_range_of_the_model_or_the_given_one(run: Run, file: Path, images: dict[str, Path]) -> None:
    for model in (run.path, file):
        scores = evaluate(model, images["bits12"]).predictions
        np.testing.assert_allclose(
            scores.values, predict_files(run.path, [images["bits12"]]).predictions.values, atol=1e-4
        )
    black = evaluate(file, images["bits12"], config=DataConfig(value_range="full"))
    assert np.abs(black.predictions.values - scores.values).max() > 0.001
    replaced = predict_files(file, [images["bits12"]], value_range="full").predictions
    np.testing.assert_allclose(replaced.values, black.predictions.values, atol=1e-5)


def test_the_server_scales_uploads_alike(file: Path, images: dict[str, Path]) -> None:
    model, limits = OnnxModel.load(file), ServerLimits()
    path = images["bits12"] / "left" / "0.png"
    upload = Upload("0.png")
    upload.content += path.read_bytes()
    with MemoryLease(MemoryBudget(limits.memory * MEBIBYTE)) as lease:
        pixels = decode_upload(upload, limits, lease, Decoding.of_card(model.card))
    np.testing.assert_allclose(
        model.run(pixels[None]).probabilities, predict_files(file, [path]).predictions.values, atol=1e-5
    )


def test_runs_of_different_ranges_cannot_be_combined(run: Run, tmp_path: Path) -> None:
    other = train(
        run.path.parent / "data",
        output=str(tmp_path / "other"),
        data={"value_range": "full"},
        epochs=1,
        lr=1e-3,
        **OPTIONS,
    )
    with pytest.raises(DataError, match=r"read their images in different ways.*--data\.value-range"):
        combine([run.path, other.path], output=str(tmp_path / "both"), console=False)


def test_skipped_and_unreadable_files_are_listed_without_pytorch(
    file: Path, images: dict[str, Path], tmp_path: Path
) -> None:
    source = images["bits12"] / "left" / "0.png"
    (tmp_path / "IMG_1.HEIC").write_bytes(source.read_bytes())  # a PNG file with another extension
    (tmp_path / "IMG_2.HEIC").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    (tmp_path / "scan.dcm").write_bytes(b"no image")
    (tmp_path / "link.png").symlink_to(source)
    program = (
        "import sys; from tercet.cli.main import main; code = main(sys.argv[1:]);"
        "assert 'torch' not in sys.modules; sys.exit(code)"
    )
    command = [sys.executable, "-c", program, "predict", str(file), str(tmp_path)]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True)
    assert done.returncode == 3, done.stderr
    document = json.loads(done.stdout)
    assert [Path(image["id"]).name for image in document["images"]] == ["IMG_1.HEIC"]
    assert [Path(image["id"]).name for image in document["unreadable"]] == ["IMG_2.HEIC"]
    assert {Path(entry["id"]).name: entry["reason"].split(",")[0] for entry in document["skipped"]} == {
        "scan.dcm": "no image extension",
        "link.png": "a link to a folder",
    }
    text = subprocess.run(command, capture_output=True, text=True).stdout
    assert "scan.dcm: SKIPPED (no image extension)" in text and "IMG_2.HEIC: UNREADABLE" in text
