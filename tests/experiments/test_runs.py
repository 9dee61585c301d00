import json
import os
from pathlib import Path
from typing import Any

import pytest

from tercet.cli.main import main
from tercet.core.errors import ConfigError, StorageError
from tercet.core.run_folder import RunFolder, RunRecord
from tercet.experiments.ensemble import combine
from tercet.experiments.runs import RunsTable, runs
from tercet.experiments.train import Run

pytestmark = pytest.mark.usefixtures("alone")
SCORES = {"accuracy": 0.5, "macro_f1": 0.4, "kappa": 0.3}


def write(folder: Path, document: Any, *, time: int = 0, command: str = "train") -> None:
    folder.mkdir(parents=True)
    RunFolder(folder).begin(RunRecord(command, "photos", {}))
    if isinstance(document, dict) and "data" in document:
        others = {"protocol": {}, "ensembles": [], "pairs": [], "tested_on": "validation", "monitor": "accuracy"}
        document = others | document
    path = folder / "metrics.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    os.utime(path, (time, time))


def training_metrics(test: float, *, seconds: float = 1.0, name: str = "a") -> dict[str, Any]:
    member = {"name": name, "seconds": seconds, "validation": SCORES, "test": {**SCORES, "accuracy": test}}
    return {"data": {"source": "photos"}, "chosen": name, "members": [member], "ensembles": []}


@pytest.fixture
def several(tmp_path: Path) -> Path:
    """Return a folder with runs of every kind, some of them unreadable."""
    root = tmp_path / "runs"
    write(root / "photos-2", training_metrics(0.7, seconds=5), time=3 * 86400)
    write(root / "photos-10", training_metrics(0.9, seconds=2), time=2 * 86400)
    write(root / "photos-10" / "inner", training_metrics(0.1))
    spread = {key: {"mean": value, "sd": None, "n": 1} for key, value in SCORES.items()}
    row = {"name": "cnn", "validation": spread, "trainings": [{"seconds": 3}, {"seconds": 4}]}
    compared = {"data": {"source": "digits"}, "chosen": "cnn", "networks": [{"name": "no"}, row]}
    write(root / "older" / "compared", compared, time=86400, command="compare")
    folds = {"data": {"source": "leaves"}, "folds": [{}, {}], "pooled": SCORES, "test": None, "members": []}
    write(root / "folds", folds, command="crossval")
    trials = [{"number": 0, "scores": {}, "seconds": None}, {"number": 1, "scores": SCORES, "seconds": 8}]
    tuned = {"data": {"source": "pets"}, "best": trials[1], "trials": trials}
    write(root / "searched", tuned, command="tune")
    multilabel = training_metrics(0.0)
    multilabel["members"][0] |= {"validation": {"exact_match": 0.6, "c_f1": 0.7, "o_f1": 0.8}, "test": None}
    write(root / "sets", multilabel)
    write(root / "bad-json", "{")
    write(root / "other", {"something": "else"})
    write(root / "list", [1, 2])
    (root / "earlier").mkdir()
    (root / "earlier" / "metrics.json").write_text(json.dumps(training_metrics(0.3)))
    (root / "earlier" / "config.yaml").write_text("data_source: photos\n")
    (root / "begun").mkdir()
    (root / "begun" / "run.json").write_text("{}")
    (root / "holds-one").mkdir()
    (root / "holds-one" / "run.json").write_text("{}")
    write(root / "holds-one" / "trial", training_metrics(0.2))
    return root


def names(table: RunsTable) -> list[str]:
    return [row.name for row in table.rows]


def test_every_readable_run_is_in_the_table(several: Path) -> None:
    table = runs(several, sort="name")
    assert names(table) == ["folds", "holds-one/trial", "older/compared", "photos-2", "photos-10", "searched", "sets"]
    rows = {row.name: row for row in table.rows}
    assert rows["photos-2"].to_dict() == {
        "name": "photos-2",
        "kind": "train",
        "data": "photos",
        "chosen": "a",
        "validation": 0.5,
        "test": 0.7,
        "macro_f1": 0.4,
        "kappa": 0.3,
        "seconds": 5.0,
        "date": rows["photos-2"].date,
        "monitor_split": "validation",
    }
    compared = rows["older/compared"]
    assert (compared.kind, compared.chosen) == ("compare", "cnn")
    assert (compared.test, compared.macro_f1, compared.seconds) == (None, 0.4, 7)
    assert (rows["sets"].validation, rows["sets"].macro_f1, rows["sets"].kappa) == (0.6, 0.7, None)
    search = rows["searched"]
    assert (search.kind, search.data, search.chosen) == ("tune", "pets", "trial 1")
    assert (search.validation, search.test, search.kappa, search.seconds) == (0.5, None, 0.3, 8)
    assert (rows["folds"].kind, rows["folds"].chosen, rows["folds"].validation) == ("crossval", "2 folds", 0.5)


def test_unreadable_and_unfinished_runs_are_listed(several: Path) -> None:
    table = runs(several)
    assert [name for name, _ in table.unreadable] == ["bad-json", "earlier", "list", "other"]
    assert table.unfinished == ("begun",)
    text = table.to_text()
    assert "unreadable: other: " in text and "does not hold the metrics of a run" in text
    assert "not finished: begun" in text
    assert "unreadable: earlier: " in text and "an earlier version of Tercet wrote it" in text
    assert max(len(line) for line in text.splitlines() if "unreadable" not in line) <= 80


@pytest.mark.parametrize(
    ("sort", "first", "last"),
    [
        ("test", "photos-10", "sets"),
        ("seconds", "holds-one/trial", "folds"),
        ("date", "photos-2", "sets"),
        ("data", "older/compared", "sets"),
    ],
)
def test_runs_are_sorted_by_a_column(several: Path, sort: str, first: str, last: str) -> None:
    order = names(runs(several, sort=sort))
    assert order[0] == first
    assert order[-1] == last


def test_real_runs_are_read(finished: Run, tmp_path: Path) -> None:
    (row,) = runs(finished.path).rows
    chosen = finished.metrics["chosen"]
    scores = next(ensemble for ensemble in finished.metrics["ensembles"] if ensemble["name"] == chosen)
    assert (row.kind, row.chosen, row.validation, row.test) == (
        "train",
        chosen,
        scores["validation"]["accuracy"],
        scores["test"]["accuracy"],
    )
    assert row.seconds == pytest.approx(sum(member["seconds"] for member in finished.metrics["members"]))
    combine([finished.path], ensemble_methods=["average"], output=str(tmp_path / "ensemble"))
    (ensemble,) = runs(tmp_path).rows
    assert (ensemble.name, ensemble.kind, ensemble.chosen) == ("ensemble", "ensemble", "average")


def test_invalid_arguments_raise(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'kappa'"):
        runs(tmp_path, sort="kapa")
    with pytest.raises(StorageError, match="there is no folder"):
        runs(tmp_path / "none")
    assert "no finished run" in runs(tmp_path).to_text()


def test_the_command_line(several: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", str(several), "--sort", "test", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document == runs(several, sort="test").to_dict()
    assert main(["runs", str(several)]) == 0
    assert "photos-10" in capsys.readouterr().out


def test_runs_selected_on_the_test_split_are_marked(tmp_path: Path) -> None:
    write(tmp_path / "honest", training_metrics(0.7))
    assert "optimistic" not in runs(tmp_path).to_text()
    write(tmp_path / "bold", {**training_metrics(0.9), "protocol": {"monitor_split": "test"}})
    table = runs(tmp_path)
    assert {row.name: row.monitor_split for row in table.rows} == {"honest": "validation", "bold": "test"}
    text = table.to_text()
    assert "a !" in text and "optimistic" in text
