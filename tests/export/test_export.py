"""`tercet export`, `verify` and `benchmark` with ONNX files, and predictions of the file."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from tercet.cli.main import main
from tercet.core.errors import ConfigError, DataError, ModelError, StorageError
from tercet.ensemble.bundle import load_bundle
from tercet.experiments.train import Run
from tercet.export import onnx_assembly, quantization
from tercet.export.export import ExportResult, export_model
from tercet.export.verify import verification_path, verify
from tercet.inference.evaluate import evaluate
from tercet.inference.onnx_file import read_checked, write_checked
from tercet.inference.onnx_model import OnnxModel
from tercet.inference.predict import predict, predict_files

pytestmark = pytest.mark.usefixtures("alone")  # threads that wait for each other on a busy machine take minutes


def test_a_file_is_verified_on_validation_images(onnx_export: ExportResult) -> None:
    result = json.loads(verification_path(onnx_export.path).read_text())
    assert result == onnx_export.verification.to_dict() | {"batches": [1, 2, 7]}
    assert result["passed"] and result["largest_gap"] < 1e-5 and result["agreement"] == 1
    assert result["source"].startswith("15 of 15: validation images of") and result["images"] == 21
    assert result["accuracy_change"] == 0
    assert not list(onnx_export.path.parent.glob("*.failed"))
    assert "21 images" in onnx_export.to_text() and "equal predictions: 100.00%" in onnx_export.to_text()


def test_a_file_is_verified_on_labelled_and_unlabelled_images(
    onnx_export: ExportResult, finished: Run, other_images: Path, tmp_path: Path
) -> None:
    file = shutil.copy(onnx_export.path, tmp_path / "copy.onnx")
    labelled = verify(file, finished.path / "bundle", data=str(other_images))
    assert labelled.passed and labelled.images == 18 + 6 and labelled.accuracy_change == 0
    unlabelled = verify(file, load_bundle(finished.path), images=[other_images / "disc"], max_images=4)
    assert unlabelled.passed and unlabelled.images == 4 + 6 and unlabelled.accuracy_change is None
    assert json.loads(verification_path(file).read_text())["images"] == 10


def test_without_images_of_the_run_synthetic_ones_are_used(
    onnx_export: ExportResult, finished: Run, tmp_path: Path
) -> None:
    file = shutil.copy(onnx_export.path, tmp_path / "copy.onnx")
    result = verify(file, shutil.copytree(finished.path / "bundle", tmp_path / "alone"))
    assert result.passed and result.source.startswith("synthetic images")


def test_a_file_of_another_bundle_is_refused(onnx_export: ExportResult, finished: Run) -> None:
    report = verification_path(onnx_export.path).read_text()
    member = next((finished.path / "members").iterdir()) / "bundle"
    with pytest.raises(ModelError, match="name the bundle that it was exported from"):
        verify(onnx_export.path, member)
    other = load_bundle(finished.path)
    with torch.no_grad():
        next(other.members[0].classifier.parameters()).add_(0.5)
    with pytest.raises(ModelError, match="other weights than the bundle"):
        verify(onnx_export.path, other)
    renamed = replace(other, classes=(*other.classes[:-1], "another"))
    with pytest.raises(ModelError, match=f"'another' for '{other.classes[-1]}'"):
        verify(onnx_export.path, renamed)
    assert verification_path(onnx_export.path).read_text() == report  # the earlier result is kept


def test_predictions_equal_those_of_the_bundle(
    onnx_export: ExportResult, finished: Run, other_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = predict(finished.path, other_images)
    predictions = predict(onnx_export.path, other_images)
    assert (predictions.ids, predictions.classes) == (expected.ids, expected.classes)
    np.testing.assert_allclose(predictions.probabilities, expected.probabilities, atol=1e-5)
    table = tmp_path / "predictions.csv"
    assert main(["predict", str(onnx_export.path), str(other_images), "--csv", str(table), "--json"]) == 0
    images = json.loads(capsys.readouterr().out)["images"]
    assert [image["predicted"] for image in images] == expected.predicted_names
    assert len(table.read_text().splitlines()) == 19


def test_unreadable_images_are_reported(onnx_export: ExportResult, other_images: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_text("none")
    images = [str(other_images / "disc" / "disc-0.png"), str(tmp_path / "bad.png")]
    assert main(["predict", str(onnx_export.path), *images]) == 3
    with pytest.raises(DataError, match="none of the 1 image"):
        predict_files(onnx_export.path, [tmp_path / "bad.png"])


def test_scores_equal_those_of_the_bundle(onnx_export: ExportResult, finished: Run, other_images: Path) -> None:
    expected = evaluate(finished.path, other_images).to_dict()
    result = evaluate(onnx_export.path, other_images).to_dict()
    assert result["subset"] == expected["subset"] and len(result["members"]) == len(expected["members"])
    for row, other in zip([result, *result["members"]], [expected, *expected["members"]], strict=True):
        assert (row["name"], row["accuracy"]) == (other["name"], other["accuracy"])
        assert row["parameters"] == other["parameters"] > 0
        assert row["log_loss"] == pytest.approx(other["log_loss"], abs=1e-4)
    assert main(["evaluate", str(onnx_export.path), str(other_images)]) == 0


def test_training_images_are_not_scored(onnx_export: ExportResult, finished: Run, shapes: Path) -> None:
    assert evaluate(onnx_export.path, shapes).subset == evaluate(finished.path, shapes).subset


@pytest.mark.parametrize(("command", "option"), [("predict", ["--tta", "flip"]), ("evaluate", ["--device", "cuda"])])
def test_augmentation_and_device_of_a_file_are_fixed(
    command: str, option: list[str], onnx_export: ExportResult, other_images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, str(onnx_export.path), str(other_images), *option]) == 2
    assert "exported file" in capsys.readouterr().err


def test_test_time_augmentation_is_exported(finished: Run, tmp_path: Path, other_images: Path) -> None:
    bundle = finished.path / "members" / "wide" / "bundle"
    result = export_model(bundle, tmp_path / "flipped.onnx", tta="flip", class_activation_maps=True)
    assert result.verification.passed
    assert result.cam_members == () and "no class-activation maps" in result.to_text()
    probabilities = predict(result.path, other_images).probabilities
    np.testing.assert_allclose(probabilities, predict(bundle, other_images, tta="flip").probabilities, atol=1e-5)
    assert verify(result.path, bundle, images=[other_images]).passed


def test_existing_files_and_invalid_options_are_refused(
    onnx_export: ExportResult, finished: Run, tmp_path: Path
) -> None:
    with pytest.raises(StorageError, match="exists already"):
        export_model(finished.path, onnx_export.path)
    with pytest.raises(ConfigError, match=r"must end in \.onnx"):
        export_model(finished.path, tmp_path / "model.bin")
    with pytest.raises(ConfigError, match="not both"):
        export_model(finished.path, tmp_path / "a.onnx", data="x", images=["y"])
    with pytest.raises(ConfigError, match="sideways"):
        export_model(finished.path, tmp_path / "a.onnx", tta="sideways")
    assert not list(tmp_path.iterdir())


def test_an_unwritable_path_is_reported_before_the_bundle_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").write_text("")
    (tmp_path / "folder.onnx").mkdir()
    (tmp_path / "a.onnx.failed").mkdir()
    (tmp_path / "b.onnx.verify.json").mkdir()
    for file, message in (
        ("taken/model.onnx", "choose another folder for the file"),
        ("/proc/none/model.onnx", "No such file or directory"),
        ("folder.onnx", "folder.onnx is a folder: name a file in it"),
        ("a.onnx", "a.onnx.failed is a folder"),
        ("b.onnx", "b.onnx.verify.json is a folder"),
        (f"{'n' * 246}.onnx", "too long"),
    ):
        assert main(["export", "no-such-run", file]) == 5
        error = capsys.readouterr().err
        assert message in error and len(error.splitlines()) == 1, file
    assert main(["export", "no-such-run", "new/model.onnx"]) == 4  # this folder could be created
    assert not (tmp_path / "new").exists()


@pytest.mark.slow  # the test of programs proves the same in the default run
def test_a_file_that_differs_is_kept_as_failed(
    finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Swapped members simulate a fault of the exporter."""
    bundle = finished.path / "bundle"
    assert len(load_bundle(bundle).members) > 1
    assemble = onnx_assembly.assemble_onnx
    monkeypatch.setattr(
        onnx_assembly, "assemble_onnx", lambda bundle, graphs, **options: assemble(bundle, graphs[::-1], **options)
    )
    assert main(["export", str(bundle), str(tmp_path / "wrong.onnx")]) == 4
    error = capsys.readouterr().err
    assert "differs from the bundle" in error and "wrong.onnx.failed" in error
    assert [path.name for path in tmp_path.iterdir()] == ["wrong.onnx.failed"]


def test_the_exit_code_of_verify_reports_a_difference(
    onnx_export: ExportResult, finished: Run, tmp_path: Path, other_images: Path
) -> None:
    arguments = ["--bundle", str(finished.path), "--images", str(other_images), "--max-images", "3"]
    same = shutil.copy(onnx_export.path, tmp_path / "same.onnx")
    assert main(["verify", str(same), *arguments]) == 0
    proto = onnx.load(same)
    metadata = {key: value for key, value in read_checked(same.read_bytes(), "x").items() if key != "model_sha256"}
    del proto.metadata_props[:]
    weights = next(tensor for tensor in proto.graph.initializer if tensor.name.startswith("member-1/"))
    weights.raw_data = (np.frombuffer(weights.raw_data, np.float32) * 1.5).tobytes()
    (tmp_path / "changed.onnx").write_bytes(write_checked(proto.SerializeToString(), metadata))
    assert main(["verify", str(tmp_path / "changed.onnx"), *arguments]) == 4


def test_members_are_quantized_if_accuracy_allows(finished: Run, tmp_path: Path, other_images: Path) -> None:
    result = export_model(finished.path, tmp_path / "small.onnx", int8=True, data=str(other_images))
    precisions = {entry["name"]: entry["precision"] for entry in OnnxModel.load(result.path).metadata["members"]}
    assert "int8" in precisions.values()
    assert {name for name, precision in precisions.items() if precision == "fp32"} == set(result.fp32_reasons)
    assert result.verification.passed and result.verification.loss <= 0.005
    assert result.verification.limit is None and result.verification.member_gap > 1e-4
    again = verify(result.path, finished.path, data=str(other_images))
    assert again.limit is None and again.passed


def test_a_member_that_loses_accuracy_stays_in_32_bits(
    finished: Run, tmp_path: Path, other_images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantization, "accuracy_loss", lambda *args: 0.2)
    bundle = finished.path / "members" / "wide" / "bundle"
    result = export_model(bundle, tmp_path / "small.onnx", int8=True, images=[other_images])
    assert result.fp32_reasons == {"wide": "in int8 it loses 20.00% agreement"}
    assert "member 'wide' stays in 32 bits" in result.to_text()


def test_quantization_needs_real_images(finished: Run, tmp_path: Path) -> None:
    alone = shutil.copytree(finished.path / "bundle", tmp_path / "alone")
    with pytest.raises(ConfigError, match="real images"):
        export_model(alone, tmp_path / "small.onnx", int8=True)
    assert not (tmp_path / "small.onnx").exists()


def test_file_and_bundle_are_benchmarked(
    onnx_export: ExportResult, finished: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    models = [str(onnx_export.path), str(finished.path)]
    assert main(["benchmark", *models, "--threads", "1", "--seconds", "0.05", "--batches", "1,3", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["size"] == [20, 20]
    assert [(row["runtime"], row["batch"]) for row in result["rows"]] == [
        ("onnxruntime", 1),
        ("onnxruntime", 3),
        ("PyTorch, eager", 1),
        ("PyTorch, eager", 3),
    ]
    for row in result["rows"]:
        assert 0 < row["p50"] <= row["p95"] and row["answers"] >= 5 and row["threads"] == 1
        assert row["images_per_second"] == pytest.approx(1000 * row["batch"] / row["p50"])
    assert main(["benchmark", str(onnx_export.path), "--seconds", "0.01", "--size", "16,24", "--batches", "1"]) == 0
    assert "images of 16 x 24 pixels" in capsys.readouterr().out


@pytest.mark.parametrize("option", [["--threads", "0"], ["--seconds", "0"], ["--batches", "0"], ["--size", "1,2,3"]])
def test_invalid_benchmark_options_are_refused(option: list[str], onnx_export: ExportResult) -> None:
    assert main(["benchmark", str(onnx_export.path), *option]) == 2


def test_a_submission_needs_a_table(onnx_export: ExportResult, finished: Run, tmp_path: Path) -> None:
    for model in (finished.path, onnx_export.path):
        with pytest.raises(ConfigError, match="--submission needs --csv"):
            predict_files(model, [tmp_path], submission="sample.csv")


# ------------------------------------------------------------------------------------------------ other processes


LIGHT = """
import sys
from tercet.cli.main import main
assert main(["predict", sys.argv[1], sys.argv[2] + "/disc"]) == 0
heavy = ("torch", "timm", "sklearn", "lightning", "scipy", "matplotlib", "onnx")
print([name for name in heavy if name in sys.modules])
assert main(["evaluate", sys.argv[1], sys.argv[2]]) == 0
print([name for name in ("torch", "timm", "lightning", "matplotlib", "onnx") if name in sys.modules])
"""


def test_using_a_file_imports_no_training_library(onnx_export: ExportResult, other_images: Path) -> None:
    command = [sys.executable, "-c", LIGHT, str(onnx_export.path), str(other_images)]
    process = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert [line for line in process.stdout.splitlines() if line.startswith("[")] == ["[]", "[]"]


ALONE = """
import runpy, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("tercet", "torch", "onnx"):
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_the_file_runs_without_tercet(onnx_export: ExportResult, other_images: Path, tmp_path: Path) -> None:
    example = Path(__file__).resolve().parents[2] / "examples" / "run_onnx.py"
    images = [other_images / "disc" / "disc-1.png", tmp_path / "deep.png", tmp_path / "clear.png"]
    grey = np.asarray(Image.open(images[0]).convert("L"))
    Image.fromarray(grey.astype(np.uint16) * 257).save(images[1])  # 16 bits
    palette = Image.open(images[0]).convert("RGB").quantize(8)
    palette.save(images[2], transparency=0)
    command = [sys.executable, "-c", ALONE, str(example), str(onnx_export.path), *map(str, images)]
    process = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    predictions = predict(onnx_export.path, images)
    assert process.stdout.splitlines() == [
        f"{image}: {name} {probabilities.max():.3f}"
        for image, name, probabilities in zip(
            images, predictions.predicted_names, predictions.probabilities, strict=True
        )
    ]
