"""Latency of exported files compared with eager PyTorch, measured in turns within one process.

    python benchmarks/export_speed.py [--seconds 5] [--rounds 3] [--threads 1 2]

Two ensembles of three, untrained: `photos` (MobileNetV4 with a BiLSTM over rows, MobileNetV2, EfficientNet-B0, at 128
pixels) and `rows` (row-lstm, row-gru, row-bilstm on 28 x 28 grey pixels). All models map bytes to probabilities, except
`networks`, which is eager PyTorch, member by member, without preprocessing. In 8 bits all members are quantised,
without a check of their accuracy. On a busy machine only ratios within a round are meaningful. The cold start is a
process `tercet predict FILE one.jpg`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image

from stored_results import run_benchmark
from tercet.config.model import InputConfig, ModelConfig
from tercet.ensemble.bundle import Bundle, Member
from tercet.ensemble.combine import Combiner
from tercet.export.benchmark import measure
from tercet.export.onnx_assembly import assemble_onnx
from tercet.export.onnx_members import export_member
from tercet.export.quantization import calibration_batches, quantize
from tercet.inference.predictor import open_predictor
from tercet.models.build import build

RESULTS = Path(__file__).parent / "results" / "export_speed.jsonl"
PHOTO = {"pretrained": False, "input": InputConfig(size=(128,))}
ENSEMBLES: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "photos": [
        (
            "mobilenetv4_conv_small",
            {**PHOTO, "recurrent": "lstm", "scan": "rows", "hidden_size": 128, "bidirectional": True},
        ),
        ("mobilenetv2_100", PHOTO),
        ("efficientnet_b0", PHOTO),
    ],
    "rows": [("row-lstm", {}), ("row-gru", {}), ("row-bilstm", {})],
}


def make_bundle(name: str) -> Bundle:
    members = []
    channels, size = (1, (28, 28)) if name == "rows" else (3, (128, 128))
    for network, options in ENSEMBLES[name]:
        config = ModelConfig(**options)
        built = build(network, num_classes=10, config=config, channels=channels, image_size=size)
        members.append(Member(network, built, config))
    return Bundle(tuple("0123456789"), tuple(members), Combiner("average", tuple(member.name for member in members)))


def write_files(name: str, bundle: Bundle, folder: Path) -> dict[str, Path]:
    size = bundle.specs[0].size
    noise = np.random.default_rng(0).integers(0, 256, (16, *size, 3), dtype=np.uint8)
    graphs = [export_member(member) for member in bundle.members]
    small = [
        quantize(graph, calibration_batches(bundle, index, list(noise)), name=str(index)) or graph
        for index, graph in enumerate(graphs)
    ]
    files = {}
    for kind, parts in (("fp32", graphs), ("int8", small)):
        files[kind] = folder / f"{name}-{kind}.onnx"
        files[kind].write_bytes(assemble_onnx(bundle, parts, version="benchmark"))
    return files


class EagerNetworks:
    """The networks of a bundle on tensors that are already preprocessed."""

    runtime = "eager"

    def __init__(self, bundle: Bundle) -> None:
        self.specs, self.prepared = bundle.specs, dict[int, list[torch.Tensor]]()
        self.modules = [member.tta_model().eval() for member in bundle.members]

    def run(self, images: Any) -> object:
        """Compute the mean probabilities for as many tensors."""
        count = len(images)
        if count not in self.prepared:
            self.prepared[count] = [torch.rand(count, spec.channels, *spec.size) for spec in self.specs]
        with torch.inference_mode():
            inputs = zip(self.modules, self.prepared[count], strict=True)
            return torch.stack([module(batch).softmax(1) for module, batch in inputs]).mean(0)


def cold_start(file: Path, folder: Path) -> float:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)).save(folder / "one.jpg")
    command = [sys.executable, "-m", "tercet", "predict", str(file), str(folder / "one.jpg")]
    times = []
    for _ in range(5):
        started = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.perf_counter() - started)
    return median(times)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    arguments = parser.parse_args()
    torch.manual_seed(0)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name in ENSEMBLES:
            bundle = make_bundle(name)
            saved, files = bundle.save(folder / name), write_files(name, bundle, folder)
            for number in range(arguments.rounds):
                for threads in arguments.threads:
                    models: list[tuple[str, Any]] = [("bundle", open_predictor(saved))]
                    models.append(("networks", EagerNetworks(bundle)))
                    models += [(kind, open_predictor(file, threads=threads)) for kind, file in files.items()]
                    for batch in (1, 32):
                        size = bundle.specs[0].size
                        results = measure(models, batch, threads=threads, seconds=arguments.seconds, size=size)
                        p50 = dict(
                            zip(
                                ("bundle", "networks", *files),
                                (round(result.p50, 3) for result in results),
                                strict=True,
                            )
                        )
                        ratios = {
                            f"{kind} x {base}": round(p50[base] / p50[kind], 2)
                            for kind in files
                            for base in ("bundle", "networks")
                        }
                        row = {"ensemble": name, "round": number, "threads": threads, "batch": batch, "p50_ms": p50}
                        rows.append({**row, "ratios": ratios})
                        print(json.dumps(rows[-1]), flush=True)
            started = {"ensemble": name, "cold_start_s": round(cold_start(files["fp32"], folder), 3)}
            rows.append(started)
            print(json.dumps(started), flush=True)
    RESULTS.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


if __name__ == "__main__":
    sys.exit(run_benchmark(main))
