import subprocess
import sys
from pathlib import Path

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
