"""A network of the hub is trained, predicted with and exported like any other; its origin is in the results."""

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
from tests.models.hub import COMMIT, add_to_cache, isolate, repository_files, set_endpoint

import tercet
from tercet.core.files import read_json, slug
from tercet.core.run_folder import RunFolder
from tercet.ensemble.bundle import load_bundle
from tercet.experiments.train import train

NAME = "hf-hub:acme/leaf-net@main"


def test_a_network_of_the_hub(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_endpoint(monkeypatch, "http://127.0.0.1:9")  # nothing listens there
    cache = isolate(tmp_path, monkeypatch)
    files, _ = repository_files("test_resnet", args={"act_layer": "silu"}, input_size=[3, 32, 32], license="mit")
    add_to_cache(cache, "acme/leaf-net", files)
    members = [
        {"model": NAME, "head": "logistic"},
        {"model": "test_resnet", "pretrained": False, "input.size": 32, "epochs": 1},
    ]
    run = train(shapes, members=members, output=str(tmp_path / "run"), threads=1, tensorboard=False, console=False)
    expected = {
        "source": NAME,
        "revision": COMMIT,
        "licence": "mit",
        "sha256": hashlib.sha256(files["model.safetensors"]).hexdigest(),
    }
    assert [member["pretrained"] for member in run.metrics["members"]] == [expected, None]
    bundle = RunFolder.open(run.path).member(NAME).bundle
    assert bundle.parent.name == slug(NAME)
    assert read_json(bundle / "manifest.json")["members"][0]["pretrained"] == expected
    shutil.rmtree(cache)
    images = [np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)]
    probabilities = load_bundle(bundle).predict(images).probabilities
    file = tmp_path / "leaf.onnx"
    tercet.export_model(bundle, file)
    model = tercet.OnnxModel.load(file)
    np.testing.assert_allclose(model.predict(images).probabilities, probabilities, atol=1e-4)
    assert model.metadata["members"][0]["pretrained"] == expected
