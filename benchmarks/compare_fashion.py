"""A CNN against row-by-row recurrent networks of the same size on 8,000 Fashion-MNIST images, three seeds each.

    python benchmarks/compare_fashion.py --data-dir FOLDER [--output FOLDER] [--seeds 3]

This is `tercet compare fashion-mnist --backbones small-cnn,row-lstm,row-gru,row-rnn --match-parameters` with the
options below. Report and results are written to benchmarks/results/; an interrupted comparison can be continued with
`tercet compare --resume FOLDER`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from stored_results import run_benchmark
from tercet.core.runtime import describe_environment
from tercet.experiments.compare import compare

HERE = Path(__file__).parent
OPTIONS: dict[str, Any] = {
    "backbones": ["small-cnn", "row-lstm", "row-gru", "row-rnn"],
    "match_parameters": True,
    "epochs": 5,
    "lr": 1e-3,
    "threads": 1,
    "data.limit": 8_000,
    "data.val_fraction": 0.05,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", default=str(HERE.parents[1] / "shared" / "data"))
    parser.add_argument("--output", default=None)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    started = time.monotonic()
    options: dict[str, Any] = {
        "seeds": arguments.seeds,
        "output": arguments.output,
        "data.data_dir": arguments.data_dir,
    }
    run = compare("fashion-mnist", console=Console(stderr=True), **OPTIONS, **options)
    seconds = time.monotonic() - started
    print(run.report)
    print(f"{seconds:.0f} s, {run.path}")
    results = {key: run.metrics[key] for key in ("baseline", "chosen", "networks", "pairs", "failed", "protocol")}
    results |= {key: {"n": run.metrics[key]["n"], "count": run.metrics[key]["count"]} for key in ("easy", "hard")}
    document = {"seconds": seconds, "environment": describe_environment(), **results}
    (HERE / "results" / "compare_fashion.json").write_text(json.dumps(document, indent=1) + "\n")
    (HERE / "results" / "compare_fashion.txt").write_text(run.report)
    return run.exit_code


if __name__ == "__main__":
    sys.exit(run_benchmark(main))
