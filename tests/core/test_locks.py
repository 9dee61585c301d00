import errno
import subprocess
import sys
from pathlib import Path

import filelock
import pytest

from tercet.core.files import file_lock

SCRIPT = """
import sys, time
from pathlib import Path
from tercet.core.files import file_lock

with file_lock(Path(sys.argv[1]), busy=print), open(sys.argv[2], "a") as log:
    print("in ", file=log, end="", flush=True)
    time.sleep(0.1)
    print("out ", file=log, end="", flush=True)
"""


def test_only_one_process_at_a_time_holds_the_lock(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / ".lock"), str(tmp_path / "log")]
    running = [subprocess.Popen(command) for _ in range(3)]
    assert [process.wait(timeout=100) for process in running] == [0, 0, 0]
    assert (tmp_path / "log").read_text() == "in out " * 3
    assert not (tmp_path / ".lock").exists()


def test_a_file_system_without_locks_is_used_without_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def acquire(*_: object, **__: object) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(filelock.FileLock, "acquire", acquire)
    with file_lock(tmp_path / ".lock", busy=print):
        assert (tmp_path / ".lock").exists()
    assert not (tmp_path / ".lock").exists()


def test_a_held_lock_reports_its_owner(tmp_path: Path) -> None:
    def refuse(owner: str) -> None:
        raise RuntimeError(f"process {owner} holds the lock")

    with (
        file_lock(tmp_path / ".lock", busy=print),
        pytest.raises(RuntimeError, match=r"process \d+ holds"),
        file_lock(tmp_path / ".lock", busy=refuse),
    ):
        pytest.fail("the lock is held")


def test_waiting_can_be_given_up(tmp_path: Path) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    with (
        file_lock(tmp_path / ".lock", busy=print),
        pytest.raises(KeyboardInterrupt),
        file_lock(tmp_path / ".lock", busy=lambda owner: None, waiting=stop),
    ):
        pytest.fail("the lock is held")


def test_files_are_written_without_posix() -> None:
    script = "import sys; sys.modules['fcntl'] = None; import tercet.core.files, tercet.core.archives"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
