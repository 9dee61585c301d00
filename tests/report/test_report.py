"""The page about a run: what stands on it, what is left out when parts are gone, and what is refused."""

import base64
import io
import json
import re
import shlex
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests.fixtures.browser import HOSTILE
from tests.fixtures.report_runs import asked, write_run

from tercet.cli.main import main
from tercet.config.commands import TRAIN
from tercet.core.errors import ConfigError, DataError, ModelError, StorageError
from tercet.core.files import read_json, write_json
from tercet.core.predictions import Predictions
from tercet.core.run_folder import RunFolder
from tercet.data.run_reader import RunReader
from tercet.experiments.compare import compare
from tercet.experiments.crossval import crossval
from tercet.experiments.ensemble import combine
from tercet.experiments.reproduce import reproduce
from tercet.experiments.train import Run, train
from tercet.experiments.tune import tune
from tercet.report import run as reporting
from tercet.report.command import command_of
from tercet.report.pages import names_of
from tercet.report.run import write_report

SECTIONS = ["Summary", "Protocol", "Data", "Results", "Training", "Classes", "Probabilities", "Agreement"]
SECTIONS += ["Hardest images", "Cost", "Environment", "Reproduce"]
QUICK: dict[str, Any] = {"epochs": 1, "lr": 3e-3, "batch_size": 16, "threads": 1, "tensorboard": False}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", classes=("cat", "dog", "<script>alert(1)</script>"))


def text_of(path: Path) -> str:
    """Return what a page says, without its tags and pictures."""
    return re.sub(r"<style>.*?</style>|<[^>]*>", " ", path.read_text("utf-8"), flags=re.DOTALL)


def test_a_page_tells_everything_about_a_run(run: Path) -> None:
    done = write_report(run)
    assert (done.path, list(done.sections)) == (run / "report.html", SECTIONS)
    page, metrics = done.path.read_text("utf-8"), read_json(run / "metrics.json")
    for row in (*metrics["members"], *metrics["ensembles"]):
        assert f"{row['test']['accuracy']:.4f}" in page and f"{row['validation']['accuracy']:.4f}" in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page and "<script" not in page
    assert "average against first on 60 samples" in page
    assert 'class="warning"' not in page
    names = {path.name for path in (run / "figures").iterdir()}
    assert {path.name for path in done.figures} == names
    stems = {"confusion", "confusion-rates", "classes", "reliability", "agreement", "class-counts", "training-loss"}
    stems |= {"ensemble-against-members", "accuracy-against-flops", "accuracy-against-seconds", "training-rate"}
    assert {f"{stem}.{kind}" for stem in stems for kind in ("png", "svg")} <= names
    pictures = [base64.b64decode(data) for data in re.findall(r"data:image/jpeg;base64,([^\"]+)", page)]
    for picture in map(Image.open, map(io.BytesIO, pictures)):  # encoded anew, without metadata
        assert (picture.format, picture.size, dict(picture.getexif())) == ("JPEG", (192, 144), {})
    assert pictures
    assert write_report(run).path.read_text("utf-8") == page


@pytest.mark.parametrize(
    ("gone", "left_out"),
    [
        ({"members": "No history of a training", "images": "images are gone", "config.yaml": "configuration"}, []),
        (
            {"predictions": "stored predictions", "environment.json": ""},
            ["Probabilities", "Agreement", "Hardest images"],
        ),
        ({"samples.csv": "table of samples is gone", "plan.json": ""}, []),
    ],
    ids=["histories and images", "predictions", "samples"],
)
def test_parts_that_are_gone_are_left_out_in_words(run: Path, gone: dict[str, str], left_out: list[str]) -> None:
    for name in gone:
        shutil.rmtree(run / name) if (run / name).is_dir() else (run / name).unlink()
    done = write_report(run)
    text = text_of(done.path)
    assert all(told in text for told in gone.values())
    assert [name for name in SECTIONS if name not in done.sections] == left_out


def test_a_run_without_test_images_is_judged_by_validation(tmp_path: Path) -> None:
    done = write_report(write_run(tmp_path / "run", classes=("a", "b"), splits=("validation",)))
    text = text_of(done.path)
    assert "No test image has a label" in text and "on 60 validation images" in text


def test_a_run_without_any_label_has_no_scores(run: Path) -> None:
    metrics = read_json(run / "metrics.json")
    for row in (*metrics["members"], *metrics["ensembles"]):
        del row["test"], row["validation"]
    write_json(run / "metrics.json", {**metrics, "comparison": None})
    for path in (run / "predictions").iterdir():
        said = Predictions.load(path)
        said.with_labels([-1] * len(said)).save(path)
    done = write_report(run)
    text = text_of(done.path)
    assert "no image with a label to judge" in text and "Left out, as no image has a label" in text


def test_one_class_is_told(run: Path) -> None:
    said = Predictions.of([[1.0]] * 3, classes=["only"], labels=[0, 0, 0])
    said.save(RunFolder(run).predictions("average", "test"))
    assert "Left out, as there is one class" in text_of(write_report(run).path)


def test_choosing_on_the_test_images_stands_in_a_red_box(tmp_path: Path) -> None:
    done = write_report(write_run(tmp_path / "run", classes=("a", "b"), options={"monitor_split": "test"}))
    page = done.path.read_text("utf-8")
    assert page.index('class="warning"') < page.index("<table")
    assert "Chosen on the test images" in page and "WHICH CHOSE: optimistic" in page


def test_many_classes_give_pairs_instead_of_a_matrix(tmp_path: Path) -> None:
    classes = tuple(f"species {number}" for number in range(1010))
    done = write_report(write_run(tmp_path / "run", classes=classes, count=1200))
    names = {path.stem for path in done.figures}
    assert "confused-pairs" in names and "confusion" not in names
    assert "all 1,010 classes as a table" in text_of(done.path)


def test_several_runs_stand_beside_each_other(tmp_path: Path) -> None:
    one = write_run(tmp_path / "one", classes=("a", "b"))
    two = write_run(tmp_path / "two", classes=("a", "b", "c"), source="others")
    done = write_report([one, two, one], output=tmp_path / "both.html", title="Both")
    assert (done.path, done.sections) == (tmp_path / "both.html", ("Runs beside each other", "Training", "one", "two"))
    assert {path.parent for path in done.figures} == {tmp_path / "both-figures"}
    assert len(done.figures) == len({path.name for path in done.figures})
    text = text_of(done.path)
    assert "their scores cannot be compared" in text and "Both" in text
    levels = [int(level) for level in re.findall(r"<h(\d)>", done.path.read_text("utf-8"))]
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / place / "run", classes=("a", "b"), count=4) for place in ("x", "y")]
    assert names_of([RunReader.open(run) for run in runs]) == [str(run) for run in runs]


def test_others_scores_are_drawn_beside_ones_own(run: Path, tmp_path: Path) -> None:
    board = tmp_path / "board.csv"
    board.write_text("place,name,score\n1,<b>Ann</b>,0.97\n2,Ben,0.5\n", "utf-8")
    done = write_report(run, leaderboard=board)
    assert "Leaderboard" in done.sections and run / "figures" / "leaderboard.svg" in done.figures


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("team,score\na,1\n", "needs the columns name and score"),
        ("name,score\n", "at least one row"),
        ("name,score\na,0.5\nb,high\n", "row 2: the score 'high' is no number"),
        ("name,score\na,nan\n", "'nan' is no number"),
        ("name,score\na\n", "row 1: the score is missing"),
    ],
)
def test_wrong_leaderboards_are_refused(run: Path, tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "board.csv").write_text(content)
    with pytest.raises(DataError, match=re.escape(message)):
        write_report(run, leaderboard=tmp_path / "board.csv")
    assert not (run / "report.html").exists()


def test_what_is_no_finished_run_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="there is no folder"):
        write_report(tmp_path / "none")
    with pytest.raises(StorageError, match=r"is not a run folder: it has no metrics\.json"):
        write_report(run / "images")
    with pytest.raises(ConfigError, match="name a run folder"):
        write_report([])
    with pytest.raises(StorageError, match="is a folder: name a file"):
        write_report(run, output=tmp_path)
    (run / "metrics.json").write_text("[1]")
    with pytest.raises(ModelError, match="does not hold the metrics of a run"):
        write_report(run)
    (run / "metrics.json").write_text('{"data": {}}')
    with pytest.raises(ModelError, match="protocol, members, ensembles, chosen is missing"):
        write_report(run)
    (run / "metrics.json").unlink()
    with pytest.raises(StorageError, match="is not finished: run its command again"):
        write_report(run)


def test_a_report_replaces_its_own_figures_and_no_other_file(run: Path, tmp_path: Path) -> None:
    write_report(run)
    shutil.rmtree(run / "members")
    drawn = set(write_report(run).figures)
    assert set((run / "figures").iterdir()) == drawn and run / "figures" / "training-loss.png" not in drawn
    metrics = (run / "metrics.json").read_bytes()
    with pytest.raises(StorageError, match="is there and is no report"):
        write_report(run, output=run / "metrics.json")
    assert (run / "metrics.json").read_bytes() == metrics


def test_runs_on_other_images_are_told_apart_by_the_images(tmp_path: Path) -> None:
    one, same = (write_run(tmp_path / name, classes=("a", "b"), source=name) for name in ("one", "same"))
    other = write_run(tmp_path / "other", classes=("a", "b"), source="one", count=40)
    third = write_run(tmp_path / "third", classes=("a", "c"), source="one")
    told = "not judged on the same images"
    assert told not in text_of(write_report([one, same], output=tmp_path / "1.html").path)
    assert told in text_of(write_report([one, other], output=tmp_path / "2.html").path)
    assert told in text_of(write_report([one, third], output=tmp_path / "3.html").path)


def test_beside_others_a_run_that_chose_on_test_is_named(run: Path, tmp_path: Path) -> None:
    chose = write_run(tmp_path / "chose", options={"monitor_split": "test"})
    text = text_of(write_report([run, chose], output=tmp_path / "both.html").path)
    assert "chose: Chosen on the test images" in text
    assert "Loss over the epochs on test or validation images" in text


def test_a_leaderboard_of_percentages_shows_ones_own_as_such(run: Path, tmp_path: Path) -> None:
    (tmp_path / "board.csv").write_text("name,score\nAnn,97.1\nBen,12.5\n")
    assert "They are percentages" in text_of(write_report(run, leaderboard=tmp_path / "board.csv").path)


@pytest.mark.slow
@pytest.mark.usefixtures("alone")
def test_a_study_is_reported_with_its_parts(shapes: Path, tmp_path: Path) -> None:
    done = reproduce("leaves", shapes, dry_run=True, output=str(tmp_path / "study"), threads=1)
    page = write_report(done.path)
    text = text_of(page.path)
    assert "Published and measured" in page.sections and "Parts" in page.sections
    for title, part in done.metrics["parts"].items():
        assert title in text and f"tercet report {done.path / part['run']}" in text


def test_without_matplotlib_the_extra_is_named(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporting, "pages", None)
    with pytest.raises(ConfigError, match=re.escape("pip install 'tercet[pictures]'")):
        write_report(run)


def test_reports_need_no_network_library() -> None:
    script = "import sys; import tercet.report.run; print([n for n in ('torch', 'timm') if n in sys.modules])"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


ODD: list[dict[str, Any]] = [
    {},
    {"data": {"group_from": r"^--(pet\d+)_'\"", "label_separator": ","}, "freeze": ["none"]},
    {"members": [{"model": "small-cnn", "name": "a, b"}, "row-lstm"], "lr": 1e-5, "tensorboard": False},
    {
        "stages": [{"lr": 1e-3, "epochs": 2}, {"lr": 1e-4, "steps": 7, "schedule": "cosine"}],
        "ensemble_methods": ["average"],
    },
    {
        "input": {"size": [64, 48], "mean": [0.5]},
        "backbone": {"args": {"x": None, "y": "z z"}},
        "data.class_balanced_sampling": True,
    },
    {"members": ["odd,name.yaml"], "ensemble_methods": [], "data.label_columns": ["a b", "c"]},
]


@pytest.mark.parametrize("options", ODD, ids=range(len(ODD)))
def test_the_command_asks_for_the_same(tmp_path: Path, options: dict[str, Any]) -> None:
    run = write_run(tmp_path / "run", classes=("a", "b"), count=4, source="my photos/", options=options)
    command = command_of(RunReader.open(run))
    assert command is not None
    words = shlex.split(command.replace("\\\n", " "))
    parsed = TRAIN.parse_args(words[2:])
    assert (words[:2], parsed.positional["data"]) == (["tercet", "train"], "my photos/")
    assert parsed.to_dict() == TRAIN.parse_object(asked(("first", "second"), options)).to_dict()


def test_the_command_line(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(run), "--title", "A title", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["report"] == str(run / "report.html") and document["sections"] == SECTIONS
    assert all(Path(path).is_file() for path in document["figures"])
    assert main(["report", str(run / "nothing")]) == 5


@pytest.mark.usefixtures("alone")
def test_a_real_run_and_a_fusion_of_it_are_reported(finished: Run, tmp_path: Path) -> None:
    done = write_report(finished.path, output=tmp_path / "report.html")
    assert list(done.sections) == SECTIONS
    asides = re.findall(r'<p class="quiet">(\w+)', done.path.read_text("utf-8"))
    assert asides == ["FLOPs", "Options"]  # nothing was left out
    fused = combine([finished.path], ensemble_methods=["average"], output=str(tmp_path / "fused"))
    page = write_report(fused.path)
    assert list(page.sections) == SECTIONS
    assert f"tercet ensemble {finished.path}" in page.path.read_text("utf-8")


@pytest.mark.slow
@pytest.mark.usefixtures("alone")
def test_runs_of_other_verbs_are_reported(shapes: Path, tmp_path: Path) -> None:
    members = [
        {"model": "small-cnn", "head_hidden_dim": 8},
        {"model": "row-gru", "hidden_size": 8, "num_layers": 1, "head_hidden_dim": 6},
    ]
    crossval(shapes, folds=2, members=members, ensemble_methods=["average"], output=str(tmp_path / "folds"), **QUICK)
    compare(shapes, backbones=members, seeds=2, output=str(tmp_path / "grid"), **QUICK)
    space = {"hidden_size": {"low": 4, "high": 12, "step": 4}}
    searched = {"num_layers": 1, "head_hidden_dim": 6, **QUICK}
    tune(shapes, space=space, members=["row-gru"], trials=3, output=str(tmp_path / "search"), **searched)
    folds, grid, search = (write_report(tmp_path / name) for name in ("folds", "grid", "search"))
    assert list(folds.sections) == SECTIONS and list(grid.sections) == SECTIONS
    assert search.sections == ("Summary", "Protocol", "Data", "Trials", "Training", "Environment", "Reproduce")
    for done, words in (
        (folds, ["folds"]),
        (grid, ["networks", "accuracy-against-milliseconds"]),
        (search, ["trials", "training-loss"]),
    ):
        assert {path.stem for path in done.figures} >= set(words)
        assert f"tercet {read_kind(done.path.parent)}" in text_of(done.path)
        assert "the whole configuration" in text_of(done.path)
    together = write_report([tmp_path / name for name in ("folds", "grid", "search")], output=tmp_path / "all.html")
    assert together.sections[2:] == ("folds", "grid", "search")


@pytest.mark.slow
@pytest.mark.usefixtures("alone")
def test_sets_of_labels_have_thresholds_and_no_matrix(shapes: Path, tmp_path: Path) -> None:
    shutil.copytree(shapes, tmp_path / "images")
    rows = ["image,label"]
    for kind in ("disc", "square", "stroke"):
        more = {"disc": "disc|round", "square": "square|<b>"}.get(kind, "")
        rows += [f"images/{kind}/{path.name},{more}" for path in sorted((shapes / kind).glob("*.png"))]
    (tmp_path / "sets.csv").write_text("\n".join(rows))
    done = train(
        tmp_path / "sets.csv",
        members=["small-cnn", {"model": "small-cnn", "name": "wide", "head_hidden_dim": 32}],
        output=str(tmp_path / "sets"),
        data={"label_separator": "|"},
        **QUICK,
    )
    page = write_report(done.path)
    assert page.sections[3:7] == ("Results", "Labels", "Training", "Cost")
    text = text_of(page.path)
    assert "From scores to sets" in text and "O-F1" in text and "&lt;b&gt;" in text
    assert not any("confusion" in path.name for path in page.figures)


def read_kind(folder: Path) -> str:
    return RunReader.open(folder).kind


def test_hostile_names_of_everything_stay_text(tmp_path: Path) -> None:
    name = HOSTILE[0]
    done = write_report(write_run(tmp_path / "run", source=name, members=(name, r"$\frac{")), title=name)
    page = done.path.read_text("utf-8")
    assert "<script" not in page and page.count("&lt;script&gt;alert(1)") > 20
