"""Ensemble methods of the caller's: from registration to the exported file."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import tercet
from tercet.core.errors import ConfigError, ModelError
from tercet.core.predictions import Floats, Predictions
from tercet.core.registry import PARTS
from tercet.core.run_folder import RunFolder
from tercet.ensemble.bundle import load_bundle
from tercet.ensemble.combine import EnsembleMethod
from tercet.experiments.ensemble import combine
from tercet.experiments.plan import Plan
from tercet.experiments.train import Run
from tercet.export.export import export_model

pytestmark = pytest.mark.usefixtures("alone")


def by_accuracy(members: list[Predictions], monitor: str) -> Floats:
    """Weight the members by their accuracy on labelled rows."""
    return np.array([(member.predicted == member.labels)[member.known].mean() for member in members])


def geometric(stack: Floats) -> Floats:
    product = np.maximum(stack, 1e-9).prod(axis=1)
    return product / product.sum(axis=1, keepdims=True)


class Geometric(torch.nn.Module):
    def forward(self, probabilities: torch.Tensor) -> torch.Tensor:
        product = probabilities.clamp(min=1e-9).prod(1)
        return product / product.sum(1, keepdim=True)


METHODS = {
    "by-accuracy": EnsembleMethod(fit=by_accuracy),
    "weighted-vote": EnsembleMethod("vote", fit=by_accuracy),
    "geometric": EnsembleMethod("function", function=geometric, module=Geometric),
    "numpy-only": EnsembleMethod("function", function=geometric),
}


def fuse(finished: Run, method: str, output: Path) -> Run:
    with PARTS["combiner"].scoped({method: METHODS[method]}):
        result = combine([finished.path], method=method, output=str(output), calibration={"temperature": "none"})
    assert isinstance(result, Run)
    return result


@pytest.mark.parametrize("method", ["by-accuracy", "weighted-vote"])
def test_methods_that_return_weights_work_from_training_to_files(finished: Run, tmp_path: Path, method: str) -> None:
    run = fuse(finished, method, tmp_path / "run")
    (row,) = run.metrics["ensembles"]
    assert (row["name"], row["fitted_on"], run.metrics["chosen"]) == (method, "validation rows, cross-fitted", method)
    bundle = load_bundle(run.path / "bundle")  # not registered any more
    assert bundle.name == method and len(set(bundle.combiner.weights)) > 1
    stored = Predictions.load(run.path / "predictions" / f"{method}-test.npz")
    assert stored.probabilities.shape == (len(stored), 3)
    for format in ("onnx", "torch"):
        exported = export_model(bundle, tmp_path / f"model.{'onnx' if format == 'onnx' else 'pt2'}", format=format)
        assert exported.verification.passed


@pytest.mark.slow
def test_functions_work_where_they_are_registered(finished: Run, tmp_path: Path) -> None:
    run = fuse(finished, "geometric", tmp_path / "run")
    with pytest.raises(ModelError, match="unknown ensemble method 'geometric'"):
        load_bundle(run.path / "bundle")
    with PARTS["combiner"].scoped(METHODS):
        bundle = load_bundle(run.path / "bundle")
        assert export_model(bundle, tmp_path / "model.onnx").verification.passed
        assert export_model(bundle, tmp_path / "model.pt2", format="torch").verification.passed
        other = load_bundle(fuse(finished, "numpy-only", tmp_path / "other").path / "bundle")
        for format, name in (("onnx", "other.onnx"), ("torch", "other.pt2")):
            with pytest.raises(ModelError, match="'numpy-only' cannot be exported: it is a NumPy function") as error:
                export_model(other, tmp_path / name, format=format)
            assert "\n" not in str(error.value)


def test_prediction_files_are_combined_by_methods_of_the_caller() -> None:
    labels = np.arange(60) % 3
    logits = [np.random.default_rng(skill).normal(size=(60, 3)) + skill * np.eye(3)[labels] for skill in (1, 3)]
    ids = [str(row) for row in range(60)]
    members = [Predictions.from_logits(values, ids=ids, classes=tuple("abc"), labels=labels) for values in logits]
    with PARTS["combiner"].scoped({"mine": EnsembleMethod(fit=by_accuracy)}):
        result = tercet.combine(members, method="mine")
    with pytest.raises(ConfigError, match="already registered"):
        tercet.register("combiner", "average", EnsembleMethod())
    np.testing.assert_allclose(result.weights, by_accuracy(members, "") / by_accuracy(members, "").sum())
    with pytest.raises(ConfigError, match="did you mean 'average'"):
        tercet.combine(members, method="averag")


@pytest.mark.parametrize(
    ("weights", "message"), [([1.0], "expected \\(2,\\)"), ([np.nan, 1.0], "finite"), ([-1.0, 2.0], "not negative")]
)
def test_invalid_weights_of_a_method_are_one_line(weights: list[float], message: str) -> None:
    members = [Predictions.of(np.eye(3), labels=[0, 1, 2])] * 2
    method = EnsembleMethod(fit=lambda members, monitor: weights)
    with PARTS["combiner"].scoped({"mine": method}), pytest.raises(ConfigError, match=message) as error:
        tercet.combine(members, method="mine")
    assert "\n" not in str(error.value)


def test_a_plan_with_an_unknown_method_is_an_error(finished: Run, tmp_path: Path) -> None:
    shutil.copytree(finished.path, tmp_path / "run")
    path = tmp_path / "run" / "plan.json"
    path.write_text(path.read_text().replace('"vote"', '"telepathy"'))
    with pytest.raises(ConfigError, match="telepathy"):
        Plan.load(RunFolder(tmp_path / "run"))
