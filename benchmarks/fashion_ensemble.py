"""Three networks from scratch on Fashion-MNIST and their ensemble, selected on validation and tested once.

    python benchmarks/fashion_ensemble.py --data-dir FOLDER [--output RUN] [--seed 0]

Runs `tercet train fashion-mnist --config benchmarks/fashion_ensemble.yaml`; prints the report and the total time, and
writes both to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from rich.console import Console

from stored_results import run_benchmark
from tercet.cli.command import find_command
from tercet.core.runtime import describe_environment
from tercet.experiments.train import run_training

HERE = Path(__file__).parent


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", default=str(HERE.parents[1] / "shared" / "data"))
    parser.add_argument("--output", default=None)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    options = ["fashion-mnist", "--config", str(HERE / "fashion_ensemble.yaml"), "--data-dir", arguments.data_dir]
    options += ["--seed", str(arguments.seed), *(["--output", arguments.output] if arguments.output else [])]
    started = time.monotonic()
    parsed = find_command("train").parse_args(options)
    run = run_training("fashion-mnist", parsed, resume=None, console=Console(stderr=True))
    seconds = time.monotonic() - started
    metrics = {
        key: run.metrics[key] for key in ("members", "ensembles", "chosen", "best_member", "comparison", "protocol")
    }
    result = {"seed": arguments.seed, "seconds": seconds, "environment": describe_environment(), **metrics}
    name = HERE / "results" / f"fashion_ensemble-{arguments.seed}"
    name.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    name.with_suffix(".txt").write_text(f"{run.report}\nwhole command: {seconds / 60:.1f} minutes\n")
    print(f"{run.report}\nwhole command: {seconds / 60:.1f} minutes")
    return 0


if __name__ == "__main__":
    sys.exit(run_benchmark(main))
