"""CPU and wall seconds of processes, each with an empty cache of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[1] / "src"


@dataclass(frozen=True)
class Measurement:
    """What a process took."""

    cpu: float
    """User and system seconds, including child processes."""
    wall: float
    output: str

    def seconds(self) -> dict[str, float]:
        """Return the rounded times."""
        return {"cpu": round(self.cpu, 2), "wall": round(self.wall, 2)}


def measure_process(command: Sequence[str], *, threads: int, cache: Path | None = None) -> Measurement:
    """Run a command to its end.

    Args:
        command: Program and arguments.
        threads: Threads of PyTorch and NumPy per process; 0 leaves the choice to each program.
        cache: Folder of stored features (default: a new, empty one).

    Raises:
        SystemExit: The command failed.
    """
    with tempfile.TemporaryDirectory() as temporary:
        output, errors = Path(temporary) / "output", Path(temporary) / "errors"
        environment = {**os.environ, "TERCET_CACHE": str(cache or Path(temporary) / "cache")}
        environment["PYTHONPATH"] = os.pathsep.join([str(SOURCE), *filter(None, [os.environ.get("PYTHONPATH")])])
        environment.pop("OMP_NUM_THREADS", None)
        if threads:
            environment["OMP_NUM_THREADS"] = str(threads)
        with output.open("wb") as stdout, errors.open("wb") as stderr:
            started = time.perf_counter()
            process = subprocess.Popen(command, env=environment, stdout=stdout, stderr=stderr)
            _, status, usage = os.wait4(process.pid, 0)  # with its children, unlike RUSAGE_CHILDREN of all before
            wall = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            last = errors.read_text("utf-8", "replace")[-2000:]
            raise SystemExit(f"exit code {process.returncode}: {' '.join(command)}\n{last}")
        return Measurement(usage.ru_utime + usage.ru_stime, wall, output.read_text("utf-8"))


def tercet(*words: str) -> list[str]:
    """Return a command line of Tercet."""
    return [sys.executable, "-m", "tercet", *words]


def processor() -> str:
    """Return the name of the processor, empty if it is unknown."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text("utf-8").splitlines() if path.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
