"""`tercet audit` on generated data: what it names, what it writes, how it ends, and what it refuses."""

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
from tercet.core.run_folder import MemberFolder, RunFolder
from tercet.experiments.train import Run


def draw_classes(root: Path, count: int = 8, kinds: tuple[str, ...] = ("disc", "square")) -> Path:
    """Larger and busier pictures than those of the trainings, so that no two are alike."""
    for place, kind in enumerate(kinds):
        (root / kind).mkdir(parents=True)
        for index in range(count):
            draw(kind, np.random.default_rng(100 * place + index), size=48).save(root / kind / f"{index}.png")
    return root


def noise(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((64, 48), Image.Resampling.BICUBIC).save(path)
    return path


@pytest.fixture
def leaking(tmp_path: Path) -> Path:
    """Split folders in which one file of test is a copy of one of train, and one is unreadable."""
    root = tmp_path / "pets"
    for split, first in (("train", 0), ("test", 500)):
        for place, label in enumerate(("cat", "<script>alert(1)</script>")):
            for index in range(6):
                noise(root / split / label / f"{index}.png", first + 100 * place + index)
    shutil.copy(root / "train" / "cat" / "1.png", root / "test" / "cat" / "copy.png")
    (root / "train" / "cat" / "broken.png").write_bytes(b"\x89PNG broken")
    return root


def test_findings_are_told_and_end_with_the_code_asked_for(
    leaking: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["audit", str(leaking), "--folds", "2"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "! leakage" in said and "! unreadable" in said and "train/cat/broken.png" in said
    assert "1 images of test have a copy in train: test/cat/copy.png = train/cat/1.png (in the given splits; " in said
    assert main([*words, "--fail-on", "leakage,unreadable"]) == 3
    assert "failed on unreadable, leakage" in capsys.readouterr().out
    assert main([*words, "--fail-on", "imbalance,missing-classes"]) == 0


def test_the_folder_holds_a_document_and_a_page(
    leaking: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "look"
    assert main(["audit", str(leaking), "--folds", "2", "--output", str(output), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert json.loads((output / "audit.json").read_text()) == printed
    assert printed["source"] == str(leaking) and printed["failed"] == []
    assert [kind["kind"] for kind in printed["findings"]] == ["unreadable", "duplicates", "leakage"]
    page = (output / "audit.html").read_text()
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page and "<script" not in page
    assert page.count("<img") == 1 + 2 + 12 and "test/cat/copy.png" in page  # a figure, a pair, samples
    assert {path.name for path in (output / "figures").iterdir()} == {"classes.png", "classes.svg"}
    with pytest.raises(StorageError, match=r"audit\.json exists already"):
        audit_data(leaking, output=str(output))


def test_python_returns_values(leaking: Path) -> None:
    done = audit_data(leaking, fail_on=["leakage"], max_hash_distance=None)
    assert done.exit_code == 3 and [finding.kind for finding in done.failed] == ["leakage"]
    assert done.path is None and not list(leaking.parent.glob("*.html"))
    assert "near duplicates were not looked for" not in done.to_text()  # there is an equal pair to tell of


# ------------------------------------------------------------------------------------------ bad input


def test_one_class_is_no_reason_to_refuse(tmp_path: Path) -> None:
    done = audit_data(draw_classes(tmp_path / "one", kinds=("disc",)))
    assert done.found.classes == ("disc",) and done.found.images == 8


def test_what_a_training_would_refuse_is_told(tmp_path: Path) -> None:
    root = draw_classes(tmp_path / "one", kinds=("disc",))
    (root / "disc" / "bad.png").write_bytes(b"no image")
    said = audit_data(root).to_text()
    assert "! tercet train would refuse this data: one has one class ('disc'): need at least 2 classes" in said
    assert "! tercet train would refuse this data: 1 of 9 images cannot be read, more than" in said


def test_an_output_that_cannot_be_is_refused_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = draw_classes(tmp_path / "shapes", count=2)
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(root)
    for output, code, message in (
        (root, 2, "lies in the data"),
        (root / "look" / "deep", 2, "lies in the data"),
        (tmp_path / "link" / "look", 2, "lies in the data"),
        (tmp_path / "file", 5, "cannot write to"),
        (tmp_path / "file" / "deep", 5, "cannot write to"),
        ("/proc/no/folder", 5, "cannot write to"),
    ):
        before = sorted(tmp_path.rglob("*"))
        assert main(["audit", str(root), "--output", str(output)]) == code
        said = capsys.readouterr().err
        assert message in said and "looking at" not in said
        assert sorted(tmp_path.rglob("*")) == before


def test_data_that_cannot_be_audited(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    noise(tmp_path / "loose" / "a.png", 0)
    (tmp_path / "unlabelled.csv").write_text("image,label\nloose/a.png,\n")
    broken = tmp_path / "broken" / "cat"
    broken.mkdir(parents=True)
    (broken / "a.png").write_bytes(b"no image")
    for place, message in (
        ("empty", "holds no images"),
        ("loose", "none in a class folder"),
        ("unlabelled.csv", "no row has a label"),
        ("broken", "none of 1 images can be read, such as cat/a.png"),
        ("nowhere", "no data at"),
    ):
        assert main(["audit", str(tmp_path / place)]) == 3
        assert message in capsys.readouterr().err


def test_more_unreadable_images_than_a_training_accepts_are_told(tmp_path: Path) -> None:
    root = draw_classes(tmp_path / "shapes", count=4)
    for index in range(6):
        (root / "disc" / f"bad-{index}.png").write_bytes(b"no image")
    done = audit_data(root)
    assert len(done.found.unreadable) == 6 and done.found.readable == 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fail_on": ["typos"]}, "fail_on"),
        ({"max_hash_distance": -1}, "max_hash_distance"),
        ({"data": {"group_from": "("}}, "regular expression"),
        ({"feature_network": ["no-such-network"]}, "no-such-network"),
    ],
)
def test_options_that_cannot_be(options: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        audit_data(draw_classes(tmp_path / "shapes", count=2), **options)


# ------------------------------------------------------------------------------------------ groups and features


def test_groups_keep_copies_whole(tmp_path: Path) -> None:
    for place, label in enumerate(("cat", "dog")):
        for plant in range(10):
            first = noise(tmp_path / "data" / label / f"p{plant}-0.png", 100 * place + plant)
            shutil.copy(first, first.with_name(f"p{plant}-1.png"))
    torn = audit_data(tmp_path / "data")
    assert torn.found.leaks and len(torn.found.copies_by("pixels")) == 20
    whole = audit_data(tmp_path / "data", data={"group_from": "(p[0-9]+)-"})
    assert not whole.found.leaks and len(whole.found.copies_by("pixels")) == 20


def test_a_networks_features_tell_copies_too(tmp_path: Path) -> None:
    files = [noise(tmp_path / "data" / "ab"[seed % 2] / f"{seed}.png", seed) for seed in range(6)]
    Image.open(files[3]).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(files[3].with_name("mirrored.png"))
    save_file(timm.create_model("test_resnet").state_dict(), tmp_path / "weights.safetensors")
    network = {"model": "test_resnet", "weights": str(tmp_path / "weights.safetensors"), "input.size": [32]}
    done = audit_data(
        tmp_path / "data", max_hash_distance=None, feature_network=[network], similarity=0.9999, device="cpu", folds=2
    )
    (copy,) = done.found.copies
    assert copy.how == "network" and copy.ids == ("b/3.png", "b/mirrored.png") and copy.orientation == "mirrored"


@pytest.mark.parametrize(
    "network",
    [
        "small-cnn",
        {"model": "test_resnet", "pretrained": False},
        {"model": "test_resnet", "weights": "w.safetensors", "recurrent": "lstm"},
    ],
)
def test_features_of_random_weights_are_refused_before_any_work(network: object, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--feature-network .* would compare .* random"):
        audit_data(tmp_path / "nowhere", feature_network=[network])


# ------------------------------------------------------------------------------------------ suspicious labels


def test_a_finished_run_tells_a_wrong_label(finished: Run, shapes: Path, tmp_path: Path) -> None:
    said = Predictions.load(RunFolder(finished.path).predictions(finished.metrics["chosen"], "validation"))
    sure = max(range(len(said)), key=lambda row: said.probabilities[row, said.labels[row]])
    wrong = next(name for index, name in enumerate(said.classes) if index != said.labels[sure])
    copied = shutil.copytree(shapes, tmp_path / "shapes")
    lines = []
    for file in sorted(copied.rglob("*.png")):
        name = file.relative_to(copied).as_posix()
        lines.append(f"{name},{wrong if name == said.ids[sure] else name.split('/')[0]}")
    (copied / "labels.csv").write_text("\n".join(["image,label", *lines]))
    done = audit_data(copied / "labels.csv", run=str(finished.path), fail_on=["labels"])
    check = done.found.labels
    assert check is not None and check.checked == len(said) and "validation" in check.predictions
    assert said.ids[sure] in {issue.id for issue in check.issues}
    assert done.exit_code == 3 and "labels are suspicious" in done.to_text()


def some_predictions(ids: tuple[str, ...], sure: float) -> Predictions:
    return Predictions(ids, ("a", "b"), np.tile([sure, 1 - sure], (len(ids), 1)), np.zeros(len(ids), dtype=np.int64))


METRICS = {
    "kind": "train",
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
    folder.config.write_text("{}")
    folder.metrics.write_text(json.dumps(METRICS))
    some_predictions(("v",), 0.9).save(folder.predictions("average", "validation"))
    return folder


def member_folds(run: RunFolder, name: str, sure: float, order: tuple[int, int] = (0, 1)) -> list[MemberFolder]:
    folds = [run.member(name).fold(index) for index in order]
    for fold, sample in zip(folds, "xy", strict=True):
        some_predictions((sample,), sure).save(fold.predictions)
    return folds


def test_which_predictions_of_a_run_are_used(run: RunFolder) -> None:
    said, what = held_out_predictions(run.path)
    assert said.ids == ("v",) and what == "its validation images, by average"
    member_folds(run, "one", 0.8)
    assert held_out_predictions(run.path)[0].ids == ("v",)  # the second member has none
    member_folds(run, "two", 0.6, order=(1, 0))
    said, what = held_out_predictions(run.path)
    assert said.ids == ("x", "y") and said.probabilities[:, 0] == pytest.approx(0.7) and "out-of-fold" in what
    some_predictions(("p", "q"), 0.9).save(run.predictions("chosen", "pooled"))
    said, what = held_out_predictions(run.path)
    assert said.ids == ("p", "q") and "held out" in what


def test_runs_that_cannot_judge_labels(run: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="is not a run folder"):
        held_out_predictions(tmp_path)
    run.predictions("average", "validation").unlink()
    with pytest.raises(ModelError, match="no predictions of images that it held out"):
        held_out_predictions(run.path)
    run.metrics.write_text(json.dumps(METRICS | {"members": [{"name": "one", "rule": "threshold"}]}))
    with pytest.raises(DataError, match="predicts sets of labels, which are not judged"):
        held_out_predictions(run.path)
    run.metrics.write_text(json.dumps({"data": {}, "monitor": "accuracy", "best": {}, "trials": []}))
    with pytest.raises(ModelError, match="is a run of tercet tune: name a run of tercet train or tercet crossval"):
        held_out_predictions(run.path)
    run.metrics.unlink()
    with pytest.raises(StorageError, match=r"is not finished: go on .* --resume"):
        held_out_predictions(run.path)


def test_sets_of_labels_are_not_judged(tmp_path: Path) -> None:
    names = [noise(tmp_path / f"{seed}.png", seed).name for seed in range(12)]
    lines = [f'{name},"{("a", "a,b", "b")[place % 3]}"' for place, name in enumerate(names)]
    (tmp_path / "sets.csv").write_text("\n".join(["image,labels", *lines]))
    options = {"data": {"label_columns": ["labels"], "label_separator": ","}, "folds": 2}
    done = audit_data(tmp_path / "sets.csv", **options)
    assert "labels           no equal pictures have different sets; sets are not judged otherwise" in done.to_text()
    with pytest.raises(ConfigError, match="here are label sets: leave --run out"):
        audit_data(tmp_path / "sets.csv", run=str(tmp_path / "no-run"), **options)
    shutil.copy(tmp_path / names[0], tmp_path / names[1])
    assert (
        "! labels           1 pictures have different sets of labels: "
        in audit_data(tmp_path / "sets.csv", **options).to_text()
    )


def test_a_run_on_other_data_is_refused(finished: Run, tmp_path: Path) -> None:
    other = draw_classes(tmp_path / "other", kinds=("disc", "square", "stroke"))
    with pytest.raises(DataError, match="predicted no labelled image of other"):
        audit_data(other, run=str(finished.path))
