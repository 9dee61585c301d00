"""Answers of exported files beside eager PyTorch with the members one after the other, in turns within one run.

    python benchmarks/export_speed.py [--seconds 5] [--rounds 3] [--threads 1 2]

Two ensembles of three, untrained: `photos` (MobileNetV4 with a BiLSTM over rows, MobileNetV2, EfficientNet-B0, at 128
pixels) and `rows` (row-lstm, row-gru, row-bilstm on 28 x 28 grey pixels). All roads begin with bytes and end with
probabilities; `networks` is eager PyTorch on images that were prepared before, which the files have to prepare too.
In 8 bits all members are quantised, whatever it does to the answers of untrained networks. Only ratios within a round
mean anything on a busy machine. The cold start is `tercet predict FILE one.jpg` as a process of its own.
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

from tercet.config.model import InputConfig, ModelConfig
from tercet.ensemble.bundle import Bundle, Member
from tercet.ensemble.combine import Combiner
from tercet.export.benchmark import BenchmarkModel, load_model, measure
from tercet.export.onnx_assembly import assemble_onnx
from tercet.export.onnx_members import member_graphs
from tercet.export.quantization import calibration_batches, quantize
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
    return Bundle(tuple("0123456789"), tuple(members), Combiner("average", tuple(one.name for one in members)))


def write_files(name: str, bundle: Bundle, folder: Path) -> dict[str, Path]:
    size = bundle.specs[0].size
    noise = np.random.default_rng(0).integers(0, 256, (16, *size, 3), dtype=np.uint8)
    graphs = member_graphs(bundle)
    small = [
        quantize(graph, calibration_batches(bundle, place, list(noise)), name=str(place)) or graph
        for place, graph in enumerate(graphs)
    ]
    files = {}
    for kind, parts in (("fp32", graphs), ("int8", small)):
        files[kind] = folder / f"{name}-{kind}.onnx"
        files[kind].write_bytes(assemble_onnx(bundle, parts, version="benchmark"))
    return files


def networks_alone(bundle: Bundle) -> BenchmarkModel:
    prepared: dict[int, list[torch.Tensor]] = {}
    modules = [member.tta_model().eval() for member in bundle.members]

    def ask(pictures: Any) -> object:
        if len(pictures) not in prepared:
            prepared[len(pictures)] = [torch.rand(len(pictures), spec.channels, *spec.size) for spec in bundle.specs]
        with torch.inference_mode():
            inputs = zip(modules, prepared[len(pictures)], strict=True)
            return torch.stack([module(images).softmax(1) for module, images in inputs]).mean(0)

    return BenchmarkModel("eager", "networks", ask, bundle.specs[0].size)


def cold_start(file: Path, folder: Path) -> float:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)).save(folder / "one.jpg")
    words = [sys.executable, "-m", "tercet", "predict", str(file), str(folder / "one.jpg")]
    taken = []
    for _ in range(5):
        started = time.perf_counter()
        subprocess.run(words, check=True, capture_output=True)
        taken.append(time.perf_counter() - started)
    return median(taken)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    given = parser.parse_args()
    torch.manual_seed(0)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for name in ENSEMBLES:
            bundle = make_bundle(name)
            saved, files = bundle.save(folder / name), write_files(name, bundle, folder)
            for number in range(given.rounds):
                for threads in given.threads:
                    roads = [load_model(saved, threads), networks_alone(bundle)]
                    roads += [load_model(file, threads) for file in files.values()]
                    for batch in (1, 32):
                        size = bundle.specs[0].size
                        found = measure(roads, batch, threads=threads, seconds=given.seconds, size=size)
                        told = dict(
                            zip(("bundle", "networks", *files), (round(one.p50, 3) for one in found), strict=True)
                        )
                        ratios = {
                            f"{kind} x {base}": round(told[base] / told[kind], 2)
                            for kind in files
                            for base in ("bundle", "networks")
                        }
                        row = {"ensemble": name, "round": number, "threads": threads, "batch": batch, "p50_ms": told}
                        rows.append({**row, "ratios": ratios})
                        print(json.dumps(rows[-1]), flush=True)
            started = {"ensemble": name, "cold_start_s": round(cold_start(files["fp32"], folder), 3)}
            rows.append(started)
            print(json.dumps(started), flush=True)
    RESULTS.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


if __name__ == "__main__":
    main()
