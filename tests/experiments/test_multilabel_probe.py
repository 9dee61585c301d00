"""Probes of multi-label data: fitted and gradient-trained heads on stored features, thresholds, and errors."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from tests.experiments.test_multilabel import COLUMNS, draw_table
from tests.fixtures.runs import one_core

from tercet.core.errors import ConfigError
from tercet.core.multilabel import MultilabelPredictions
from tercet.ensemble.bundle import load_bundle
from tercet.experiments.train import Run, probe

OPTIONS: dict[str, Any] = {"data": COLUMNS, "threads": 1, "tensorboard": False}
HEADS = ("logistic", "ridge", "linear", "attention")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_table(tmp_path_factory.mktemp("multilabel") / "data", count=100)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    torch.manual_seed(11)
    weights = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    save_file(timm.create_model("test_resnet").state_dict(), weights)
    return {"model": "test_resnet", "weights": str(weights), "input.size": [64]}


@pytest.fixture(scope="module")
def run(images: Path, network: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Run:
    cache = pytest.MonkeyPatch()
    cache.setenv("TERCET_CACHE", str(tmp_path_factory.mktemp("cache")))
    members = [{**network, "name": head, "head": head} for head in HEADS]
    with one_core():
        output = str(tmp_path_factory.mktemp("runs") / "run")
        finished = probe(images, members=members, batch_size=16, output=output, **OPTIONS)
    cache.undo()
    return finished


def test_all_members_share_the_features(run: Run) -> None:
    metrics = json.loads((run.path / "metrics.json").read_text())
    assert metrics["features"] == {"computed": 200, "reused": 200}  # vectors and maps, two members each
    rows = {row["name"]: row for row in metrics["members"]}
    assert rows["logistic"]["steps"] == rows["ridge"]["steps"] == 0 < rows["attention"]["steps"]
    assert all(row["validation"]["map"] > 0.5 and 0 < row["threshold"] < 1 for row in rows.values())


def test_the_bundle_predicts_what_the_run_predicted_from_features(run: Run, images: Path) -> None:
    for head in HEADS:
        stored = MultilabelPredictions.load(run.path / "predictions" / f"{head}-test.npz")
        bundle = load_bundle(run.path / "members" / head / "bundle")
        predicted = bundle.predict([images / name for name in stored.ids])
        assert isinstance(predicted, MultilabelPredictions)
        np.testing.assert_allclose(predicted.scores, stored.scores, atol=5e-3)


@pytest.mark.parametrize("head", ["knn", "prototype"])
def test_heads_of_one_class_are_refused(images: Path, head: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"head {head} of pixels needs one class per image") as caught:
        probe(images, members=["pixels"], head=head, output=str(tmp_path / "run"), **OPTIONS)
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


def test_pixels_are_the_default_of_small_images(images: Path, tmp_path: Path) -> None:
    run = probe(images, output=str(tmp_path / "run"), **OPTIONS)
    (member,) = run.metrics["members"]
    assert member["name"] == "pixels" and member["test"]["o_f1"] > 0.5
