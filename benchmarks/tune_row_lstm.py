"""The row-LSTM of the notebook before and after hyperparameter tuning, on 6,000 Fashion-MNIST images.

    python benchmarks/tune_row_lstm.py --data-dir FOLDER [--output FOLDER]

24 trials over examples/row_lstm_space.yaml (validation only, seed 0), then the original and the best options are
trained with three other seeds and tested on 10,000 images. If the output folder exists, interrupted work is resumed.
Results are written to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from rich.console import Console

import tercet
from stored_results import run_benchmark
from tercet.core.runtime import describe_environment
from tercet.core.yaml_io import read_mapping

HERE = Path(__file__).parent
SPACE = HERE.parent / "examples" / "row_lstm_space.yaml"
SEEDS = (1, 2, 3)
DATA = {"limit": 6_000, "val_fraction": 0.05}
BEFORE: dict[str, Any] = {
    "members": ["row-lstm"],
    "epochs": 5,
    "lr": 1e-3,
    "batch_size": 32,
    "hidden_size": 128,
    "num_layers": 2,
    "head_hidden_dim": 32,
}
SCORES = ("accuracy", "macro_f1", "kappa")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", default=str(HERE.parents[1] / "shared" / "data"))
    parser.add_argument("--output", default="runs/row-lstm-tuning")
    arguments = parser.parse_args()
    output, console = Path(arguments.output), Console(stderr=True)
    data = {**DATA, "data_dir": arguments.data_dir}
    search = output / "search"
    if search.exists():
        print(f"{output} exists: what is finished there is not run again", file=sys.stderr)
        tuning = tercet.tune(resume=search, console=console)
    else:
        tuning = tercet.tune(
            "fashion-mnist", space=SPACE, trials=24, output=str(search), data=data, console=console, **BEFORE
        )
    members_by_name: dict[str, list[dict[str, Any]]] = {"before": [], "after": []}
    for seed in SEEDS:
        for name, options in (("before", {**BEFORE, "data": data}), ("after", read_mapping(tuning.best))):
            path = output / f"{name}-{seed}"
            if path.exists():
                run = tercet.train(resume=path, console=console)
            else:
                run = tercet.train("fashion-mnist", console=console, **{**options, "output": str(path), "seed": seed})
            members_by_name[name].append(run.metrics["members"][0])
    lines = [f"{name}: {summary(members)}" for name, members in members_by_name.items()]
    text = f"{tuning.report}\ntest split, seeds {', '.join(map(str, SEEDS))}\n" + "\n".join(lines) + "\n"
    rows = {name: [row(member) for member in members] for name, members in members_by_name.items()}
    trials = [
        {key: trial[key] for key in ("number", "state", "score", "epochs", "options")}
        for trial in tuning.metrics["trials"]
    ]
    document = {"environment": describe_environment(), **rows, "trials": trials}
    (HERE / "results" / "tune_row_lstm.json").write_text(json.dumps(document, indent=1) + "\n")
    (HERE / "results" / "tune_row_lstm.txt").write_text(text)
    print(text)
    return 0


def row(member: dict[str, Any]) -> dict[str, Any]:
    """Return scores and cost of a training."""
    scores = {split: {key: member[split][key] for key in SCORES} for split in ("validation", "test")}
    return {"parameters": member["parameters"], "seconds": member["seconds"], **scores}


def summary(members: list[dict[str, Any]]) -> str:
    """Return mean and standard deviation over the seeds."""
    parts = []
    for key in SCORES:
        values = [member["test"][key] for member in members]
        parts.append(f"{key} {mean(values):.4f} ± {stdev(values):.4f}")
    seconds = mean(member["seconds"] for member in members)
    return f"{', '.join(parts)}, {members[0]['parameters']:,} parameters, {seconds:.1f} s"


if __name__ == "__main__":
    sys.exit(run_benchmark(main))
