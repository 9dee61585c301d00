"""The same exported files by OpenVINO and by ONNX Runtime, in turns: latency, largest difference, time to load.

    pip install openvino onnxruntime
    python benchmarks/openvino_speed.py FILE.onnx [...] [--size 160] [--seconds 3] [--rounds 3] [--threads 1 2]

Needs neither PyTorch nor Tercet. OpenVINO is asked for latency and for 32-bit arithmetic, as ONNX Runtime computes.
Only ratios within a round mean anything on a busy machine; a ratio above one says that OpenVINO is faster.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import openvino
from numpy.typing import NDArray

RESULTS = Path(__file__).parent / "results" / "openvino_speed.jsonl"
Ask = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


def by_onnxruntime(file: str, threads: int) -> Ask:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(["probabilities"], {"images": images})[0]


def by_openvino(file: str, threads: int) -> Ask:
    wanted = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    model = openvino.Core().compile_model(file, "CPU", wanted)
    request = model.create_infer_request()
    output = model.output("probabilities")
    return lambda images: request.infer({"images": images})[output]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    given = parser.parse_args()
    rng = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    for file in given.files:
        for threads in given.threads:
            roads: dict[str, Ask] = {}
            loading = {}
            for name, load in (("onnxruntime", by_onnxruntime), ("openvino", by_openvino)):
                started = time.perf_counter()
                roads[name] = load(file, threads)
                loading[name] = round(time.perf_counter() - started, 2)
            for batch in (1, 32):
                images = rng.integers(0, 256, (batch, given.size, given.size, 3), dtype=np.uint8)
                first = {name: ask(images).copy() for name, ask in roads.items()}
                gap = float(abs(first["onnxruntime"] - first["openvino"]).max())
                for number in range(given.rounds):
                    taken: dict[str, list[float]] = {name: [] for name in roads}
                    end = time.perf_counter() + 2 * given.seconds
                    while time.perf_counter() < end:
                        for name, ask in roads.items():
                            started = time.perf_counter()
                            ask(images)
                            taken[name].append(1000 * (time.perf_counter() - started))
                    p50 = {name: round(statistics.median(times), 3) for name, times in taken.items()}
                    row = {"file": Path(file).name, "threads": threads, "batch": batch, "round": number, "p50_ms": p50}
                    row |= {"ratio": round(p50["onnxruntime"] / p50["openvino"], 2), "gap": gap, "load_s": loading}
                    rows.append(row)
                    print(json.dumps(row), flush=True)
    versions = {"openvino": openvino.__version__, "onnxruntime": onnxruntime.__version__}
    RESULTS.write_text("".join(json.dumps(row) + "\n" for row in [versions, *rows]), "utf-8")


if __name__ == "__main__":
    main()
