"""Leave-one-hand-out cross-validation on the Massey hand signs: 36 classes, five hands.

    python benchmarks/hand_signs.py --data-dir FOLDER [--output CV] [any option of tercet crossval]

FOLDER contains hand-signs/asl-massey-160.zip and weights/mobilenetv2_035_keras_backbone.safetensors. Each hand is held
out once; epochs are chosen on one of the other four hands. Results are written to benchmarks/results/.
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
from tercet.experiments.crossval import run_crossval

HERE = Path(__file__).parent
METRICS = ("protocol", "folds", "pooled", "mean", "sd", "members", "ensembles", "comparison")
OPTIONS = [
    "--leave-one-group-out",
    *("--data.image-column", "file", "--data.group-column", "hand", "--data.val-fraction", "0.2"),
    *("--members", "mobilenetv2_035", "--backbone.args", "{pad_type: same, bn_eps: 0.001}"),
    *("--input.size", "96", "--input.mean", "0.5", "--input.std", "0.5"),
    *("--epochs", "12", "--lr", "1e-3", "--schedule", "cosine", "--batch-size", "32", "--augment", "light"),
]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", default=str(HERE.parents[1] / "shared" / "data"))
    arguments, options = parser.parse_known_args()
    folder = Path(arguments.data_dir)
    data = folder / "hand-signs" / "asl-massey-160.zip"
    weights = folder / "weights" / "mobilenetv2_035_keras_backbone.safetensors"
    parsed = find_command("crossval").parse_args([str(data), *OPTIONS, "--weights", str(weights), *options])
    started = time.monotonic()
    result = run_crossval(str(data), parsed, resume=None, console=Console(stderr=True))
    seconds = time.monotonic() - started
    document = {
        "seconds": seconds,
        "environment": describe_environment(),
        **{key: result.metrics[key] for key in METRICS},
    }
    text = f"{result.report}\nwhole command: {seconds / 60:.1f} minutes\n"
    results = HERE / "results"
    results.mkdir(exist_ok=True)
    (results / "hand_signs.json").write_text(json.dumps(document, indent=1) + "\n")
    (results / "hand_signs.txt").write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(run_benchmark(main))
