"""Five-fold cross-validation of potato leaves, grouped by original and at random, which leaks augmented copies.

    python benchmarks/potato_leaves.py --data-dir FOLDER [--output FOLDER] [any option of tercet crossval]

FOLDER contains potato-leaves/potato-leaf-160.zip and weights/mobilenetv2_035_keras_backbone.safetensors. The 500 images
of healthy leaves are rotated and flipped copies of 125 originals. The test split of the archive, which keeps copies of
an original together, is outside the folds; both fold ensembles are evaluated on it. TTA with flips is used in a fold if
it is better on validation. Results are written to benchmarks/results/.
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
from tercet.cli.command import find_command
from tercet.core.runtime import describe_environment
from tercet.experiments.crossval import run_crossval

HERE = Path(__file__).parent
METRICS = ("protocol", "folds", "pooled", "mean", "sd", "members", "ensembles", "test", "test_by_fold")
SPLITS = {"by original": ["--data.group-from", r"healthy-(\d+)-"], "at random": []}
OPTIONS = [
    *("--folds", "5", "--members", "mobilenetv2_035", "--backbone.args", "{pad_type: same, bn_eps: 0.001}"),
    *("--input.size", "96", "--input.mean", "0.5", "--input.std", "0.5"),
    *("--epochs", "8", "--lr", "1e-3", "--schedule", "cosine", "--batch-size", "32"),
    *("--augment", "light-flip", "--tta", "flip+vflip"),
]


def summary(results_by_split: dict[str, Any]) -> str:
    """Return one line per split: cross-validated scores, and the test accuracy of the fold ensemble."""
    lines = ["split         pooled accuracy (95 %)    over folds         log loss  own test split, mean of folds"]
    for name, metrics in results_by_split.items():
        pooled, test = metrics["pooled"], metrics["test"]
        interval = f"{pooled['accuracy_low']:.3f}-{pooled['accuracy_high']:.3f}"
        spread = f"{metrics['mean']['accuracy']:.4f} ± {metrics['sd']['accuracy']:.4f}"
        reached = f"{test['accuracy']:.4f} ({test['accuracy_low']:.3f}-{test['accuracy_high']:.3f})"
        lines.append(
            f"{name:<12}  {pooled['accuracy']:.4f} ({interval})      {spread}    {pooled['log_loss']:.3f}     {reached}"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", default=str(HERE.parents[1] / "shared" / "data"))
    parser.add_argument("--output", default=None, help="folder for both cross-validations")
    arguments, extra = parser.parse_known_args()
    folder = Path(arguments.data_dir)
    data = folder / "potato-leaves" / "potato-leaf-160.zip"
    weights = folder / "weights" / "mobilenetv2_035_keras_backbone.safetensors"
    results_by_split: dict[str, Any] = {}
    text = ""
    started = time.monotonic()
    for name, options in SPLITS.items():
        output = ["--output", str(Path(arguments.output) / name.replace(" ", "-"))] if arguments.output else []
        parsed = find_command("crossval").parse_args(
            [str(data), *OPTIONS, "--weights", str(weights), *options, *output, *extra]
        )
        result = run_crossval(str(data), parsed, resume=None, console=Console(stderr=True))
        results_by_split[name] = {key: result.metrics[key] for key in METRICS}
        text += f"SPLIT {name.upper()}\n\n{result.report}\n\n"
    seconds = time.monotonic() - started
    text += f"{summary(results_by_split)}\n\nwhole command: {seconds / 60:.1f} minutes\n"
    results = HERE / "results"
    results.mkdir(exist_ok=True)
    document = {"seconds": seconds, "environment": describe_environment(), **results_by_split}
    (results / "potato_leaves.json").write_text(json.dumps(document, indent=1) + "\n")
    (results / "potato_leaves.txt").write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(run_benchmark(main))
