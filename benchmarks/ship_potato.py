"""A trained ensemble of four networks exported as ONNX in 32 and 8 bits and as torch program: gaps, scores, latency.

    python benchmarks/ship_potato.py --data-dir FOLDER [--output FOLDER] [--epochs 3] [--seconds 3]

FOLDER contains potato-leaves/potato-leaf-160.zip and weights/mobilenetv2_035_keras_backbone.safetensors. A fine-tuned
MobileNetV2 0.35, the same with an LSTM over a snake scan, a row-LSTM and a small DeiT-tiny from scratch are trained for
a few epochs and combined by the method chosen on validation. Gaps are those of the export verification, on validation
images; scores are measured on the test split of the archive. Latencies are measured in turns, with one thread. The
files remain in the output folder, for benchmarks/serving_load.py. Results are written to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch

import tercet
from stored_results import run_benchmark
from tercet.core.resize import fit_size
from tercet.core.runtime import describe_environment
from tercet.core.types import InputSpec
from tercet.export.benchmark import measure
from tercet.export.torch_preprocessing import DynamicPreprocess
from tercet.inference.evaluate import evaluate
from tercet.inference.predictor import open_predictor

HERE = Path(__file__).parent
MOBILENET = {
    "model": "mobilenetv2_035",
    "backbone": {"args": {"pad_type": "same", "bn_eps": 0.001}},
    "input": {"size": 96, "mean": 0.5, "std": 0.5},
}
SNAKE = {"recurrent": "lstm", "hidden_size": 32, "scan": "snake", "bidirectional": True}
KINDS: list[tuple[str, str, dict[str, Any]]] = [
    ("fp32", ".onnx", {}),
    ("int8", ".onnx", {"int8": True}),
    ("program", ".pt2", {"format": "torch"}),
]
DEIT = {"name": "deit", "model": "deit_tiny_patch16_224", "input": {"size": 64}, "pretrained": False}


def train(data: Path, weights: Path, folder: Path, epochs: float) -> Any:
    """Train the four members."""
    mobilenet = {**MOBILENET, "weights": str(weights)}
    members = [{"name": "mobilenet", **mobilenet}, {"name": "mobilenet-snake", **mobilenet, **SNAKE}, "row-lstm", DEIT]
    options = {"group_from": r"healthy-(\d+)-"}
    return tercet.train(str(data), members=members, epochs=epochs, lr=1e-3, data=options, output=str(folder))


def test_scores(evaluation: Any) -> dict[str, float]:
    """Return the main scores of an evaluation."""
    values = evaluation.rows[0].scores
    return {name: round(float(getattr(values, name)), 4) for name in ("accuracy", "log_loss", "ece")}


def resize_times(seconds: float) -> dict[str, Any]:
    """Return the median times of the program's resize and of PyTorch's: a photo to 224 pixels, one thread."""
    torch.set_num_threads(1)
    medians = {}
    for size in ((900, 1200), (3000, 4000)):
        bytes_ = torch.randint(0, 256, (1, *size, 3), dtype=torch.uint8)
        prepare = DynamicPreprocess(InputSpec((224, 224)))

        def pytorch_resize(images: torch.Tensor) -> torch.Tensor:
            return fit_size(images.permute(0, 3, 1, 2).float() / 255, (224, 224))

        times_by_name: dict[str, list[float]] = {"program": [], "pytorch": []}
        end = time.perf_counter() + 2 * seconds
        while time.perf_counter() < end:
            for name, work in (("program", prepare), ("pytorch", pytorch_resize)):
                started = time.perf_counter()
                work(bytes_)
                times_by_name[name].append(1000 * (time.perf_counter() - started))
        key = "x".join(map(str, size))
        medians[key] = {f"{name}_ms": round(median(times), 1) for name, times in times_by_name.items()}
    return medians


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", default=str(HERE.parents[1] / "shared" / "data"))
    parser.add_argument("--output", help="folder for the run and its files (default: a temporary folder)")
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--seconds", type=float, default=3, help="time of each latency measurement")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        output = Path(arguments.output or temporary)
        output.mkdir(parents=True, exist_ok=True)
        leaves = Path(arguments.data_dir) / "potato-leaves" / "potato-leaf-160.zip"
        weights = Path(arguments.data_dir) / "weights" / "mobilenetv2_035_keras_backbone.safetensors"
        run = train(leaves, weights, output / "run", arguments.epochs)
        bundle_scores = test_scores(evaluate(run.path, str(leaves)))
        results: dict[str, Any] = {"bundle": {"chosen": run.metrics["chosen"], "test": bundle_scores}}
        models = [("bundle", open_predictor(run.path / "bundle"))]
        for name, ending, options in KINDS:
            started = time.perf_counter()
            export = tercet.export_model(run.path, output / f"{name}{ending}", force=True, **options)
            verification = export.verification
            results[name] = {
                "megabytes": round(export.path.stat().st_size / 1e6, 1),
                "export_seconds": round(time.perf_counter() - started, 1),
                "images": verification.images,
                "largest_gap": verification.largest_gap,
                "member_gap": verification.member_gap,
                "same_answer": verification.agreement,
                "validation": {"agreement": verification.agreement, "accuracy_change": verification.accuracy_change},
                "test": test_scores(evaluate(export.path, str(leaves))),
                "kept_in_32_bits": export.fp32_reasons,
            }
            models.append((name, open_predictor(export.path, threads=1)))
        for batch in (1, 32):
            latencies = measure(models, batch, threads=1, seconds=arguments.seconds, size=(160, 160))
            for name, latency in zip(results, latencies, strict=True):
                results[name][f"p50_ms_batch_{batch}"] = round(latency.p50, 2)
                results[name][f"times_the_bundle_batch_{batch}"] = round(latencies[0].p50 / latency.p50, 2)
    results["resize"] = resize_times(arguments.seconds)
    text = json.dumps({"environment": describe_environment(), "epochs": arguments.epochs, **results}, indent=1) + "\n"
    (HERE / "results" / "ship_potato.json").write_text(text, "utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(run_benchmark(main))
