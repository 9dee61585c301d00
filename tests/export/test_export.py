"""From a finished run to a file that is proved, predicts and is measured as its bundle is."""

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
from tests.fixtures.runs import draw_folder, one_core

from tercet.cli.main import main
from tercet.core.errors import ConfigError, DataError, ModelError, StorageError
from tercet.ensemble.bundle import load_bundle
from tercet.experiments.train import Run
from tercet.export import export as onnx_export
from tercet.export.export import ExportResult, export_model
from tercet.export.verify import verification_path, verify
from tercet.inference.evaluate_file import evaluate_file
from tercet.inference.onnx_file import read_checked, write_checked
from tercet.inference.onnx_model import OnnxModel
from tercet.inference.predict import evaluate, predict, predict_files
from tercet.inference.predict_file import predict_with_file

pytestmark = pytest.mark.usefixtures("alone")  # threads that wait for each other on a busy machine take minutes


@pytest.fixture(scope="module")
def done(finished: Run, tmp_path_factory: pytest.TempPathFactory) -> ExportResult:
    with one_core():
        return export_model(finished.path, tmp_path_factory.mktemp("exported") / "shapes.onnx")


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_folder(tmp_path_factory.mktemp("others") / "shapes", count=6, seed=9)


def test_validation_images_of_the_run_are_the_proof(done: ExportResult, finished: Run) -> None:
    found = json.loads(done.path.with_name(f"{done.path.name}.verify.json").read_text())
    assert found == done.verification.to_dict() | {"batches": [1, 2, 7]}
    assert found["passed"] and found["largest_gap"] < 1e-5 and found["agreement"] == 1
    assert found["source"].startswith("15 of 15: validation images of") and found["images"] == 21
    assert found["accuracy_bundle"] == found["accuracy_file"] > 0.5
    assert not list(done.path.parent.glob("*.failed"))
    assert "21 images" in done.to_text() and "same answer: 100.00%" in done.to_text()


def test_a_users_own_images(done: ExportResult, finished: Run, others: Path) -> None:
    labelled = verify(done.path, finished.path / "bundle", data=str(others))
    assert labelled.passed and labelled.images == 18 + 6 and labelled.accuracy_file is not None
    loose = verify(done.path, load_bundle(finished.path), images=[others / "disc"], max_images=4)
    assert loose.passed and loose.images == 4 + 6 and loose.accuracy_file is None
    assert json.loads(done.path.with_name(f"{done.path.name}.verify.json").read_text())["images"] == 10


def test_without_any_images_drawn_ones_are_asked_about(done: ExportResult, finished: Run, tmp_path: Path) -> None:
    alone = shutil.copytree(finished.path / "bundle", tmp_path / "alone")
    found = verify(done.path, alone)
    assert found.passed and found.source.startswith("no image of the run is there")


def test_another_bundle_is_not_the_one(done: ExportResult, finished: Run) -> None:
    member = next((finished.path / "members").iterdir()) / "bundle"
    with pytest.raises(ModelError, match="name the bundle that it was exported from"):
        verify(done.path, member)
    proof = verification_path(done.path).read_text()
    other = load_bundle(finished.path)
    with torch.no_grad():
        next(other.members[0].classifier.parameters()).add_(0.5)
    with pytest.raises(ModelError, match="other weights than the bundle"):
        verify(done.path, other)
    renamed = replace(other, classes=(*other.classes[:-1], "another"))
    with pytest.raises(ModelError, match=f"'another' for '{other.classes[-1]}'"):
        verify(done.path, renamed)
    assert verification_path(done.path).read_text() == proof  # what was proved before still stands


def test_predicting_is_the_same_by_every_road(
    done: ExportResult, finished: Run, others: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = predict(finished.path, others)
    said = predict(done.path, others)
    assert (said.ids, said.classes) == (expected.ids, expected.classes)
    np.testing.assert_allclose(said.probabilities, expected.probabilities, atol=1e-5)
    table = tmp_path / "answers.csv"
    assert main(["predict", str(done.path), str(others), "--csv", str(table), "--json"]) == 0
    answers = json.loads(capsys.readouterr().out)["images"]
    assert [one["predicted"] for one in answers] == expected.predicted_names
    assert len(table.read_text().splitlines()) == 19


def test_a_bad_file_among_images_is_named(done: ExportResult, others: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_text("none")
    words = ["predict", str(done.path), str(others / "disc" / "disc-0.png"), str(tmp_path / "bad.png")]
    assert main(words) == 3
    with pytest.raises(DataError, match="none of the 1 image"):
        predict_with_file(done.path, [tmp_path / "bad.png"])


def test_evaluating_gives_the_same_scores(done: ExportResult, finished: Run, others: Path) -> None:
    by_bundle, by_file = evaluate(finished.path, others), evaluate_file(done.path, others)
    theirs, ours = by_bundle.to_dict(), by_file.to_dict()
    assert ours["subset"] == theirs["subset"] and len(ours["members"]) == len(theirs["members"])
    for mine, other in zip([ours, *ours["members"]], [theirs, *theirs["members"]], strict=True):
        assert (mine["name"], mine["accuracy"]) == (other["name"], other["accuracy"])
        assert mine["parameters"] == other["parameters"] > 0
        assert mine["log_loss"] == pytest.approx(other["log_loss"], abs=1e-4)
    assert main(["evaluate", str(done.path), str(others)]) == 0


def test_the_images_it_was_trained_on_stay_unscored(done: ExportResult, finished: Run, shapes: Path) -> None:
    assert evaluate_file(done.path, shapes).subset == evaluate(finished.path, shapes).subset


@pytest.mark.parametrize("option", [["--tta", "flip"], ["--device", "cuda"]])
@pytest.mark.parametrize("verb", ["predict", "evaluate"])
def test_what_is_fixed_in_a_file_cannot_be_changed(
    verb: str, option: list[str], done: ExportResult, others: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([verb, str(done.path), str(others), *option]) == 2
    assert "an exported file" in capsys.readouterr().err


def test_views_on_request(finished: Run, tmp_path: Path, others: Path) -> None:
    bundle = finished.path / "members" / "wide" / "bundle"
    made = export_model(bundle, tmp_path / "flipped.onnx", tta="flip", class_activation_maps=True)
    assert made.verification.passed
    assert made.mapped == () and "no class-activation maps" in made.to_text()
    said = predict(made.path, others)
    np.testing.assert_allclose(said.probabilities, predict(bundle, others, tta="flip").probabilities, atol=1e-5)
    assert verify(made.path, bundle, images=[others]).passed


def test_nothing_is_lost(done: ExportResult, finished: Run, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="exists already"):
        export_model(finished.path, done.path)
    with pytest.raises(ConfigError, match=r"must end in \.onnx"):
        export_model(finished.path, tmp_path / "model.bin")
    with pytest.raises(ConfigError, match="not both"):
        export_model(finished.path, tmp_path / "a.onnx", data="x", images=["y"])
    with pytest.raises(ConfigError, match="unknown view"):
        export_model(finished.path, tmp_path / "a.onnx", tta="sideways")
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_told_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """There is no such run either, which would be noticed as the first thing of the work."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").write_text("")
    (tmp_path / "folder.onnx").mkdir()
    (tmp_path / "a.onnx.failed").mkdir()
    (tmp_path / "b.onnx.verify.json").mkdir()
    for file, message in (
        ("taken/model.onnx", "cannot write to taken: taken is a file; choose another folder for the file"),
        ("taken/deeper/model.onnx", "cannot write to taken/deeper: Not a directory"),
        ("/proc/none/model.onnx", "cannot write to /proc/none: No such file or directory"),
        ("folder.onnx", "folder.onnx is a folder: name a file in it"),
        ("a.onnx", "a.onnx.failed is in the way"),
        ("b.onnx", "b.onnx.verify.json is in the way"),
        (f"{'n' * 246}.onnx", "is too long a name"),
    ):
        assert main(["export", "no-such-run", file]) == 5
        told = capsys.readouterr().err
        assert message in told and len(told.splitlines()) == 1, file
    assert main(["export", "no-such-run", "new/model.onnx"]) == 4  # a folder that can be made is none of these
    assert not (tmp_path / "new").exists()


def test_a_file_that_says_something_else_is_no_success(
    finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The members' order is turned around while the file is made, as an exporter's fault would."""
    assemble = onnx_export.assemble
    monkeypatch.setattr(onnx_export, "assemble", lambda bundle, graphs, **more: assemble(bundle, graphs[::-1], **more))
    bundle = finished.path / "bundle"
    if len(load_bundle(bundle).members) == 1:
        pytest.skip("the run chose a single member")
    assert main(["export", str(bundle), str(tmp_path / "wrong.onnx")]) == 4
    told = capsys.readouterr().err
    assert "differs from the bundle" in told and "wrong.onnx.failed" in told
    assert [path.name for path in tmp_path.iterdir()] == ["wrong.onnx.failed"]


def test_verify_tells_a_difference_by_its_exit_code(
    done: ExportResult, finished: Run, tmp_path: Path, others: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--bundle", str(finished.path), "--images", str(others), "--max-images", "3"]
    assert main(["verify", str(done.path), *words]) == 0
    proto = onnx.load(done.path)
    document = {key: value for key, value in read_checked(done.path.read_bytes(), "x").items() if key != "model_sha256"}
    del proto.metadata_props[:]
    (weights,) = [one for one in proto.graph.initializer if one.name.endswith("member-1/" + one.name.split("/")[-1])][
        :1
    ]
    weights.raw_data = (np.frombuffer(weights.raw_data, np.float32) * 1.5).tobytes()
    (tmp_path / "changed.onnx").write_bytes(write_checked(proto.SerializeToString(), document))
    assert main(["verify", str(tmp_path / "changed.onnx"), *words]) == 4
    capsys.readouterr()


def test_8_bits_are_used_where_answers_bear_them(finished: Run, tmp_path: Path, others: Path, shapes: Path) -> None:
    made = export_model(finished.path, tmp_path / "small.onnx", int8=True, data=str(others))
    told = {entry["name"]: entry["precision"] for entry in OnnxModel.load(made.path).metadata["members"]}
    assert "int8" in told.values()
    assert {name for name, precision in told.items() if precision == "fp32"} == set(made.kept)
    assert made.verification.passed and made.verification.loss <= 0.005
    assert made.verification.limit is None and made.verification.member_gap > 1e-4
    again = verify(made.path, finished.path, data=str(others))
    assert again.limit is None and again.passed


def test_a_member_that_does_not_bear_8_bits_is_named(
    finished: Run, tmp_path: Path, others: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([0.2, 0.0, 0.0])
    monkeypatch.setattr(onnx_export, "loss_of", lambda *given: next(losses))
    made = export_model(finished.path, tmp_path / "small.onnx", int8=True, images=[others])
    first = made.members[0]
    assert (
        made.kept[first] == "in 8 it loses 20.00% agreement" and f"member '{first}' stays in 32 bits" in made.to_text()
    )


def test_8_bits_need_real_images(finished: Run, tmp_path: Path) -> None:
    alone = shutil.copytree(finished.path / "bundle", tmp_path / "alone")
    with pytest.raises(ConfigError, match="real images"):
        export_model(alone, tmp_path / "small.onnx", int8=True)
    assert not (tmp_path / "small.onnx").exists()


def test_speed_is_told_of_both_roads(done: ExportResult, finished: Run, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(done.path), str(finished.path), "--threads", "1", "--seconds", "0.05", "--batches", "1,3"]
    assert main(["benchmark", *words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["size"] == [20, 20]
    assert [(row["runtime"], row["batch"]) for row in found["rows"]] == [
        ("onnxruntime", 1),
        ("onnxruntime", 3),
        ("PyTorch, eager", 1),
        ("PyTorch, eager", 3),
    ]
    for row in found["rows"]:
        assert 0 < row["p50"] <= row["p95"] and row["answers"] >= 5 and row["threads"] == 1
        assert row["images_per_second"] == pytest.approx(1000 * row["batch"] / row["p50"])
    assert main(["benchmark", str(done.path), "--seconds", "0.01", "--size", "16,24", "--batches", "1"]) == 0
    assert "images of 16 x 24 pixels" in capsys.readouterr().out


@pytest.mark.parametrize("option", [["--threads", "0"], ["--seconds", "0"], ["--batches", "0"], ["--size", "1,2,3"]])
def test_speeds_that_cannot_be_measured(option: list[str], done: ExportResult) -> None:
    assert main(["benchmark", str(done.path), *option]) == 2


LIGHT = """
import sys
from tercet.cli.main import main
assert main(["predict", sys.argv[1], sys.argv[2]]) == 0
heavy = ("torch", "timm", "sklearn", "lightning", "scipy", "matplotlib", "onnx")
print([name for name in heavy if name in sys.modules])
"""


def test_predicting_with_a_file_loads_no_training_library(done: ExportResult, tmp_path: Path) -> None:
    Image.new("RGB", (9, 9)).save(tmp_path / "one.jpg")
    words = [sys.executable, "-c", LIGHT, str(done.path), str(tmp_path / "one.jpg")]
    answer = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    assert answer.stdout.splitlines()[-1] == "[]"


def test_a_submission_needs_a_place(done: ExportResult, finished: Run, tmp_path: Path) -> None:
    for work, bundle in ((predict_files, finished.path), (predict_with_file, done.path)):
        with pytest.raises(ConfigError, match="--submission needs --csv"):
            work(bundle, [tmp_path], submission="sample.csv")


BARE = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("onnx", "onnxruntime", "onnxscript"):
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Refuse())
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name.startswith("onnx") else find(name, package)
from tercet.cli.main import main
bundle, file, image = sys.argv[1:]
print([main(words) for words in (["predict", bundle, image], ["predict", file, image], ["export", bundle])])
"""


def test_without_the_extra_bundles_predict_and_files_say_what_is_missing(
    done: ExportResult, finished: Run, others: Path
) -> None:
    image = str(others / "disc" / "disc-1.png")
    words = [sys.executable, "-c", BARE, str(finished.path), str(done.path), image]
    answer = subprocess.run(words, capture_output=True, text=True, timeout=100, check=True)
    assert answer.stdout.splitlines()[-1] == "[0, 2, 2]", answer.stderr
    assert answer.stderr.count("pip install 'tercet[export]'") == 2


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


def test_the_file_answers_without_tercet(done: ExportResult, others: Path, tmp_path: Path) -> None:
    example = Path(__file__).resolve().parents[2] / "examples" / "run_onnx.py"
    images = [others / "disc" / "disc-1.png", tmp_path / "deep.png", tmp_path / "clear.png"]
    grey = np.asarray(Image.open(images[0]).convert("L"))
    Image.fromarray(grey.astype(np.uint16) * 257).save(images[1])
    clear = Image.open(images[0]).convert("RGB").quantize(8)
    clear.save(images[2], transparency=0)
    words = [sys.executable, "-c", ALONE, str(example), str(done.path), *map(str, images)]
    answer = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    said = predict(done.path, images)
    assert answer.stdout.splitlines() == [
        f"{image}: {name} {shares.max():.3f}"
        for image, name, shares in zip(images, said.predicted_names, said.probabilities, strict=True)
    ]
