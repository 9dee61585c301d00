import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tercet.core.errors import ConfigError, DataError, StorageError
from tercet.core.run_folder import RunFolder
from tercet.experiments.train import Run, train

HOLD = """
import sys, time
from pathlib import Path
from tercet.core.run_folder import RunFolder
with RunFolder(Path(sys.argv[1])).lock():
    print("held", flush=True)
    time.sleep(60)
"""


def start_holder(folder: Path) -> subprocess.Popen[str]:
    """Start a process that holds the lock of a run."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


# ------------------------------------------------------------------------------------------ names


def test_a_run_gets_the_next_free_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    paths = [RunFolder.create(None, "my data").path for _ in range(3)]
    assert paths == [Path("runs") / f"my-data-{number}" for number in (1, 2, 3)]
    assert all(path.is_dir() for path in paths)


def _create(folder: str) -> str:
    os.chdir(folder)
    return str(RunFolder.create(None, "data").path)


def test_runs_that_start_together_get_different_folders(tmp_path: Path) -> None:
    with multiprocessing.get_context("fork").Pool(4) as pool:
        paths = pool.map(_create, [str(tmp_path)] * 20, chunksize=1)
    assert len(set(paths)) == 20


@pytest.mark.parametrize("data", ["/", "..", "", "émeu 🐦", "x" * 300, "new\nline"])
def test_any_data_name_gives_a_folder_below_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: str) -> None:
    monkeypatch.chdir(tmp_path)
    path = RunFolder.create(None, data).path
    assert path.resolve().parent == tmp_path / "runs"


def test_a_given_folder_is_created_with_its_parents(tmp_path: Path) -> None:
    assert RunFolder.create(str(tmp_path / "a" / "b"), "data").path == tmp_path / "a" / "b"


@pytest.mark.parametrize("kind", ["full folder", "file", "below a file"])
def test_existing_files_are_not_changed(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "thesis"
    file = path / "chapter.txt" if kind == "full folder" else path
    file.parent.mkdir(exist_ok=True)
    file.write_text("text")
    with pytest.raises(StorageError, match="thesis"):
        RunFolder.create(str(path / "run" if kind == "below a file" else path), "data")
    assert file.read_text() == "text"


def test_opening_another_folder_raises(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(StorageError, match="not a run"):
            RunFolder.open(path)


def test_members_and_methods_have_separate_files(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    member = run.member("a/b c")
    assert member.path == tmp_path / "members" / "a-b-c"
    assert member.fold(0).path == member.path / "folds" / "1"
    assert run.predictions("a", "test") != run.predictions("a", "validation")


def test_a_member_is_finished_when_its_summary_is_written(tmp_path: Path) -> None:
    member = RunFolder(tmp_path).member("a")
    assert not member.finished()
    member.finish({"seconds": 1.5})
    assert member.finished() and member.summary() == {"seconds": 1.5}


# ------------------------------------------------------------------------------------------ the lock


def test_a_second_process_cannot_acquire_the_lock_until_the_first_has_ended(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    process = start_holder(tmp_path)
    try:
        with pytest.raises(StorageError, match=f"process {process.pid}") as error, run.lock():
            pass
        assert error.value.exit_code == 5
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
    with run.lock():  # the killed process left its lock file
        pass


def test_a_run_can_be_locked_repeatedly(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    for _ in range(3):
        with run.lock():
            pass


def test_the_same_process_cannot_acquire_the_lock_twice(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    with run.lock():
        with pytest.raises(StorageError), run.lock():
            pass
        process = subprocess.run([sys.executable, "-c", HOLD, str(tmp_path)], capture_output=True, text=True)
        assert process.returncode and "StorageError" in process.stderr  # the failed attempt did not release the lock


@pytest.mark.parametrize("content", ["", "999999999", "not a number", pytest.param(str(os.getpid()), id="own"), "1"])
def test_a_stale_lock_file_is_taken_over(tmp_path: Path, content: str) -> None:
    # The own process ID can also be stale: after a restart, a container has the same IDs.
    (tmp_path / ".lock").write_text(content)
    with RunFolder(tmp_path).lock():
        pass


def test_an_error_releases_the_lock(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    with pytest.raises(ZeroDivisionError), run.lock():
        raise ZeroDivisionError
    with run.lock():
        pass


def _acquire(folder: str) -> bool:
    try:
        with RunFolder(Path(folder)).lock():
            held = Path(folder) / "held"
            os.close(os.open(held, os.O_CREAT | os.O_EXCL))  # fails if two processes hold the lock
            time.sleep(0.01)
            held.unlink()
            return True
    except StorageError:
        return False


def test_two_processes_never_hold_the_lock_together(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text("999999999")  # stale, so that all processes try to take it over
    with multiprocessing.get_context("fork").Pool(8) as pool:
        assert any(pool.map(_acquire, [str(tmp_path)] * 40, chunksize=1))


# ------------------------------------------------------------------------------------------ a finished run


def test_a_finished_run_contains_no_temporary_files(finished: Run) -> None:
    names = [path.name for path in finished.path.rglob("*")]
    assert not [name for name in names if name.endswith(".tmp") or name.startswith(".bundle-")]


def write_leftovers(folder: Path) -> list[Path]:
    """Write temporary files as a killed process would leave them."""
    paths = [
        folder / ".bundle-abc" / "new" / "manifest.json",
        folder / "members" / "wide" / ".bundle-x" / "old" / "1-wide.safetensors",
        folder / "predictions" / ".average-test.npz.k3j.tmp",
    ]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
    return paths


def test_temporary_files_of_a_crash_are_deleted(tmp_path: Path) -> None:
    leftovers = write_leftovers(tmp_path)
    (tmp_path / "notes.tmp.txt").write_text("mine")
    RunFolder(tmp_path).remove_unfinished()
    assert not any(path.exists() for path in leftovers)
    assert not list(tmp_path.rglob(".bundle-*"))
    assert (tmp_path / "notes.tmp.txt").read_text() == "mine"


@pytest.mark.slow
def test_resume_deletes_temporary_files_of_a_crash(finished: Run) -> None:
    leftovers = write_leftovers(finished.path)
    train(resume=finished.path)
    assert not any(path.exists() for path in leftovers)


@pytest.mark.parametrize(
    ("data", "options", "kind"),
    [
        ("no-such-data", {}, DataError),
        ("digits", {"data": {"image_column": "file"}}, ConfigError),
        ("digits", {"members": ["small-cnn", "leaf-cnn"]}, ConfigError),
    ],
)
def test_invalid_data_or_options_leave_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: str, options: dict, kind: type[Exception]
) -> None:
    monkeypatch.chdir(tmp_path)
    for output in (None, "run"):  # so that the corrected command can use the same folder
        with pytest.raises(kind):
            train(data, **{"members": ["small-cnn"], "output": output, **options})
    assert not [path for path in tmp_path.rglob("*") if path.name != "runs"]
