"""Features as files, and the search for similar images, on drawn images with copies."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

import tercet
from tercet.cli.main import main
from tercet.config.model import InputConfig, ModelConfig
from tercet.core.errors import ConfigError, DataError, StorageError
from tercet.experiments.embeddings import Embeddings
from tercet.experiments.train import Run
from tercet.models.build import build

QUIET: dict[str, Any] = {"console": False}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes of four noise images, and an unreadable file."""
    generator = np.random.default_rng(0)
    folder = tmp_path / "photos"
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        for number in range(4):
            pixels = generator.integers(0, 255, (20, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    (folder / "dog" / "broken.png").write_bytes(b"broken")
    return folder


@pytest.fixture
def network(tmp_path: Path) -> dict[str, Any]:
    weights = tmp_path / "weights.safetensors"
    save_file(timm.create_model("test_resnet").state_dict(), weights)
    return {"model": "test_resnet", "weights": str(weights), "input.size": [32]}


def test_features_equal_those_of_the_network(photos: Path, network: dict[str, Any]) -> None:
    embeddings = tercet.embed(photos, network=[network], **QUIET)
    assert list(embeddings.labels) == ["cat"] * 4 + ["dog"] * 4 and embeddings.exit_code == 3
    assert [image.id for image in embeddings.bad] == ["dog/broken.png"]
    config = ModelConfig(weights=network["weights"], input=InputConfig(size=(32,)))
    classifier = build("test_resnet", num_classes=2, config=config).eval()
    images = [np.asarray(Image.open(path)) for path in embeddings.paths]
    with torch.no_grad():
        expected = classifier.embed(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255).numpy()
    np.testing.assert_allclose(embeddings.features, expected, atol=1e-3)


def test_weights_and_input_are_also_options(photos: Path, network: dict[str, Any]) -> None:
    embeddings = tercet.embed(photos, network=[network], **QUIET)
    options: dict[str, Any] = {"network": "test_resnet", "weights": network["weights"], "input": {"size": [32]}}
    again = tercet.embed(photos, **options, **QUIET)
    np.testing.assert_array_equal(again.features, embeddings.features)
    assert (again.computed, again.reused) == (0, 8)


@pytest.mark.parametrize("suffix", [".npz", ".csv"])
def test_files_have_ids_labels_paths_and_features(photos: Path, tmp_path: Path, suffix: str) -> None:
    embeddings, file = tercet.embed(photos, **QUIET), tmp_path / f"features{suffix}"
    assert embeddings.features.shape == (8, 20 * 24 * 3)  # the pixels: no weights apply to small images
    embeddings.save(file)
    if suffix == ".npz":
        with np.load(file, allow_pickle=False) as arrays:
            assert arrays["ids"].tolist() == list(embeddings.ids)
            assert arrays["labels"].tolist() == list(embeddings.labels)
            assert arrays["paths"].tolist() == [str(photos / name) for name in embeddings.ids]
            np.testing.assert_array_equal(arrays["features"], embeddings.features)
    else:
        header, *rows = csv.reader(file.read_text().splitlines())
        assert header[:4] == ["id", "label", "path", "feature_0"]
        assert [row[1] for row in rows] == list(embeddings.labels)
        np.testing.assert_array_equal(np.array([row[3:] for row in rows], dtype=np.float32), embeddings.features)


def test_parquet_has_the_columns_of_the_frame(photos: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    embeddings = tercet.embed(photos, **QUIET)
    embeddings.save(tmp_path / "features.parquet")
    table = parquet.read_table(tmp_path / "features.parquet")
    assert table.column_names == list(embeddings.to_frame().columns)
    assert table.column("id").to_pylist() == list(embeddings.ids)
    np.testing.assert_array_equal(table.column("feature_5").to_numpy(), embeddings.features[:, 5])


def test_the_command_writes_the_file_and_lists_unreadable_images(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["embed", str(photos), str(tmp_path / "features.npz"), "--json"]) == 3
    document = json.loads(capsys.readouterr().out)
    assert document["images"] == 8 and document["unreadable"][0]["id"] == "dog/broken.png"
    assert np.load(tmp_path / "features.npz")["features"].shape == (8, document["features"])


@pytest.mark.parametrize(
    ("file", "error", "message"),
    [
        ("features.txt", ConfigError, "choose another suffix"),
        ("photos/features.csv", ConfigError, "is inside the data"),
        ("photos.npz", StorageError, "is a folder"),
    ],
)
def test_files_are_checked_first(photos: Path, file: str, error: type[Exception], message: str, capsys: Any) -> None:
    (photos.parent / "photos.npz").mkdir()
    assert main(["embed", str(photos), str(photos.parent / file)]) == error("").exit_code  # type: ignore[attr-defined]
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"network": "small-cnn"}, "random weights"),
        ({"network": [{"model": "test_resnet", "pretrained": False}]}, "random weights"),
        ({"network": "pixels", "model": "runs/photos-1"}, "model has its own networks"),
        ({"network": ["pixels", "pixels"]}, "one network"),
    ],
)
def test_networks_without_trained_weights_are_rejected(photos: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tercet.embed(photos, **options, **QUIET)


def test_features_of_a_run_are_those_of_its_members(finished: Run, shapes: Path) -> None:
    embeddings = tercet.embed(shapes, model=finished.path, **QUIET)
    bundle = finished.bundle()
    assert list(embeddings.networks) == list(bundle.member_names)
    paths, start = [Path(path) for path in embeddings.paths[:3]], 0
    for member in bundle.members:
        width = embeddings.networks[member.name]
        for row, path in enumerate(paths):
            image = torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1)[None] / 255
            with torch.no_grad():
                expected = member.classifier.embed(image)[0].numpy()
            np.testing.assert_allclose(embeddings.features[row, start : start + width], expected, atol=2e-3)
        start += width


def test_the_copy_of_an_image_is_nearest(photos: Path, tmp_path: Path, network: dict[str, Any]) -> None:
    outside = tmp_path / "outside.png"
    shutil.copy(photos / "cat" / "2.png", outside)
    shutil.copy(photos / "cat" / "2.png", photos / "dog" / "copy.png")
    for options in ({}, {"network": [network]}):
        result = tercet.search(photos, [outside, photos / "cat" / "2.png"], top=3, **options, **QUIET)
        copies = {str(photos / "cat" / "2.png"), str(photos / "dog" / "copy.png")}
        first, second = result.nearest.values()
        assert {image.path for image in first[:2]} == copies
        assert [image.similarity for image in first[:2]] == pytest.approx([1, 1], abs=1e-6)
        assert first[2].similarity < 1 and len(first) == 3
        assert (second[0].path, second[0].label) == (str(photos / "dog" / "copy.png"), "dog")
        assert str(photos / "cat" / "2.png") not in [image.path for image in second]


def test_search_reads_folders_without_classes_and_arrays(photos: Path) -> None:
    flat = tercet.search(photos / "cat", photos / "dog", **QUIET)
    assert len(flat.nearest) == 4 and {image.label for images in flat.nearest.values() for image in images} == {""}
    assert [image.id for image in flat.bad] == [str(photos / "dog" / "broken.png")]
    pixels = np.asarray(Image.open(photos / "dog" / "3.png"))
    (nearest,) = tercet.search(photos, [pixels], top=1, **QUIET).nearest.values()
    assert nearest[0].path == str(photos / "dog" / "3.png")


def test_the_search_command_has_a_table_and_a_document(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["search", str(photos), str(photos / "cat" / "0.png"), "--top", "2"]
    assert main(words) == 3
    assert "similarity" in capsys.readouterr().out
    assert main([*words, "--json"]) == 3
    (image,) = json.loads(capsys.readouterr().out)["images"]
    assert image["id"] == str(photos / "cat" / "0.png") and len(image["nearest"]) == 2


def test_unreadable_searched_images_alone_are_an_error(photos: Path) -> None:
    with pytest.raises(DataError, match=r"broken\.png"):
        tercet.search(photos, photos / "dog" / "broken.png", **QUIET)


def test_similarities_of_several_networks_are_averaged() -> None:
    features = np.array([[3, 4, 1], [4, 3, 2]], dtype=np.float32)
    embeddings = Embeddings(("a", "b"), ("", ""), ("a", "b"), features, {"first": 2, "second": 1})
    unit = embeddings.unit()
    assert unit[0] @ unit[1] == pytest.approx((0.96 + 1) / 2)
