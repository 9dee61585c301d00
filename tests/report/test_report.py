"""Reports of runs: content, missing parts, several runs, leaderboards, and errors.

Figures take seconds to draw. Tests that only read the text of a page use `CaptionWriter`, which draws none.
"""

import base64
import io
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from matplotlib.axes import Axes
from PIL import Image
from tests.fixtures.browser import HOSTILE
from tests.fixtures.report_runs import train_options, write_run

from tercet.cli.command import find_command
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
from tercet.plots.figure_writer import FigureWriter
from tercet.plots.page import Figure, Page, render
from tercet.report import run as report_module
from tercet.report.command import command_of
from tercet.report.pages import Board, names_of, page_of_run, page_of_runs
from tercet.report.run import Report, write_report

SECTIONS = ["Summary", "Protocol", "Data", "Results", "Training", "Classes", "Calibration", "Agreement"]
SECTIONS += ["Hardest images", "Cost", "Environment", "Reproduce"]
QUICK: dict[str, Any] = {"epochs": 1, "lr": 3e-3, "batch_size": 16, "threads": 1, "tensorboard": False}
CLASSES = ("cat", "dog", "<script>alert(1)</script>")


class CaptionWriter(FigureWriter):
    """Records the names of figures and returns their captions, without drawing."""

    def draw(self, name: str, caption: str, drawing: Callable[[Axes], object], **options: Any) -> Figure:
        self.files.append(self.folder / f"{self.prefix}{name}")
        return Figure("<svg/>", caption)


def page_of(*runs: Path, board: Board = (), title: str | None = None) -> tuple[Page, set[str]]:
    """Return the page without figures, and the names that the figures would have."""
    writer = CaptionWriter(Path("figures"))
    records = [RunReader.open(run) for run in runs]
    single = len(records) == 1
    page = (page_of_run if single else page_of_runs)(
        records[0] if single else records, writer, title=title, board=board
    )  # type: ignore[operator]
    names = [path.name for path in writer.files]
    assert len(names) == len(set(names))
    return page, set(names)


def plain(html: str) -> str:
    """Return the text of a page without tags and style."""
    return re.sub(r"<style>.*?</style>|<[^>]*>", " ", html, flags=re.DOTALL)


def text_of(*runs: Path, **options: Any) -> str:
    return plain(render(page_of(*runs, **options)[0]))


def titles(page: Page) -> list[str]:
    return [section.title for section in page.sections]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", classes=CLASSES)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """A report with all its figures."""
    return write_report(write_run(tmp_path_factory.mktemp("reports") / "run", classes=CLASSES))


@pytest.fixture
def reported(report: Report, tmp_path: Path) -> Path:
    """A copy of a run with a report."""
    return shutil.copytree(report.path.parent, tmp_path / "copy")


def test_a_report_shows_all_results_and_figures(report: Report) -> None:
    run = report.path.parent
    assert (report.path, list(report.sections)) == (run / "report.html", SECTIONS)
    page, metrics = report.path.read_text("utf-8"), read_json(run / "metrics.json")
    for row in (*metrics["members"], *metrics["ensembles"]):
        assert f"{row['test']['accuracy']:.4f}" in page and f"{row['validation']['accuracy']:.4f}" in page
    assert "average against first on 60" in page
    assert 'class="warning"' not in page
    names = {path.name for path in (run / "figures").iterdir()}
    assert {path.name for path in report.figures} == names
    stems = {"confusion", "confusion-rates", "classes", "reliability", "agreement", "class-counts", "training-loss"}
    stems |= {"ensemble-against-members", "accuracy-against-flops", "accuracy-against-seconds", "training-rate"}
    assert {f"{stem}.{kind}" for stem in stems for kind in ("png", "svg")} <= names


def test_rungs_are_listed_also_those_that_were_not_trained(run: Path) -> None:
    scores = {"accuracy": 0.875, "accuracy_low": 0.61, "accuracy_high": 0.97}
    first = {"rung": "probe", "members": ["first-probe"], "status": "finished", "seconds": 3.0, "chosen": "first-probe"}
    waiting = {"rung": "fine-tune", "members": ["first"], "status": "not trained: --stop-at probe"}
    rungs = [{**first, "validation": scores}, {**waiting, "seconds": None, "chosen": None, "validation": {}}]
    write_json(run / "metrics.json", {**read_json(run / "metrics.json"), "ladder": rungs})
    text = " ".join(text_of(run).split())
    assert "probe first-probe finished 0.8750 0.610 to 0.970 3.0 s first-probe" in text
    assert "fine-tune first not trained: --stop-at probe" in text


def test_thumbnails_carry_no_metadata(report: Report) -> None:
    encoded = re.findall(r"data:image/jpeg;base64,([^\"]+)", report.path.read_text("utf-8"))
    assert encoded
    for image in map(Image.open, map(io.BytesIO, map(base64.b64decode, encoded))):
        assert (image.format, image.size, dict(image.getexif())) == ("JPEG", (192, 144), {})


def test_the_command_writes_the_same_report_again(reported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = (reported / "report.html").read_text("utf-8").replace(str(reported.parent), "")
    assert main(["report", str(reported), "--title", "run: photos", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["report"] == str(reported / "report.html") and document["sections"] == SECTIONS
    assert all(Path(path).is_file() for path in document["figures"])
    again = (reported / "report.html").read_text("utf-8")
    assert [line for line in again.splitlines() if "folder" not in line and "finished" not in line] == [
        line for line in page.splitlines() if "folder" not in line and "finished" not in line
    ]
    assert main(["report", str(reported / "nothing")]) == 5


def test_a_new_report_replaces_the_old_figures_and_no_other_file(reported: Path) -> None:
    for name in ("members", "images", "predictions", "samples.csv"):
        path = reported / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    drawn = set(write_report(reported).figures)
    assert set((reported / "figures").iterdir()) == drawn
    assert reported / "figures" / "training-loss.png" not in drawn
    metrics = (reported / "metrics.json").read_bytes()
    with pytest.raises(StorageError, match="exists and is not a report"):
        write_report(reported, output=reported / "metrics.json")
    assert (reported / "metrics.json").read_bytes() == metrics


@pytest.mark.parametrize(
    ("missing", "omitted_sections"),
    [
        ({"members": "No training history", "images": "images are no longer"}, []),
        (
            {"predictions": "predictions of the selected model are not stored", "environment.json": ""},
            ["Calibration", "Agreement", "Hardest images"],
        ),
        ({"samples.csv": "table of samples is missing", "plan.json": ""}, []),
    ],
    ids=["histories and images", "predictions", "samples"],
)
def test_missing_parts_are_reported(run: Path, missing: dict[str, str], omitted_sections: list[str]) -> None:
    for name in missing:
        shutil.rmtree(run / name) if (run / name).is_dir() else (run / name).unlink()
    page, _ = page_of(run)
    text = plain(render(page))
    assert all(sentence in text for sentence in missing.values())
    assert [name for name in SECTIONS if name not in titles(page)] == omitted_sections


def test_a_run_without_test_labels_is_evaluated_on_validation(tmp_path: Path) -> None:
    text = text_of(write_run(tmp_path / "run", classes=("a", "b"), splits=("validation",)))
    assert "No test image has a label" in text and "on 60 validation images" in text


def test_a_run_without_labels_has_no_scores(run: Path) -> None:
    metrics = read_json(run / "metrics.json")
    for row in (*metrics["members"], *metrics["ensembles"]):
        del row["test"], row["validation"]
    write_json(run / "metrics.json", {**metrics, "comparison": None})
    for path in (run / "predictions").iterdir():
        predictions = Predictions.load(path)
        predictions.with_labels([-1] * len(predictions)).save(path)
    text = text_of(run)
    assert "result cannot be evaluated" in text and "No image has a label, so there is nothing to show" in text


def test_a_run_with_one_class_has_no_confusions(run: Path) -> None:
    predictions = Predictions.of([[1.0]] * 3, classes=["only"], labels=[0, 0, 0])
    predictions.save(RunFolder(run).predictions("average", "test"))
    assert "There is only one class" in text_of(run)


def test_selection_on_test_images_is_a_warning(tmp_path: Path) -> None:
    html = render(page_of(write_run(tmp_path / "run", classes=("a", "b"), options={"monitor_split": "test"}))[0])
    assert html.index('class="warning"') < html.index("<table")
    assert "Model selection on test images" in html and "OPTIMISTIC" in html


def test_many_classes_are_shown_as_confused_pairs(tmp_path: Path) -> None:
    classes = tuple(f"species {number}" for number in range(101))
    page, figures = page_of(write_run(tmp_path / "run", classes=classes, count=200))
    assert "confused-pairs" in figures and "confusion" not in figures
    assert "Table of all 101 classes" in plain(render(page))


def test_several_runs_are_compared_on_one_page(tmp_path: Path) -> None:
    first = write_run(tmp_path / "first", classes=("a", "b"))
    second = write_run(tmp_path / "second", classes=("a", "b", "c"), source="others")
    page, figures = page_of(first, second, title="Both")
    assert titles(page) == ["Comparison of runs", "Training", "first", "second"]
    assert {"runs", "1-first-confusion", "2-second-confusion"} <= figures
    html = render(page)
    assert "their scores are not comparable" in html and "Both" in html
    levels = [int(level) for level in re.findall(r"<h(\d)>", html)]
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_a_page_of_several_runs_is_written_beside_its_figures(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name, classes=("a", "b"), count=4) for name in ("first", "second")]
    for run in runs:  # few figures
        for name in ("members", "images", "predictions"):
            shutil.rmtree(run / name)
        (run / "samples.csv").unlink()
    done = write_report([*runs, runs[0]], output=tmp_path / "both.html")
    assert (done.path, done.sections[2:]) == (tmp_path / "both.html", ("first", "second"))
    assert {path.parent for path in done.figures} == {tmp_path / "both-figures"}
    assert len(done.figures) == len(set(done.figures)) and all(path.is_file() for path in done.figures)


def test_runs_in_folders_of_equal_names_are_named_by_path(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / parent / "run", classes=("a", "b"), count=4) for parent in ("x", "y")]
    assert names_of([RunReader.open(run) for run in runs]) == [str(run) for run in runs]


def test_runs_on_different_images_are_not_comparable(tmp_path: Path) -> None:
    first, same = (write_run(tmp_path / name, classes=("a", "b"), source=name) for name in ("first", "same"))
    fewer = write_run(tmp_path / "fewer", classes=("a", "b"), source="first", count=40)
    renamed = write_run(tmp_path / "renamed", classes=("a", "c"), source="first")
    for other, differs in ((same, False), (fewer, True), (renamed, True)):
        assert ("evaluated on different images" in text_of(first, other)) is differs


def test_a_warning_among_several_runs_names_its_run(run: Path, tmp_path: Path) -> None:
    other = write_run(tmp_path / "other", options={"monitor_split": "test"})
    text = text_of(run, other)
    assert "other: Model selection on test images" in text
    assert "Loss per epoch on test or validation images" in text


@pytest.mark.parametrize(("scores", "percent"), [("0.97", False), ("97.1", True)])
def test_a_leaderboard_shows_published_scores_beside_the_run(
    run: Path, tmp_path: Path, scores: str, percent: bool
) -> None:
    board = tmp_path / "board.csv"
    board.write_text(f"rank,name,score\n1,<b>Ann</b>,{scores}\n2,Ben,0.5\n", "utf-8")
    page, figures = page_of(run, board=report_module.pages.read_leaderboard(board))
    assert "Leaderboard" in titles(page) and "leaderboard" in figures
    assert ("All scores are percentages" in render(page)) is percent


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("team,score\na,1\n", "needs the columns name and score"),
        ("name,score\na,0.5\nb,nan\n", "row 2: the score 'nan' is not a number"),
        ("name,score\na\n", "row 1: the score is missing"),
    ],
)
def test_invalid_leaderboards_are_refused(run: Path, tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "board.csv").write_text(content)
    with pytest.raises(DataError, match=re.escape(message)):
        write_report(run, leaderboard=tmp_path / "board.csv")
    assert not (run / "report.html").exists()


def test_a_folder_that_is_not_a_finished_run_is_refused(run: Path, tmp_path: Path) -> None:
    for folder in (tmp_path / "none", run / "images"):
        with pytest.raises(StorageError):
            write_report(folder)
    with pytest.raises(ConfigError, match="run folder"):
        write_report([])
    with pytest.raises(StorageError, match="is a folder: name a file"):
        write_report(run, output=tmp_path)
    for metrics in ("[1]", '{"data": {}}'):
        (run / "metrics.json").write_text(metrics)
        with pytest.raises(ModelError, match="metrics of a run"):
            write_report(run)
    (run / "metrics.json").unlink()
    with pytest.raises(StorageError, match="is not finished: continue it with tercet train --resume"):
        write_report(run)


def test_without_matplotlib_the_extra_is_named(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_module, "pages", None)
    with pytest.raises(ConfigError, match=re.escape("pip install 'tercet[plots]'")):
        write_report(run)


def test_reports_do_not_import_torch() -> None:
    script = "import sys; import tercet.report.run; print([n for n in ('torch', 'timm') if n in sys.modules])"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


OPTIONS: list[dict[str, Any]] = [
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


@pytest.mark.parametrize("options", OPTIONS, ids=range(len(OPTIONS)))
def test_the_command_of_a_run_gives_the_same_options(tmp_path: Path, options: dict[str, Any]) -> None:
    run = write_run(tmp_path / "run", classes=("a", "b"), count=4, source="my photos/", options=options)
    command = command_of(RunReader.open(run))
    assert command is not None
    arguments = shlex.split(command.replace("\\\n", " "))
    parsed = find_command("train").parse_args(arguments[2:])
    assert (arguments[:2], parsed.positional["data"]) == (["tercet", "train"], "my photos/")
    assert parsed.to_dict() == TRAIN.parse_object(train_options(("first", "second"), options)).to_dict()


@pytest.mark.usefixtures("alone")
def test_a_trained_run_and_an_ensemble_of_it_have_all_sections(finished: Run, tmp_path: Path) -> None:
    page, _ = page_of(finished.path)
    assert titles(page) == SECTIONS
    asides = re.findall(r'<p class="quiet">(\w+)', render(page))
    assert asides == ["15", "FLOPs", "Options"]  # 15 rows are too few for a temperature; nothing is missing
    combined = combine([finished.path], ensemble_methods=["average"], output=str(tmp_path / "combined"))
    page, _ = page_of(combined.path)
    assert titles(page) == SECTIONS
    assert f"tercet ensemble {finished.path}" in render(page)


def test_hostile_names_are_escaped(tmp_path: Path) -> None:
    name = HOSTILE[0]
    run = write_run(tmp_path / "run", source=name, members=(name, r"$\frac{"))
    html = render(page_of(run, title=name)[0])
    assert "<script" not in html and html.count("&lt;script&gt;alert(1)") > 20


# ------------------------------------------------------------------------------------ other commands, from real runs


@pytest.mark.slow
@pytest.mark.usefixtures("alone")
def test_a_reproduction_is_reported_with_its_steps(shapes: Path, tmp_path: Path) -> None:
    done = reproduce("leaves", shapes, dry_run=True, output=str(tmp_path / "reproduction"), threads=1)
    page = write_report(done.path)
    text = plain(page.path.read_text("utf-8"))
    assert "Published and measured" in page.sections and "Steps" in page.sections
    for title, part in done.metrics["steps"].items():
        assert title in text and f"tercet report {done.path / part['run']}" in text


@pytest.mark.slow
@pytest.mark.usefixtures("alone")
def test_crossval_compare_and_tune_are_reported(shapes: Path, tmp_path: Path) -> None:
    members = [
        {"model": "small-cnn", "head_hidden_dim": 8},
        {"model": "row-gru", "hidden_size": 8, "num_layers": 1, "head_hidden_dim": 6},
    ]
    crossval(shapes, folds=2, members=members, ensemble_methods=["average"], output=str(tmp_path / "folds"), **QUICK)
    compare(shapes, backbones=members, seeds=2, output=str(tmp_path / "grid"), **QUICK)
    space = {"hidden_size": {"low": 4, "high": 12, "step": 4}}
    options = {"num_layers": 1, "head_hidden_dim": 6, **QUICK}
    tune(shapes, space=space, members=["row-gru"], trials=3, output=str(tmp_path / "search"), **options)
    folds, grid, search = (write_report(tmp_path / name) for name in ("folds", "grid", "search"))
    assert list(folds.sections) == SECTIONS and list(grid.sections) == SECTIONS
    assert search.sections == ("Summary", "Protocol", "Data", "Trials", "Training", "Environment", "Reproduce")
    expected: Sequence[tuple[Report, str, set[str]]] = (
        (folds, "crossval", {"folds"}),
        (grid, "compare", {"networks", "accuracy-against-milliseconds"}),
        (search, "tune", {"trials", "training-loss"}),
    )
    for done, command, figures in expected:
        text = plain(done.path.read_text("utf-8"))
        assert {path.stem for path in done.figures} >= figures
        assert f"tercet {command}" in text and "Full configuration" in text
    together = write_report([tmp_path / name for name in ("folds", "grid", "search")], output=tmp_path / "all.html")
    assert together.sections[2:] == ("folds", "grid", "search")


@pytest.mark.slow
@pytest.mark.usefixtures("alone")
def test_multilabel_runs_have_thresholds_and_no_confusion_matrix(shapes: Path, tmp_path: Path) -> None:
    shutil.copytree(shapes, tmp_path / "images")
    rows = ["image,label"]
    for kind in ("disc", "square", "stroke"):
        labels = {"disc": "disc|round", "square": "square|<b>"}.get(kind, "")
        rows += [f"images/{kind}/{path.name},{labels}" for path in sorted((shapes / kind).glob("*.png"))]
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
    text = plain(page.path.read_text("utf-8"))
    assert "if its score exceeds the threshold" in text and "O-F1" in text and "&lt;b&gt;" in text
    assert not any("confusion" in path.name for path in page.figures)
