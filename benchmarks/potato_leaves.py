"""Five folds of potato leaves, split by original, beside a random split, which leaks augmented copies.

    python benchmarks/potato_leaves.py --data-dir FOLDER [--output FOLDER] [any option of tercet crossval]

FOLDER holds potato-leaves/potato-leaf-160.zip and weights/mobilenetv2_035_keras_backbone.safetensors. The 500 pictures
of healthy leaves are 125 originals, turned and mirrored. The archive's own test split keeps originals whole and stays
out of both; there the two fold ensembles meet. Mirrored views are used in a fold only where they are better on its
validation images. Report and figures go to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from tercet.config.experiments import CROSSVAL
from tercet.core.runtime import describe_environment
from tercet.experiments.crossval import run_crossval

HERE = Path(__file__).parent
KEPT = ("protocol", "folds", "pooled", "mean", "sd", "members", "ensembles", "test", "test_by_fold")
SPLITS = {"by original": ["--data.group-from", r"healthy-(\d+)-"], "at random": []}
OPTIONS = [
    *("--folds", "5", "--members", "mobilenetv2_035", "--backbone.args", "{pad_type: same, bn_eps: 0.001}"),
    *("--input.size", "96", "--input.mean", "0.5", "--input.std", "0.5"),
    *("--epochs", "8", "--lr", "1e-3", "--schedule", "cosine", "--batch-size", "32"),
    *("--augment", "light-flip", "--tta", "flip+vflip"),
]


def summary(found: dict[str, Any]) -> str:
    """Return one line a way to split: what it claims, and what its ensemble reaches on the test split."""
    lines = ["split         pooled accuracy (95 %)    over folds         log loss  own test split, mean of folds"]
    for name, metrics in found.items():
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
    arguments, more = parser.parse_known_args()
    folder = Path(arguments.data_dir)
    data = folder / "potato-leaves" / "potato-leaf-160.zip"
    weights = folder / "weights" / "mobilenetv2_035_keras_backbone.safetensors"
    found: dict[str, Any] = {}
    text = ""
    started = time.monotonic()
    for name, options in SPLITS.items():
        place = ["--output", str(Path(arguments.output) / name.replace(" ", "-"))] if arguments.output else []
        parsed = CROSSVAL.parse_args([str(data), *OPTIONS, "--weights", str(weights), *options, *place, *more])
        done = run_crossval(str(data), parsed, resume=None, console=Console(stderr=True))
        found[name] = {key: done.metrics[key] for key in KEPT}
        text += f"SPLIT {name.upper()}\n\n{done.report}\n\n"
    seconds = time.monotonic() - started
    text += f"{summary(found)}\n\nwhole command: {seconds / 60:.1f} minutes\n"
    results = HERE / "results"
    results.mkdir(exist_ok=True)
    kept = {"seconds": seconds, "environment": describe_environment(), **found}
    (results / "potato_leaves.json").write_text(json.dumps(kept, indent=1) + "\n")
    (results / "potato_leaves.txt").write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
