"""Multi-label classification of six attributes of product photos: CNN-RNN compared with independent labels.

    python benchmarks/fashion_products.py [--data ZIP] [--weights FILE] [--seeds 3]

9,583 photos of 112 x 112 pixels; gender, masterCategory, subCategory, baseColour, season and usage give 96 labels, six
per image. Both members fine-tune the same pretrained MobileNetV2 at width 0.35 with the same images and steps, and
differ in the label decoder only. Epochs and thresholds are chosen on validation; the test split is used once. Each
finished seed is written to benchmarks/results/fashion_products.jsonl, and is not run again without --again.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch

import tercet
from stored_results import add_storage_options, append_row, run_benchmark, sources_line, stored_rows

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
DATA = SHARED / "fashion-products" / "fashion-products-112.zip"
WEIGHTS = SHARED / "weights" / "mobilenetv2_035_keras_backbone.safetensors"
ATTRIBUTES = ["gender", "masterCategory", "subCategory", "baseColour", "season", "usage"]
SCORES = ("o_f1", "c_f1", "map", "exact_match", "hamming", "o_precision", "o_recall", "c_precision", "c_recall")


def run(seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train both members with one seed, and return their test scores."""
    network = {
        "model": "mobilenetv2_035",
        "backbone": {"args": {"pad_type": "same", "bn_eps": 1e-3}},
        "weights": str(arguments.weights),
        "head": "linear",
        "input": {"size": [arguments.size], "mean": [0.5], "std": [0.5]},
    }
    decoders = {"sigmoid": {}, "cnn-rnn": {"labels": {"decoder": "cnn-rnn"}}}
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        result = tercet.train(
            arguments.data,
            members=[{"name": name, **network, **decoder} for name, decoder in decoders.items()],
            data={
                "image_column": "id",
                "image_pattern": "{id}.jpg",
                "label_columns": ATTRIBUTES,
                "limit": arguments.limit,
            },
            epochs=arguments.epochs,
            lr=1e-3,
            schedule="cosine",
            augment="light-flip",
            monitor="o_f1",
            tensorboard=False,
            seed=seed,
            output=f"{folder}/run",
        )
        rows = [*result.metrics["members"], *result.metrics["ensembles"]]
    return {
        "seed": seed,
        "size": arguments.size,
        "epochs": arguments.epochs,
        "limit": arguments.limit,
        "n": rows[0]["test"]["n"],
        "rows": {row["name"]: {key: row["test"][key] for key in SCORES} for row in rows},
        "train_seconds": {row["name"]: row["seconds"] for row in result.metrics["members"]},
        "parameters": {row["name"]: row["parameters"] for row in result.metrics["members"]},
        "whole_seconds": time.perf_counter() - started,
        "torch": torch.__version__,
    }


def summarise(results: list[dict[str, Any]]) -> str:
    """Return mean and standard deviation over the seeds, one line per member or ensemble method."""
    first = results[0]
    lines = [
        f"{len(results)} seeds, {first['limit']} training images of {first['size']} pixels, {first['epochs']} epochs, "
        f"n = {first['n']}",
        f"{'':<9} {'O-F1':>16} {'C-F1':>16} {'mAP':>16} {'exact match':>16} {'Hamming':>16}",
    ]
    for name in first["rows"]:
        cells = []
        for key in SCORES[:5]:
            values = [result["rows"][name][key] for result in results]
            cells.append(f"{mean(values):.4f} ± {stdev(values) if len(values) > 1 else float('nan'):.4f}")
        lines.append(f"{name:<9} " + " ".join(f"{cell:>16}" for cell in cells))
    gains = [result["rows"]["cnn-rnn"]["o_f1"] - result["rows"]["sigmoid"]["o_f1"] for result in results]
    lines.append("O-F1 of cnn-rnn minus sigmoid, per seed: " + ", ".join(f"{gain:+.4f}" for gain in gains))
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=str(DATA))
    parser.add_argument("--weights", default=str(WEIGHTS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--limit", type=int, default=4000)
    parser.add_argument("--size", type=int, default=64)
    add_storage_options(parser, "fashion_products.jsonl")
    arguments = parser.parse_args()
    setting = {key: getattr(arguments, key) for key in ("size", "epochs", "limit")}
    seeds = set(range(arguments.seeds))

    def keep(row: dict[str, Any]) -> bool:
        return setting.items() <= row.items() and row["seed"] in seeds

    results = stored_rows(arguments.results, again=arguments.again, keep=keep)
    stored = len(results)
    for seed in sorted(seeds - {row["seed"] for row in results}):
        results.append(run(seed, arguments))
        append_row(arguments.results, results[-1])
        print(f"seed {seed}: {results[-1]['whole_seconds']:.0f} s", flush=True)
    print(sources_line(stored, len(results) - stored, arguments.results))
    print(summarise(sorted(results, key=lambda row: int(row["seed"]))))
    return 0


if __name__ == "__main__":
    sys.exit(run_benchmark(main))
