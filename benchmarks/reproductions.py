"""Recipes at scale small with locally available images and pretrained networks.

    python benchmarks/reproductions.py NAME --data-dir FOLDER [--output RUN] [--steps PART,...]
    python benchmarks/reproductions.py NAME --resume RUN [--steps PART,...]

Runs `tercet reproduce` with replaced networks and images; results are written to benchmarks/results/, those of some
parts to files of their own. FOLDER contains
mnist/, fashion-mnist/, hand-signs/asl-massey-160.zip, potato-leaves/potato-leaf-160.zip, e2e3m-predictions/, and
weights/ with three pretrained networks: MobileNetV2, MobileNetV1 at width 0.75, and MobileNetV2 at width 0.35. NAME is
a recipe, or a recipe on other images: e2e-3m-hand-signs, fingerspelling-hand-signs, cassava-potato, leaves-potato.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from stored_results import run_benchmark
from tercet.config.experiments import REPRODUCE
from tercet.config.recipe import load_recipe
from tercet.experiments.reproduce import Reproduction, run_reproduction
from tercet.experiments.reproduce_steps import network_names

HERE = Path(__file__).parent
HALF = {"mean": [0.5], "std": [0.5]}  # normalization of the TensorFlow networks
SIGNS = {"image_column": "file", "group_column": "hand"}
POTATO = {"group_from": r"healthy-(\d+)-"}
OTHER_IMAGES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "e2e-3m-hand-signs": ("e2e-3m", "hand-signs/asl-massey-160.zip", SIGNS),
    "fingerspelling-hand-signs": ("fingerspelling", "hand-signs/asl-massey-160.zip", SIGNS),
    "cassava-potato": ("cassava", "potato-leaves/potato-leaf-160.zip", POTATO),
    "leaves-potato": ("leaves", "potato-leaves/potato-leaf-160.zip", POTATO),
}
SIZES = {"e2e-3m": 48, "e2e-3m-hand-signs": 64, "rnn-heads": 40, "training-strategy": 40, "leaves-potato": 112}
"""Input size in pixels (default: 96)."""
LONGER = [{"lr": 1e-3, "epochs": 8}, {"lr": 1e-4, "epochs": 2}, {"lr": 1e-5, "epochs": 1}]
"""Stages for small data sets."""


def networks(weights: Path, recipe: str, size: int) -> dict[str, dict[str, Any]]:
    """Return the replacement of each network of a recipe."""
    keras = {"pad_type": "same", "bn_eps": 0.001}
    stride = {"output_stride": 16} if recipe == "rnn-heads" else {}
    size_option = {"size": [size]}
    return {
        "mobilenetv2_100": {
            "weights": str(weights / "mobilenetv2_100_onnxzoo_backbone.safetensors"),
            "model": "mobilenetv2_100",
            "input": size_option,
        },
        "mobilenetv1_100": {
            "weights": str(weights / "mobilenetv1_075_tf_full_in1k.safetensors"),
            "model": "mobilenetv1_075",
            "backbone": {"args": keras},
            "input": {**size_option, **HALF},
        },
        "mobilenetv2_050": {
            "weights": str(weights / "mobilenetv2_035_keras_backbone.safetensors"),
            "model": "mobilenetv2_035",
            "backbone": {"args": {**keras, **stride}},
            "input": {**size_option, **HALF},
        },
    }


def start(name: str, folder: Path, more: dict[str, Any], console: Console) -> Reproduction:
    """Start a reproduction with replaced networks."""
    recipe, images, options = OTHER_IMAGES.get(name, (name, None, {}))
    size = SIZES.get(name, 96)
    used = set(network_names(load_recipe(recipe).scales["small"]))
    replaced = {old: new for old, new in networks(folder / "weights", recipe, size).items() if old in used}
    if name == "leaves-potato":  # the smallest network suffices for 840 images
        replaced["mobilenetv2_100"] = networks(folder / "weights", recipe, size)["mobilenetv2_050"]
    if name == "e2e-3m-hand-signs":
        replaced = {old: {**new, "stages": LONGER, "batch_size": 32} for old, new in replaced.items()}
    all_options = {"replace": [replaced] if replaced else [], "data": {**options, "data_dir": str(folder)}, **more}
    source = None if images is None else str(folder / images)
    return run_reproduction(recipe, source, REPRODUCE.parse_object(all_options), resume=None, console=console)


def save(name: str, result: Reproduction) -> None:
    """Write metrics and reports, without local paths."""
    results = HERE / "results"
    results.mkdir(exist_ok=True)
    document = {key: value for key, value in result.metrics.items() if key != "steps"}
    document |= {"environment": json.loads((result.path / "environment.json").read_text())}
    (results / f"reproduction-{name}.json").write_text(json.dumps(document, indent=1) + "\n")
    reports = [path.read_text() for path in sorted(result.path.glob("steps/*/report.txt"))]
    text = result.report.partition("steps:\n")[0] + "\n" + "\n".join(reports)
    (results / f"reproduction-{name}.txt").write_text(text)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("--data-dir", default=str(HERE.parents[1] / "shared" / "data"))
    parser.add_argument("--output")
    parser.add_argument("--resume")
    parser.add_argument("--steps", default="")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    console = Console(stderr=True)
    more: dict[str, Any] = {
        "threads": arguments.threads,
        "steps": [step for step in arguments.steps.split(",") if step],
    }
    if arguments.resume:
        result = run_reproduction(None, None, REPRODUCE.parse_object(more), resume=arguments.resume, console=console)
    else:
        options = {**more, **({"output": arguments.output} if arguments.output else {})}
        result = start(arguments.name, Path(arguments.data_dir), options, console)
    save("-".join([arguments.name, *more["steps"]]), result)
    print(result.report)
    return result.exit_code


if __name__ == "__main__":
    sys.exit(run_benchmark(main))
