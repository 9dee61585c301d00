"""Frozen backbones: features are computed once, and take the place of the images in trainings and predictions."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tercet.core.errors import ConfigError
from tercet.core.predictions import Predictions
from tercet.core.run_folder import RunFolder
from tercet.experiments import member as member_training
from tercet.experiments.crossval import crossval
from tercet.experiments.train import Run, probe, train

MEMBER = {"model": "test_resnet", "pretrained": False, "input.size": 32}
LINEAR = {**MEMBER, "name": "linear", "head": "linear", "freeze": "backbone", "epochs": 2, "lr": 1e-2}
LOGISTIC = {**MEMBER, "name": "logistic", "head": "logistic"}
OPTIONS: dict[str, Any] = {"tensorboard": False, "threads": 1, "ensemble_methods": ["average"], "seed": 3}


def features_of(run: Run, name: str) -> Any:
    return RunFolder.open(run.path).member(name).summary().get("features")


@pytest.fixture(scope="module")
def run(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    output = str(tmp_path_factory.mktemp("runs") / "frozen")
    return train(shapes, members=[LOGISTIC, LINEAR], output=output, **OPTIONS)


def test_a_logistic_head_is_fitted_without_gradient_steps(run: Run) -> None:
    summary = RunFolder.open(run.path).member("logistic").summary()
    assert summary["steps"] == 0 and summary["trainable"] < summary["parameters"]
    assert summary["best"]["accuracy"] > 0.5


def test_the_bundle_predicts_what_the_run_predicted_from_features(run: Run, shapes: Path) -> None:
    for name in ("logistic", "linear"):
        stored = Predictions.load(RunFolder.open(run.path).predictions(name, "test"))
        paths = [shapes / sample for sample in stored.ids]
        predictions = run.bundle().predict_members(paths)[["logistic", "linear"].index(name)]
        np.testing.assert_allclose(predictions.probabilities, stored.probabilities, atol=1e-3)


def test_trainings_with_the_same_backbone_share_features(shapes: Path, alone: None, tmp_path: Path) -> None:
    options = {**OPTIONS, "seed": 77}  # the initial weights of the only member follow from it
    first = train(shapes, members=[LOGISTIC], output=str(tmp_path / "first"), **options)
    assert features_of(first, "logistic") == {"computed": 120, "reused": 0}
    second = train(shapes, members=[LINEAR], output=str(tmp_path / "second"), **options)
    assert features_of(second, "linear") == {"computed": 0, "reused": 120}


def test_frozen_training_equals_training_on_images(
    shapes: Path, alone: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = []
    for name in ("features", "images"):
        if name == "images":
            monkeypatch.setattr(member_training, "frozen_backbone", lambda *arguments: None)
        result = train(shapes, members=[LINEAR], output=str(tmp_path / name), **OPTIONS)
        assert (features_of(result, "linear") is None) == (name == "images")
        file = next((result.path / "bundle").rglob("*.safetensors"))
        weights.append(load_file(file)["head.classes.weight"])
    torch.testing.assert_close(*weights, atol=2e-3, rtol=1e-2)


@pytest.mark.parametrize("changed", [{"augment": "flip"}, {"freeze": "none"}, {"mixup": 0.2}])
def test_features_are_not_used_where_they_differ_by_epoch(
    shapes: Path, alone: None, tmp_path: Path, changed: dict[str, Any]
) -> None:
    result = train(shapes, members=[{**LINEAR, "epochs": 1, **changed}], output=str(tmp_path / "run"), **OPTIONS)
    assert features_of(result, "linear") is None


@pytest.mark.parametrize("option", [{"augment": "flip"}, {"freeze": "none"}, {"epochs": 3}])
def test_options_without_effect_on_a_fitted_head_are_rejected(
    shapes: Path, tmp_path: Path, option: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError):
        train(shapes, members=[{**LOGISTIC, **option}], output=str(tmp_path / "run"), **OPTIONS)
    assert not (tmp_path / "run").exists()


def test_pixels_are_a_baseline_without_weights(shapes: Path, alone: None, tmp_path: Path) -> None:
    result = train(shapes, members=["pixels"], output=str(tmp_path / "run"), **OPTIONS)
    assert result.metrics["members"][0]["validation"]["accuracy"] > 0.4
    assert result.bundle().predict(next(shapes.glob("disc/*"))).probabilities.shape == (1, 3)


def test_folds_of_a_logistic_head(shapes: Path, alone: None, tmp_path: Path) -> None:
    result = crossval(shapes, members=[LOGISTIC], folds=3, output=str(tmp_path / "folds"), **OPTIONS)
    assert result.metrics["pooled"]


def test_probe_is_a_training_with_a_logistic_head(shapes: Path, alone: None, tmp_path: Path) -> None:
    run = probe(shapes, output=str(tmp_path / "run"), **OPTIONS)
    assert [member["name"] for member in run.metrics["members"]] == ["pixels"]
    other = probe(shapes, members=[MEMBER], output=str(tmp_path / "other"), **OPTIONS)
    assert RunFolder.open(other.path).member("test_resnet").summary()["steps"] == 0
    with pytest.raises(ConfigError, match="--head has no effect"):
        probe(shapes, members=["pixels"], head="mlp", output=str(tmp_path / "third"), **OPTIONS)
    assert not (tmp_path / "third").exists()
