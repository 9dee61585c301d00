"""`tercet audit` on generated data: findings, output files, exit codes, errors."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import timm
from PIL import Image
from safetensors.torch import save_file
from tests.fixtures.runs import draw

from tercet.audit.label_issues import held_out_predictions
from tercet.audit.run import audit_data
from tercet.cli.main import main
from tercet.core.errors import ConfigError, DataError, ModelError, StorageError
from tercet.core.predictions import Predictions
from tercet.core.run_folder import MemberFolder, RunFolder, RunRecord
from tercet.experiments.train import Run


def draw_classes(root: Path, count: int = 8, kinds: tuple[str, ...] = ("disc", "square")) -> Path:
    """Draw larger images than the training fixtures, so that no two are similar."""
    for label, kind in enumerate(kinds):
        (root / kind).mkdir(parents=True)
        for index in range(count):
            draw(kind, np.random.default_rng(100 * label + index), size=48).save(root / kind / f"{index}.png")
    return root


def noise(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((64, 48), Image.Resampling.BICUBIC).save(path)
    return path


@pytest.fixture
def leaking(tmp_path: Path) -> Path:
    """Split folders with one test file that is a copy of a train file, and one unreadable file."""
    root = tmp_path / "pets"
    for split, first in (("train", 0), ("test", 500)):
        for number, label in enumerate(("cat", "<script>alert(1)</script>")):
            for index in range(6):
                noise(root / split / label / f"{index}.png", first + 100 * number + index)
    shutil.copy(root / "train" / "cat" / "1.png", root / "test" / "cat" / "copy.png")
    (root / "train" / "cat" / "broken.png").write_bytes(b"\x89PNG broken")
    return root


def test_findings_and_exit_code(leaking: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["audit", str(leaking), "--folds", "2"]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert "! leakage" in text and "! unreadable" in text and "train/cat/broken.png" in text
    assert "test images with a duplicate in train: 1 (test/cat/copy.png = train/cat/1.png); splits: " in text
    assert main([*arguments, "--fail-on", "leakage,unreadable"]) == 3
    assert "failed on unreadable, leakage" in capsys.readouterr().out
    assert main([*arguments, "--fail-on", "imbalance,missing-classes"]) == 0


def test_output_folder_has_json_and_page(leaking: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "look"
    assert main(["audit", str(leaking), "--folds", "2", "--output", str(output), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert json.loads((output / "audit.json").read_text()) == printed
    assert printed["source"] == str(leaking) and printed["failed"] == []
    assert [kind["kind"] for kind in printed["findings"]] == ["unreadable", "duplicates", "leakage"]
    page = (output / "audit.html").read_text()
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page and "<script" not in page
    assert page.count("<img") == 1 + 2 + 12 and "test/cat/copy.png" in page  # chart, pair, samples
    assert {path.name for path in (output / "figures").iterdir()} == {"classes.png", "classes.svg"}
    with pytest.raises(StorageError, match=r"audit\.json exists already"):
        audit_data(leaking, output=str(output))


def test_python_api(leaking: Path) -> None:
    report = audit_data(leaking, fail_on=["leakage"], max_hash_distance=None)
    assert report.exit_code == 3 and [finding.kind for finding in report.failed] == ["leakage"]
    assert report.path is None and not list(leaking.parent.glob("*.html"))
    assert "near duplicates were not searched" not in report.to_text()  # there is an identical pair to report


# ------------------------------------------------------------------------------------------ bad input


def test_single_class_is_audited(tmp_path: Path) -> None:
    report = audit_data(draw_classes(tmp_path / "one", kinds=("disc",)))
    assert report.result.classes == ("disc",) and report.result.images == 8


def test_training_errors_are_reported(tmp_path: Path) -> None:
    root = draw_classes(tmp_path / "one", kinds=("disc",))
    (root / "disc" / "bad.png").write_bytes(b"no image")
    text = audit_data(root, data={"max_bad_fraction": 0}).to_text()
    assert "! tercet train would fail on this data: one has one class ('disc'): need at least 2 classes" in text
    assert "! tercet train would fail on this data: 1 of 9 images cannot be read, more than" in text


def test_invalid_output_fails_before_any_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = draw_classes(tmp_path / "shapes", count=2)
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(root)
    for output, code, message in (
        (root, 2, "inside the data"),
        (root / "look" / "deep", 2, "inside the data"),
        (tmp_path / "link" / "look", 2, "inside the data"),
        (tmp_path / "file", 5, "cannot write to"),
        (tmp_path / "file" / "deep", 5, "cannot write to"),
        ("/proc/no/folder", 5, "cannot write to"),
    ):
        before = sorted(tmp_path.rglob("*"))
        assert main(["audit", str(root), "--output", str(output)]) == code
        text = capsys.readouterr().err
        assert message in text and "inspecting" not in text
        assert sorted(tmp_path.rglob("*")) == before


def test_unusable_data_are_rejected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    noise(tmp_path / "loose" / "a.png", 0)
    (tmp_path / "unlabelled.csv").write_text("image,label\nloose/a.png,\n")
    broken = tmp_path / "broken" / "cat"
    broken.mkdir(parents=True)
    (broken / "a.png").write_bytes(b"no image")
    for name, message in (
        ("empty", "holds no images"),
        ("loose", "none in a class folder"),
        ("unlabelled.csv", "no row has a label"),
        ("broken", "none of 1 images can be read, such as cat/a.png"),
        ("nowhere", "no data at"),
    ):
        assert main(["audit", str(tmp_path / name)]) == 3
        assert message in capsys.readouterr().err


def test_many_unreadable_images_are_reported(tmp_path: Path) -> None:
    root = draw_classes(tmp_path / "shapes", count=4)
    for index in range(6):
        (root / "disc" / f"bad-{index}.png").write_bytes(b"no image")
    report = audit_data(root)
    assert len(report.result.unreadable) == 6 and report.result.readable == 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fail_on": ["typos"]}, "fail_on"),
        ({"max_hash_distance": -1}, "max_hash_distance"),
        ({"data": {"group_from": "("}}, "regular expression"),
        ({"feature_network": ["no-such-network"]}, "no-such-network"),
    ],
)
def test_invalid_options_are_rejected(options: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        audit_data(draw_classes(tmp_path / "shapes", count=2), **options)


# ------------------------------------------------------------------------------------------ groups and features


def test_groups_prevent_leakage(tmp_path: Path) -> None:
    for index, label in enumerate(("cat", "dog")):
        for plant in range(10):
            first = noise(tmp_path / "data" / label / f"p{plant}-0.png", 100 * index + plant)
            shutil.copy(first, first.with_name(f"p{plant}-1.png"))
    assert not audit_data(tmp_path / "data").result.leaks  # copies are kept together
    ungrouped = audit_data(tmp_path / "data", data={"keep_copies_together": False})
    assert ungrouped.result.leaks and len(ungrouped.result.duplicates_by("pixels")) == 20
    grouped = audit_data(tmp_path / "data", data={"group_from": "(p[0-9]+)-"})
    assert not grouped.result.leaks and len(grouped.result.duplicates_by("pixels")) == 20


def test_network_features_detect_duplicates(tmp_path: Path) -> None:
    files = [noise(tmp_path / "data" / "ab"[seed % 2] / f"{seed}.png", seed) for seed in range(6)]
    Image.open(files[3]).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(files[3].with_name("mirrored.png"))
    save_file(timm.create_model("test_resnet").state_dict(), tmp_path / "weights.safetensors")
    network = {"model": "test_resnet", "weights": str(tmp_path / "weights.safetensors"), "input.size": [32]}
    report = audit_data(
        tmp_path / "data", max_hash_distance=None, feature_network=[network], similarity=0.9999, device="cpu", folds=2
    )
    (duplicate,) = report.result.duplicates
    assert (duplicate.method, duplicate.orientation) == ("network", "flipped horizontally")
    assert duplicate.ids == ("b/3.png", "b/mirrored.png")


@pytest.mark.parametrize(
    "network",
    [
        "small-cnn",
        {"model": "test_resnet", "pretrained": False},
        {"model": "test_resnet", "weights": "w.safetensors", "recurrent": "lstm"},
    ],
)
def test_random_weights_fail_before_any_work(network: object, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--feature-network .* would compare .* random"):
        audit_data(tmp_path / "nowhere", feature_network=[network])


# ------------------------------------------------------------------------------------------ suspicious labels


def test_run_detects_a_wrong_label(finished: Run, shapes: Path, tmp_path: Path) -> None:
    predictions = Predictions.load(RunFolder(finished.path).predictions(finished.metrics["chosen"], "validation"))
    certain = max(range(len(predictions)), key=lambda row: predictions.probabilities[row, predictions.labels[row]])
    wrong = next(name for index, name in enumerate(predictions.classes) if index != predictions.labels[certain])
    copied = shutil.copytree(shapes, tmp_path / "shapes")
    lines = []
    for file in sorted(copied.rglob("*.png")):
        name = file.relative_to(copied).as_posix()
        lines.append(f"{name},{wrong if name == predictions.ids[certain] else name.split('/')[0]}")
    (copied / "labels.csv").write_text("\n".join(["image,label", *lines]))
    report = audit_data(copied / "labels.csv", run=str(finished.path), fail_on=["labels"])
    check = report.result.labels
    assert check is not None and check.checked == len(predictions) and "validation" in check.predictions
    assert predictions.ids[certain] in {issue.id for issue in check.issues}
    assert report.exit_code == 3 and "likely label errors" in report.to_text()


def make_predictions(ids: tuple[str, ...], probability: float) -> Predictions:
    probabilities = np.tile([probability, 1 - probability], (len(ids), 1))
    return Predictions(ids, ("a", "b"), probabilities, np.zeros(len(ids), dtype=np.int64))


METRICS = {
    "data": {},
    "protocol": {},
    "members": [{"name": "one"}, {"name": "two"}],
    "ensembles": [],
    "chosen": "average",
}


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    folder.begin(RunRecord("train", "photos", {}))
    folder.metrics.write_text(json.dumps(METRICS))
    make_predictions(("v",), 0.9).save(folder.predictions("average", "validation"))
    return folder


def member_folds(run: RunFolder, name: str, probability: float, order: tuple[int, int] = (0, 1)) -> list[MemberFolder]:
    folds = [run.member(name).fold(index) for index in order]
    for fold, sample in zip(folds, "xy", strict=True):
        make_predictions((sample,), probability).save(fold.predictions)
    return folds


def test_preference_of_held_out_predictions(run: RunFolder) -> None:
    predictions, description = held_out_predictions(run.path)
    assert predictions.ids == ("v",) and description == "its validation images, predicted by average"
    member_folds(run, "one", 0.8)
    assert held_out_predictions(run.path)[0].ids == ("v",)  # the second member has none
    member_folds(run, "two", 0.6, order=(1, 0))
    predictions, description = held_out_predictions(run.path)
    assert predictions.ids == ("x", "y") and "out-of-fold" in description
    assert predictions.probabilities[:, 0] == pytest.approx(0.7)
    make_predictions(("p", "q"), 0.9).save(run.predictions("chosen", "pooled"))
    predictions, description = held_out_predictions(run.path)
    assert predictions.ids == ("p", "q") and "held it out" in description


def test_runs_without_held_out_predictions_are_rejected(run: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="is not a run folder"):
        held_out_predictions(tmp_path)
    run.predictions("average", "validation").unlink()
    with pytest.raises(ModelError, match="no held-out predictions"):
        held_out_predictions(run.path)
    run.metrics.write_text(json.dumps(METRICS | {"members": [{"name": "one", "rule": "threshold"}]}))
    with pytest.raises(DataError, match="multi-label run"):
        held_out_predictions(run.path)
    run.write_record(RunRecord("tune", "photos", {}))
    run.metrics.write_text(json.dumps({"data": {}, "monitor": "accuracy", "best": {}, "trials": []}))
    with pytest.raises(ModelError, match="run of tercet tune: give a run of tercet train"):
        held_out_predictions(run.path)
    run.metrics.unlink()
    with pytest.raises(StorageError, match=r"is not finished: .* --resume"):
        held_out_predictions(run.path)


def test_multilabel_data(tmp_path: Path) -> None:
    names = [noise(tmp_path / f"{seed}.png", seed).name for seed in range(12)]
    lines = [f'{name},"{("a", "a,b", "b")[index % 3]}"' for index, name in enumerate(names)]
    (tmp_path / "sets.csv").write_text("\n".join(["image,labels", *lines]))
    options = {"data": {"label_columns": ["labels"], "label_separator": ","}, "folds": 2}
    report = audit_data(tmp_path / "sets.csv", **options)
    assert "labels           no conflicting labels of identical images; predictions are not used" in report.to_text()
    with pytest.raises(ConfigError, match="multi-label data cannot be checked"):
        audit_data(tmp_path / "sets.csv", run=str(tmp_path / "no-run"), **options)
    shutil.copy(tmp_path / names[0], tmp_path / names[1])
    assert (
        "! labels           identical images with different labels: 1"
        in audit_data(tmp_path / "sets.csv", **options).to_text()
    )


def test_run_on_other_data_is_rejected(finished: Run, tmp_path: Path) -> None:
    other = draw_classes(tmp_path / "other", kinds=("disc", "square", "stroke"))
    with pytest.raises(DataError, match="no predictions of labelled images of other"):
        audit_data(other, run=str(finished.path))
