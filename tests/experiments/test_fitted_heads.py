"""Fitted heads from training to an exported file: bundles, ensembles and verification."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.fixtures.runs import one_core

import tercet
from tercet.config.model import ModelConfig
from tercet.config.training import TrainingConfig
from tercet.core.errors import ConfigError
from tercet.core.history import History
from tercet.core.predictions import Predictions
from tercet.core.run_folder import RunFolder
from tercet.experiments.frozen import FITTERS
from tercet.experiments.train import Run, train
from tercet.models.members import resolve_members
from tercet.models.nearest_neighbors import NearestNeighbors

NAMES = sorted(FITTERS)
MEMBER = {"model": "test_resnet", "pretrained": False, "input.size": 32}
OPTIONS: dict[str, Any] = {"tensorboard": False, "threads": 1, "ensemble_methods": ["average"], "seed": 3}


@pytest.fixture(scope="module")
def run(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    members = [*({**MEMBER, "name": name, "head": name} for name in NAMES), {"model": "pixels", "head": "knn"}]
    with one_core():
        return train(shapes, members=members, output=str(tmp_path_factory.mktemp("runs") / "fitted"), **OPTIONS)


def test_every_member_is_fitted_without_gradient_steps(run: Run) -> None:
    for name in NAMES:
        folder = RunFolder.open(run.path).member(name)
        assert folder.summary()["steps"] == 0 and folder.summary()["best"]["accuracy"] > 0.5
        assert next(iter(History.load(folder.path / "history.jsonl"))).note


def test_the_bundle_predicts_what_the_run_predicted_from_features(run: Run, shapes: Path) -> None:
    bundle = run.bundle()
    paths = [shapes / sample for sample in Predictions.load(RunFolder.open(run.path).predictions("knn", "test")).ids]
    for name, predictions in zip(bundle.member_names, bundle.predict_members(paths), strict=True):
        stored = Predictions.load(RunFolder.open(run.path).predictions(name, "test"))
        np.testing.assert_allclose(predictions.probabilities, stored.probabilities, atol=1e-3)


def test_the_exported_ensemble_is_equal(run: Run, tmp_path: Path) -> None:
    """The export fails unless members and ensemble agree on the validation images."""
    for name in ("model.onnx", "model.pt2"):
        output = str(tmp_path / name)
        tercet.export_model(run.path, output, format="onnx" if name.endswith("onnx") else "torch")
        assert tercet.verify(output, run.path).passed


def test_pixels_take_any_fitted_head_and_no_other(run: Run) -> None:
    (pixels,) = (member for member in run.bundle().members if member.name == "pixels")
    assert isinstance(pixels.classifier.head, NearestNeighbors)
    with pytest.raises(ConfigError, match="head has no effect"):
        resolve_members([{"model": "pixels", "head": "mlp"}], ModelConfig(), TrainingConfig())


def test_a_fitted_head_on_a_recurrent_module_is_rejected() -> None:
    with pytest.raises(ConfigError, match="remove recurrent"):
        resolve_members([{**MEMBER, "head": "ridge", "recurrent": "gru"}], ModelConfig(), TrainingConfig())
