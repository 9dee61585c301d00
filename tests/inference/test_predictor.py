"""Bundles, ONNX files and torch programs are predictors: the same functions take each of them, as a path or loaded."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tercet.cli.main import main
from tercet.core.errors import ConfigError, ModelError
from tercet.ensemble.bundle import load_bundle
from tercet.experiments.train import Run
from tercet.export.benchmark import benchmark
from tercet.export.export import export_model
from tercet.export.verify import verification_path, verify
from tercet.inference.evaluate import evaluate
from tercet.inference.predict import predict, predict_files
from tercet.inference.predictor import Predictor, open_predictor
from tests.fixtures.runs import draw_folder, one_core

pytestmark = pytest.mark.usefixtures("alone")
KINDS = ("bundle", "onnx", "torch")


@pytest.fixture(scope="module")
def models(finished: Run, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder, bundle = tmp_path_factory.mktemp("models"), finished.path / "bundle"
    with one_core():
        onnx = export_model(bundle, folder / "shapes.onnx").path
        program = export_model(bundle, folder / "shapes.pt2", format="torch").path
    return {"bundle": bundle, "onnx": onnx, "torch": program}


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return images that were not used in training."""
    return draw_folder(tmp_path_factory.mktemp("other") / "data", count=4, seed=77)


@pytest.mark.parametrize("kind", KINDS)
def test_all_kinds_predict_and_evaluate_alike(kind: str, models: dict[str, Path], other: Path) -> None:
    expected, scores = predict(models["bundle"], other), evaluate(models["bundle"], other).to_dict()
    for model in (models[kind], open_predictor(models[kind])):
        predictions = predict(model, other)
        assert predictions.predicted_names == expected.predicted_names and predictions.ids == expected.ids
        assert np.abs(predictions.probabilities - expected.probabilities).max() < 1e-5
        assert [image["predicted"] for image in predict_files(model, [other]).to_dict()["images"]] == (
            expected.predicted_names
        )
        result = evaluate(model, other).to_dict()
        assert result.keys() == scores.keys() and result["subset"] == scores["subset"]
        rows = zip([result, *result["members"]], [scores, *scores["members"]], strict=True)
        assert all(row[key] == same[key] for row, same in rows for key in ("name", "kind", "accuracy", "parameters"))


def test_training_images_are_detected_by_all_kinds(models: dict[str, Path], shapes: Path) -> None:
    assert len({evaluate(model, shapes).subset for model in models.values()}) == 1


def test_commands_take_all_kinds(
    models: dict[str, Path], other: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tables, accuracies = [], set()
    for kind, model in models.items():
        table = tmp_path / f"{kind}.csv"
        assert main(["predict", str(model), str(other), "--csv", str(table), "--batch-size", "5"]) == 0
        tables.append([line.split(",")[:2] for line in table.read_text().splitlines()])
        capsys.readouterr()
        assert main(["evaluate", str(model), str(other), "--json"]) == 0
        accuracies.add(json.loads(capsys.readouterr().out)["accuracy"])
    assert tables[0] == tables[1] == tables[2] and len(accuracies) == 1


@pytest.mark.parametrize("kind", ["onnx", "torch"])
def test_options_that_a_file_fixes_are_refused(kind: str, models: dict[str, Path], other: Path) -> None:
    for function in (predict, evaluate):
        with pytest.raises(ConfigError, match="exported file is fixed"):
            function(models[kind], other, tta="flip")
        with pytest.raises(ConfigError, match="exported file runs on the CPU"):
            function(models[kind], other, device="cuda")


def test_loaded_models_are_verified_and_timed(models: dict[str, Path], other: Path) -> None:
    bundle = load_bundle(models["bundle"])
    loaded = [open_predictor(models[kind]) for kind in ("onnx", "torch")]
    for model in loaded:
        assert verify(model, bundle, images=[other]).passed  # type: ignore[arg-type]
        assert verification_path(model.path).exists()  # type: ignore[attr-defined]
    rows = benchmark([*loaded, bundle, models["onnx"]], threads=1, seconds=0.01, batches=(2, 1)).rows
    names = [str(models["onnx"]), str(models["torch"]), bundle.name, str(models["onnx"])]
    assert [(row.model, row.batch) for row in rows] == [(name, batch) for name in names for batch in (1, 2)]
    with pytest.raises(ConfigError, match="not an exported file"):
        verify(models["bundle"], bundle)


@pytest.mark.parametrize(
    ("model", "message"), [(np.zeros((2, 3)), r"array of shape \(2, 3\)"), (None, "NoneType"), ({}, "dict")]
)
def test_other_types_are_refused_by_name(model: Any, message: str, other: Path) -> None:
    for function in (predict, evaluate):
        with pytest.raises(ConfigError, match=f"expected a bundle, .* got {message}"):
            function(model, other)


def test_a_path_without_a_model_is_refused(tmp_path: Path) -> None:
    for name in ("absent", "absent.onnx", "absent.pt2"):
        with pytest.raises(ModelError, match="absent"):
            predict(tmp_path / name, np.zeros((5, 5), np.uint8))


def test_a_class_of_the_caller_is_a_predictor(models: dict[str, Path], other: Path) -> None:
    class Confident:
        """A bundle whose predictions are certain."""

        def __init__(self, model: Predictor) -> None:
            self.model = model

        def __getattr__(self, name: str) -> Any:
            return getattr(self.model, name)

        def predict_with_members(self, source: Any, **options: Any) -> Any:
            combined, members = self.model.predict_with_members(source, **options)
            certain = np.eye(len(combined.classes))[combined.predicted]
            return type(combined)(combined.ids, combined.classes, certain, combined.labels), members

    model = open_predictor(models["bundle"])
    result, expected = evaluate(Confident(model), other), evaluate(model, other)  # type: ignore[arg-type]
    assert result.rows[0].scores.accuracy == expected.rows[0].scores.accuracy
    assert set(np.unique(result.predictions.probabilities)) == {0.0, 1.0}
