"""OpenVINO compared with ONNX Runtime on exported files: latency in turns, largest difference, loading time.

    pip install openvino onnxruntime
    python benchmarks/openvino_speed.py FILE.onnx [...] [--size 160] [--seconds 3] [--rounds 3] [--threads 1 2]

Needs neither PyTorch nor Tercet. OpenVINO is configured for latency and 32-bit arithmetic, as in ONNX Runtime. On a
busy machine only ratios within a round are meaningful; a ratio above one means that OpenVINO is faster.
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
from numpy.typing import NDArray

try:
    import onnxruntime
    import openvino
except ImportError as error:
    raise SystemExit(f"{error.name} is not installed: pip install openvino onnxruntime") from None

RESULTS = Path(__file__).parent / "results" / "openvino_speed.jsonl"
Predict = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


def by_onnxruntime(file: str, threads: int) -> Predict:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(["probabilities"], {"images": images})[0]


def by_openvino(file: str, threads: int) -> Predict:
    config = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    model = openvino.Core().compile_model(file, "CPU", config)
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
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    for file in arguments.files:
        for threads in arguments.threads:
            models: dict[str, Predict] = {}
            loading = {}
            for name, load in (("onnxruntime", by_onnxruntime), ("openvino", by_openvino)):
                started = time.perf_counter()
                models[name] = load(file, threads)
                loading[name] = round(time.perf_counter() - started, 2)
            for batch in (1, 32):
                images = rng.integers(0, 256, (batch, arguments.size, arguments.size, 3), dtype=np.uint8)
                first = {name: predict(images).copy() for name, predict in models.items()}
                gap = float(abs(first["onnxruntime"] - first["openvino"]).max())
                for number in range(arguments.rounds):
                    times_by_name: dict[str, list[float]] = {name: [] for name in models}
                    end = time.perf_counter() + 2 * arguments.seconds
                    while time.perf_counter() < end:
                        for name, predict in models.items():
                            started = time.perf_counter()
                            predict(images)
                            times_by_name[name].append(1000 * (time.perf_counter() - started))
                    p50 = {name: round(statistics.median(times), 3) for name, times in times_by_name.items()}
                    row = {"file": Path(file).name, "threads": threads, "batch": batch, "round": number, "p50_ms": p50}
                    row |= {"ratio": round(p50["onnxruntime"] / p50["openvino"], 2), "gap": gap, "load_s": loading}
                    rows.append(row)
                    print(json.dumps(row), flush=True)
    versions = {"openvino": openvino.__version__, "onnxruntime": onnxruntime.__version__}
    RESULTS.write_text("".join(json.dumps(row) + "\n" for row in [versions, *rows]), "utf-8")


if __name__ == "__main__":
    main()
