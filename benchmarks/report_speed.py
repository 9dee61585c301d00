"""Time of `tercet report` for a run with 10,000 test predictions.

    python benchmarks/report_speed.py --data-dir FOLDER

FOLDER contains fashion-mnist/. Two networks are trained for a tenth of an epoch; only the report is timed, three times.
Results are written to benchmarks/results/report_speed.txt.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev

from stored_results import run_benchmark

HERE = Path(__file__).parent
TRAIN = ["--members", "small-cnn,row-gru", "--epochs", "0.1", "--ensemble-methods", "average,vote"]


def tercet(*command: str) -> float:
    """Run a command and return its time in seconds, including the start of the process."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "tercet", *command], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def line(label: str, seconds: Sequence[float], page: Path) -> str:
    return f"{label:<44}{mean(seconds):>6.1f} ± {stdev(seconds):.1f} s, page {page.stat().st_size / 1e6:.1f} MB\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", default=str(HERE.parents[1] / "shared" / "data"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        run = Path(temporary) / "run"
        tercet("train", "fashion-mnist", "--data-dir", arguments.data_dir, "--output", str(run), *TRAIN)
        seconds = [tercet("report", str(run)) for _ in range(3)]
        text = line("Fashion-MNIST, 10,000 test predictions", seconds, run / "report.html")
    (HERE / "results" / "report_speed.txt").write_text(text, encoding="utf-8")
    print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(run_benchmark(main))
