"""A trained ensemble of four networks as ONNX in 32 and 8 bits and as a program of PyTorch: differences, scores, speed.

    python benchmarks/ship_potato.py --data-dir FOLDER [--output FOLDER] [--epochs 3] [--seconds 3]

FOLDER holds potato-leaves/potato-leaf-160.zip and weights/mobilenetv2_035_keras_backbone.safetensors. A fine-tuned
MobileNetV2 0.35, the same with an LSTM over a snake, a row-LSTM and a small DeiT-tiny from scratch are trained for a
few epochs and fused in the way that validation chooses. Differences are those of the proof, on validation images; the
scores are of the archive's own test split. Bundle and files take turns for the latencies, with one thread. The files
stay in the output folder, where benchmarks/serving_load.py can serve them. Results go to benchmarks/results/.
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
from tercet.core.resize import fit_size
from tercet.core.runtime import describe_environment
from tercet.export.benchmark import load_model, measure
from tercet.export.torch_preprocessing import InputGeometry, Preprocess
from tercet.inference.evaluate_file import evaluate_file
from tercet.inference.predict import evaluate

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
    """Return the run of the four members."""
    known = {**MOBILENET, "weights": str(weights)}
    members = [{"name": "mobilenet", **known}, {"name": "mobilenet-snake", **known, **SNAKE}, "row-lstm", DEIT]
    leaves = {"group_from": r"healthy-(\d+)-"}
    return tercet.train(str(data), members=members, epochs=epochs, lr=1e-3, data=leaves, output=str(folder))


def scores(found: Any) -> dict[str, float]:
    """Return what a person asks about one road's answers on the test split."""
    said = found.rows[0].scores
    return {name: round(float(getattr(said, name)), 4) for name in ("accuracy", "log_loss", "ece")}


def resizes(seconds: float) -> dict[str, Any]:
    """Return medians of the program's resize and of PyTorch's, in turns: a photograph to 224 pixels, one thread."""
    torch.set_num_threads(1)
    found = {}
    for size in ((900, 1200), (3000, 4000)):
        bytes_ = torch.randint(0, 256, (1, *size, 3), dtype=torch.uint8)
        prepare = Preprocess(InputGeometry((224, 224), 3, "squash", 1.0, "bilinear"))

        def plain(images: torch.Tensor) -> torch.Tensor:
            return fit_size(images.permute(0, 3, 1, 2).float() / 255, (224, 224))

        taken: dict[str, list[float]] = {"program": [], "pytorch": []}
        end = time.perf_counter() + 2 * seconds
        while time.perf_counter() < end:
            for name, work in (("program", prepare), ("pytorch", plain)):
                started = time.perf_counter()
                work(bytes_)
                taken[name].append(1000 * (time.perf_counter() - started))
        found["x".join(map(str, size))] = {f"{name}_ms": round(median(times), 1) for name, times in taken.items()}
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", default=str(HERE.parents[1] / "shared" / "data"))
    parser.add_argument("--output", help="folder for the run and its files (default: one that is removed)")
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--seconds", type=float, default=3, help="of each latency")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as passing:
        place = Path(given.output or passing)
        place.mkdir(parents=True, exist_ok=True)
        leaves = Path(given.data_dir) / "potato-leaves" / "potato-leaf-160.zip"
        weights = Path(given.data_dir) / "weights" / "mobilenetv2_035_keras_backbone.safetensors"
        run = train(leaves, weights, place / "run", given.epochs)
        asked = scores(evaluate(run.path, str(leaves)))
        found: dict[str, Any] = {"bundle": {"chosen": run.metrics["chosen"], "test": asked}}
        roads = [load_model(run.path / "bundle", 1)]
        for name, ending, options in KINDS:
            started = time.perf_counter()
            done = tercet.export_model(run.path, place / f"{name}{ending}", force=True, **options)
            proof = done.verification
            found[name] = {
                "megabytes": round(done.path.stat().st_size / 1e6, 1),
                "export_seconds": round(time.perf_counter() - started, 1),
                "images": proof.images,
                "largest_gap": proof.largest_gap,
                "member_gap": proof.member_gap,
                "same_answer": proof.agreement,
                "validation": {"bundle": proof.accuracy_bundle, "file": proof.accuracy_file},
                "test": scores(evaluate_file(done.path, str(leaves))) if ending == ".onnx" else None,
                "kept_in_32_bits": done.fp32_reasons,
            }
            roads.append(load_model(done.path, 1))
        for batch in (1, 32):
            told = measure(roads, batch, threads=1, seconds=given.seconds, size=(160, 160))
            for name, one in zip(found, told, strict=True):
                found[name][f"p50_ms_batch_{batch}"] = round(one.p50, 2)
                found[name][f"times_the_bundle_batch_{batch}"] = round(told[0].p50 / one.p50, 2)
    found["resize"] = resizes(given.seconds)
    text = json.dumps({"environment": describe_environment(), "epochs": given.epochs, **found}, indent=1) + "\n"
    (HERE / "results" / "ship_potato.json").write_text(text, "utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
