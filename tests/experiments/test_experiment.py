"""What all commands with a run folder share, with a command that trains nothing."""

from pathlib import Path
from typing import ClassVar

import pytest
from rich.console import Console

from tercet.config.commands import TRAIN
from tercet.core.errors import ConfigError, ModelError, StorageError
from tercet.core.files import read_json
from tercet.core.run_folder import RunFolder, RunRecord
from tercet.experiments.experiment import Experiment, run_experiment
from tercet.experiments.results import RunResult

QUIET = Console(quiet=True)


class Killed(BaseException):
    """Stands for the end of the process."""


class Copying(Experiment[str, RunResult]):
    """Copies its source into the plan, then into the report."""

    command = "train"
    options = TRAIN
    changeable = frozenset({"threads"})
    killed_in: ClassVar[str] = ""

    def prepare(self, run: RunFolder) -> str:
        if self.killed_in == "prepare":
            raise Killed
        if self.source == "bad":
            raise ConfigError("bad data")
        run.plan.write_text(self.source)
        return self.source

    def reopen(self, run: RunFolder) -> str | None:
        return run.plan.read_text() if run.plan.is_file() else None

    def work(self, run: RunFolder, state: str, console: Console) -> RunResult:
        if self.killed_in == "work":
            raise Killed
        return RunResult(run.path, {"threads": self.parsed.to_dict()["threads"]}, state)


def copying(source: str | None, resume: Path | None = None, **options: object) -> RunResult:
    return run_experiment(Copying, source, TRAIN.parse_object(options), resume=resume, console=QUIET)


def test_a_command_writes_what_it_was_asked_and_its_results(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    result = copying("photos", output=str(folder), epochs=3)
    record = RunFolder(folder).record()
    assert (record.command, record.source, record.options["epochs"]) == ("train", "photos", 3)
    assert record.version and record.created and not {"resume", "json", "debug"} & set(record.options)
    assert (folder / "report.txt").read_text() == result.report == "photos"
    assert read_json(folder / "metrics.json") == {"threads": None}
    assert (folder / "environment.json").is_file() and not (folder / ".lock").exists()
    with pytest.raises(ModelError, match="is not a bundle"):
        result.bundle()


@pytest.mark.parametrize("moment", ["prepare", "work"])
def test_a_killed_command_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    monkeypatch.setattr(Copying, "killed_in", moment)
    with pytest.raises(Killed):
        copying("photos", output=str(tmp_path / "run"))
    assert (tmp_path / "run" / "plan.json").is_file() == (moment == "work")
    monkeypatch.setattr(Copying, "killed_in", "")
    assert copying(None, resume=tmp_path / "run").report == "photos"


def test_a_command_killed_before_its_first_file_leaves_a_folder_that_can_be_used(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / ".lock").write_text("999999999")
    (folder / ".run.json.abc.tmp").write_text("{")
    with pytest.raises(StorageError, match="is not a run folder"):
        copying(None, resume=folder)
    assert copying("photos", output=str(folder)).report == "photos"
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_invalid_data_leave_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="bad data"):
        copying("bad", output=str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_resume_accepts_repeated_options_and_some_changes(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    copying("photos", output=str(folder), epochs=3)
    assert copying("photos", resume=folder, epochs=3, output=str(folder)).metrics == {"threads": None}
    with pytest.raises(ConfigError, match=r"run\.json: remove data, epochs, seed, or repeat the same values"):
        copying("others", resume=folder, epochs=4, seed=1)
    assert copying(None, resume=folder, threads=2).metrics == {"threads": 2}
    assert copying(None, resume=folder).metrics == {"threads": 2}


@pytest.mark.parametrize("command", ["crossval", "compare", "tune", "reproduce"])
def test_a_folder_of_another_command_is_refused_with_the_command_to_type(tmp_path: Path, command: str) -> None:
    RunFolder(tmp_path).begin(RunRecord(command, "photos", {}))
    with pytest.raises(StorageError, match=f"continue it with tercet {command} --resume {tmp_path}"):
        copying(None, resume=tmp_path)


def test_folders_that_cannot_be_resumed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"give a folder of images.* or --resume FOLDER"):
        copying(None)
    (tmp_path / "config.yaml").write_text("data_source: photos\n")
    with pytest.raises(StorageError, match="an earlier version of Tercet wrote it"):
        copying(None, resume=tmp_path)
    RunFolder(tmp_path).begin(RunRecord("ensemble", ["a", "b"], {}))
    with pytest.raises(StorageError, match="tercet ensemble: repeat the command with another --output"):
        copying(None, resume=tmp_path)
    with pytest.raises(StorageError, match="created by another process"):
        RunFolder(tmp_path).begin(RunRecord("train", "photos", {}))
    (tmp_path / "run.json").write_text('{"command": "train"}')
    with pytest.raises(ModelError, match=r"run\.json is damaged"):
        copying(None, resume=tmp_path)
