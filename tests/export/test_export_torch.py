"""From a finished run to a program of PyTorch that is proved, measured, and asked where there is no Tercet."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.fixtures.runs import draw_folder, one_core

from tercet.cli.main import main
from tercet.core.calibration import Calibration
from tercet.core.errors import ConfigError, ModelError, StorageError
from tercet.ensemble.bundle import load_bundle
from tercet.experiments.train import Run
from tercet.export import export as export_module
from tercet.export.export import ExportResult, export_model
from tercet.export.verify import load_file, verification_path, verify
from tercet.inference.predict import predict

pytestmark = pytest.mark.usefixtures("alone")


@pytest.fixture(scope="module")
def done(finished: Run, tmp_path_factory: pytest.TempPathFactory) -> ExportResult:
    with one_core():
        return export_model(finished.path, tmp_path_factory.mktemp("programs") / "shapes.pt2", format="torch")


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_folder(tmp_path_factory.mktemp("others") / "shapes", count=3, seed=9)


def test_validation_images_of_the_run_are_the_proof(done: ExportResult, finished: Run) -> None:
    proof = done.path.with_name("shapes.pt2.verify.json")
    found = json.loads(proof.read_text())
    assert found == done.verification.to_dict() | {"batches": [1, 2, 7]}
    assert found["passed"] and found["largest_gap"] < 1e-5 and found["agreement"] == 1 and found["limit"] == 1e-4
    assert found["source"].startswith("15 of 15: validation images of") and found["images"] == 21
    assert sorted(path.name for path in done.path.parent.iterdir()) == ["shapes.pt2", proof.name]
    assert done.members == load_file(done.path).member_names and done.kept == {} and done.mapped is None
    assert f"{done.path}: " in done.to_text() and done.to_dict()["maps"] is None


def test_a_users_own_images(
    done: ExportResult, finished: Run, others: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--bundle", str(finished.path), "--images", str(others / "disc"), "--max-images", "2"]
    assert main(["verify", str(done.path), *words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["images"] == 2 + 6 and json.loads(verification_path(done.path).read_text()) == found
    other = load_bundle(finished.path)
    with torch.no_grad():
        next(other.members[0].classifier.parameters()).add_(0.5)
    with pytest.raises(ModelError, match="other weights than the bundle"):
        verify(done.path, other)


def test_a_program_that_says_something_else_is_no_success(
    finished: Run, others: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A temperature comes in while the file is made, as an exporter's fault would."""
    assemble, hot = export_module.assemble_program, Calibration(temperature=3.0, rows=9)
    monkeypatch.setattr(export_module, "assemble_program", lambda bundle: assemble(replace(bundle, calibration=hot)))
    member = finished.path / "members" / "wide" / "bundle"
    words = [str(member), str(tmp_path / "wrong.pt2"), "--format", "torch", "--images", str(others)]
    assert main(["export", *words]) == 4
    told = capsys.readouterr().err
    assert "differs from the bundle" in told and "wrong.pt2.failed" in told
    assert [path.name for path in tmp_path.iterdir()] == ["wrong.pt2.failed"]


def test_the_format_decides_the_name(
    done: ExportResult,
    finished: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(ConfigError, match=r"must end in \.onnx, or say --format torch"):
        export_model(finished.path, tmp_path / "model.pt2")
    with pytest.raises(ConfigError, match=r"must end in \.pt2, or say --format onnx"):
        export_model(finished.path, tmp_path / "model.onnx", format="torch")
    with pytest.raises(ConfigError, match=r"must end in \.pt2$"):
        export_model(finished.path, tmp_path / "model.bin", format="torch")
    with pytest.raises(ConfigError, match="unknown format 'tensorrt'"):
        export_model(finished.path, format="tensorrt")  # type: ignore[arg-type]
    with pytest.raises(StorageError, match="exists already"):
        export_model(finished.path, done.path, format="torch")
    assert not list(tmp_path.iterdir())
    monkeypatch.chdir(tmp_path)
    assert main(["export", str(finished.path / "members" / "wide"), "--format", "torch", "--tta", "flip"]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.pt2", "model.pt2.verify.json"]
    assert load_file("model.pt2").metadata["members"][0]["views"] == "flip"


@pytest.mark.parametrize(
    ("option", "told"),
    [("--int8", "32 bits: leave --int8 out"), ("--class-activation-maps", "omit --class-activation-maps")],
)
def test_what_only_onnx_has(option: str, told: str, finished: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(finished.path), "x.pt2", "--format", "torch", option]) == 2
    assert told in capsys.readouterr().err


def test_speed_is_told(done: ExportResult, finished: Run, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(done.path), str(finished.path), "--threads", "1", "--seconds", "0.05", "--batches", "1", "--json"]
    assert main(["benchmark", *words]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["size"] == [20, 20] and all(row["p50"] > 0 and row["answers"] >= 5 for row in found["rows"])
    assert [row["runtime"] for row in found["rows"]] == ["PyTorch, exported", "PyTorch, eager"]


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
runpy.run_path(sys.argv[0], run_name="__main__") if sys.argv[0].endswith(".py") else runpy.run_module(sys.argv[0])
"""


def test_the_program_answers_without_tercet(done: ExportResult, finished: Run, others: Path, tmp_path: Path) -> None:
    example = Path(__file__).resolve().parents[2] / "examples" / "run_program.py"
    images = [others / "disc" / "disc-1.png", tmp_path / "other.jpg"]
    noise = np.random.default_rng(4).integers(0, 256, (33, 47, 3), dtype=np.uint8)
    Image.fromarray(noise).save(images[1])
    words = [sys.executable, "-c", WITHOUT, "tercet,timm,torchvision,onnx", str(example), str(done.path)]
    answer = subprocess.run([*words, *map(str, images)], capture_output=True, text=True, timeout=100, check=True)
    said = predict(finished.path, images)
    assert answer.stdout.splitlines() == [
        f"{image}: {name} {shares.max():.3f}"
        for image, name, shares in zip(images, said.predicted_names, said.probabilities, strict=True)
    ]


BARE = """
from tercet.cli.main import main
import sys
run, folder = sys.argv[1:]
words = [["export", run, f"{folder}/a.pt2", "--format", "torch"], ["verify", f"{folder}/a.pt2", "--bundle", run]]
words.append(["benchmark", f"{folder}/a.pt2", run, "--seconds", "0.01", "--batches", "1"])
words.append(["export", run, f"{folder}/a.onnx"])
print([main(one) for one in words])
"""


def test_programs_need_no_extra(finished: Run, tmp_path: Path) -> None:
    (tmp_path / "bare.py").write_text(BARE)
    member = str(finished.path / "members" / "wide" / "bundle")
    words = [sys.executable, "-c", WITHOUT, "onnx,onnxruntime,onnxscript", str(tmp_path / "bare.py"), member]
    answer = subprocess.run([*words, str(tmp_path)], capture_output=True, text=True, timeout=100, check=True)
    assert answer.stdout.splitlines()[-1] == "[0, 0, 0, 2]", answer.stderr
    assert "pip install 'tercet[export]'" in answer.stderr
