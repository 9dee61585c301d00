"""`tercet export --format torch`: a verified program that runs without Tercet and without the ONNX libraries."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tercet.cli.main import main
from tercet.core.calibration import Calibration
from tercet.core.errors import ConfigError, ModelError, StorageError
from tercet.ensemble.bundle import load_bundle
from tercet.experiments.train import Run
from tercet.export import export as export_module
from tercet.export.export import ExportResult, export_model
from tercet.export.verify import verification_path, verify
from tercet.inference.predict import predict
from tercet.inference.predictor import open_predictor

pytestmark = pytest.mark.usefixtures("alone")


def test_a_program_is_verified_on_validation_images(torch_export: ExportResult) -> None:
    report = torch_export.path.with_name("shapes.pt2.verify.json")
    result = torch_export.verification
    assert json.loads(report.read_text()) == result.to_dict() | {"batches": [1, 2, 7]}
    assert result.passed and result.largest_gap < 1e-5 and result.agreement == 1 and result.limit == 1e-4
    assert result.source.startswith("15 of 15: validation images of") and result.images == 21
    assert sorted(path.name for path in torch_export.path.parent.iterdir()) == ["shapes.pt2", report.name]
    assert torch_export.members == open_predictor(torch_export.path).member_names
    assert torch_export.fp32_reasons == {} and torch_export.cam_members is None
    assert f"{torch_export.path}: " in torch_export.to_text() and torch_export.to_dict()["maps"] is None


def test_a_program_is_verified_on_other_images(
    torch_export: ExportResult, finished: Run, other_images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = verification_path(torch_export.path)
    before = report.read_text()
    arguments = ["--bundle", str(finished.path), "--images", str(other_images / "disc"), "--max-images", "2"]
    assert main(["verify", str(torch_export.path), *arguments, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["images"] == 2 + 6 and json.loads(report.read_text()) == result
    report.write_text(before)
    other = load_bundle(finished.path)
    with torch.no_grad():
        next(other.members[0].classifier.parameters()).add_(0.5)
    with pytest.raises(ModelError, match="other weights than the bundle"):
        verify(torch_export.path, other)


def test_a_program_that_differs_is_kept_as_failed(
    finished: Run, other_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """A temperature that the bundle does not have simulates a fault of the exporter."""
    assemble, calibration = export_module.assemble_program, Calibration(temperature=3.0, rows=9)
    monkeypatch.setattr(
        export_module, "assemble_program", lambda bundle: assemble(replace(bundle, calibration=calibration))
    )
    member = finished.path / "members" / "wide" / "bundle"
    arguments = [str(member), str(tmp_path / "wrong.pt2"), "--format", "torch", "--images", str(other_images / "disc")]
    assert main(["export", *arguments]) == 4
    error = capsys.readouterr().err
    assert "differs from the bundle" in error and "wrong.pt2.failed" in error
    assert [path.name for path in tmp_path.iterdir()] == ["wrong.pt2.failed"]


def test_the_suffix_must_match_the_format(torch_export: ExportResult, finished: Run, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"must end in \.onnx, or use --format torch"):
        export_model(finished.path, tmp_path / "model.pt2")
    with pytest.raises(ConfigError, match=r"must end in \.pt2$"):
        export_model(finished.path, tmp_path / "model.bin", format="torch")
    with pytest.raises(ConfigError, match="unknown format 'tensorrt'"):
        export_model(finished.path, format="tensorrt")  # type: ignore[arg-type]
    with pytest.raises(StorageError, match="exists already"):
        export_model(finished.path, torch_export.path, format="torch")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_default_name_and_augmentation_are_those_of_the_options(
    finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", str(finished.path / "members" / "wide"), "--format", "torch", "--tta", "flip"]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.pt2", "model.pt2.verify.json"]
    assert open_predictor("model.pt2").metadata["members"][0]["views"] == "flip"


@pytest.mark.parametrize("option", ["--int8", "--class-activation-maps"])
def test_options_of_onnx_files_are_refused(option: str, finished: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(finished.path), "x.pt2", "--format", "torch", option]) == 2
    assert f"omit {option}" in capsys.readouterr().err


def test_programs_are_benchmarked(
    torch_export: ExportResult, finished: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    models = [str(torch_export.path), str(finished.path)]
    assert main(["benchmark", *models, "--threads", "1", "--seconds", "0.05", "--batches", "1", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["size"] == [20, 20] and all(row["p50"] > 0 and row["answers"] >= 5 for row in result["rows"])
    assert [row["runtime"] for row in result["rows"]] == ["PyTorch, exported", "PyTorch, eager"]


WITHOUT = """
import runpy, sys
hidden = sys.argv[1].split(",")
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in hidden:
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Refuse())
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name in hidden else find(name, package)
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_the_program_runs_without_tercet(
    torch_export: ExportResult, finished: Run, other_images: Path, tmp_path: Path
) -> None:
    example = Path(__file__).resolve().parents[2] / "examples" / "run_program.py"
    images = [other_images / "disc" / "disc-1.png", tmp_path / "other.jpg"]
    noise = np.random.default_rng(4).integers(0, 256, (33, 47, 3), dtype=np.uint8)
    Image.fromarray(noise).save(images[1])
    command = [sys.executable, "-c", WITHOUT, "tercet,timm,torchvision,onnx", str(example), str(torch_export.path)]
    process = subprocess.run([*command, *map(str, images)], capture_output=True, text=True, timeout=100, check=True)
    predictions = predict(finished.path, images)
    assert process.stdout.splitlines() == [
        f"{image}: {name} {probabilities.max():.3f}"
        for image, name, probabilities in zip(
            images, predictions.predicted_names, predictions.probabilities, strict=True
        )
    ]


COMMANDS = """
from tercet.cli.main import main
import sys
bundle, image, folder = sys.argv[1:]
program = f"{folder}/a.pt2"
commands = [
    ["predict", bundle, image],
    ["export", bundle, program, "--format", "torch"],
    ["verify", program, "--bundle", bundle],
    ["benchmark", program, bundle, "--seconds", "0.01", "--batches", "1"],
    ["export", bundle, f"{folder}/a.onnx"],
]
print([main(command) for command in commands])
"""


@pytest.mark.slow
def test_only_onnx_files_need_the_onnx_libraries(finished: Run, other_images: Path, tmp_path: Path) -> None:
    (tmp_path / "commands.py").write_text(COMMANDS)
    member, image = finished.path / "members" / "wide" / "bundle", other_images / "disc" / "disc-1.png"
    command = [sys.executable, "-c", WITHOUT, "onnx,onnxruntime,onnxscript", str(tmp_path / "commands.py")]
    command += [str(member), str(image), str(tmp_path)]
    process = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True)
    assert process.stdout.splitlines()[-1] == "[0, 0, 0, 0, 2]", process.stderr
    assert "pip install 'tercet[export]'" in process.stderr
