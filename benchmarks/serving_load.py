"""Overhead of serving: throughput under load compared with plain ONNX Runtime, and additional latency.

    python benchmarks/serving_load.py MODEL.onnx [--image FILE] [--threads 1] [--clients 48] [--rounds 3]

Plain ONNX Runtime and the server, with the same number of threads, take turns within a round; on a busy machine only
the ratio within a round is meaningful. Bare: a process that classifies decoded images in batches of 1 and 32. Served: a
process with `tercet serve`; all clients send the same encoded image, each on its own connection. The added p50 is that
of a single client minus the bare p50 at batch size 1. Clients and decoding share the cores with the server.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from stored_results import run_benchmark
from tercet.data.decode import decode
from tercet.inference.exported_model import as_rgb
from tercet.inference.onnx_model import OnnxModel

RESULTS = Path(__file__).parent / "results" / "serving_load.jsonl"
BATCHES = (1, 32)


def bare(model: str, image: str, threads: int, seconds: float) -> dict[str, Any]:
    """Return images per second and p50 in milliseconds, by batch size."""
    onnx_model = OnnxModel.load(model, threads=threads)
    pixels = as_rgb(decode(Path(image), max_pixels=10**9))
    results: dict[str, Any] = {}
    for size in BATCHES:
        batch = np.repeat(pixels[None], size, axis=0)
        onnx_model.run(batch)
        times: list[float] = []
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            start = time.perf_counter()
            onnx_model.run(batch)
            times.append(time.perf_counter() - start)
        results[f"batch {size}, images/s"] = size * len(times) / sum(times)
        results[f"batch {size}, p50 ms"] = 1000 * statistics.median(times)
    return results


async def load(port: int, wire: bytes, clients: int, seconds: float) -> tuple[float, list[float], int]:
    """Return responses per second, their latencies in milliseconds, and the number of rejected requests."""
    times: list[float] = []
    rejected = 0
    end = time.perf_counter() + seconds

    async def client() -> None:
        nonlocal rejected
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while (start := time.perf_counter()) < end:
            writer.write(wire)
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"content-length:"))
            await reader.readexactly(length)
            if head.startswith(b"HTTP/1.1 200"):
                times.append(1000 * (time.perf_counter() - start))
            else:
                rejected += 1
        writer.close()

    start = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return len(times) / (time.perf_counter() - start), times, rejected


def served(model: str, image: str, threads: int, seconds: float, clients: int) -> dict[str, Any]:
    """Return the throughput of many clients, and the p50 in milliseconds of a single one."""
    command = [sys.executable, "-m", "tercet", "serve", model, "--port", "0", "--threads", str(threads)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        assert process.stderr is not None
        port = int(json.loads(process.stderr.readline())["url"].rpartition(":")[2])
        drain = subprocess.Popen(["cat"], stdin=process.stderr, stdout=subprocess.DEVNULL)
        content = Path(image).read_bytes()
        head = (
            f"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/x\r\nContent-Length: {len(content)}"
        )
        wire = head.encode() + b"\r\n\r\n" + content
        asyncio.run(load(port, wire, clients, seconds / 4))
        rate, times, rejected = asyncio.run(load(port, wire, clients, seconds))
        _, alone, _ = asyncio.run(load(port, wire, 1, seconds))
        process.send_signal(signal.SIGTERM)
        code = process.wait()
        drain.wait()
    assert code == 0, code
    return {
        "images/s": rate,
        "p50 ms": statistics.median(times),
        "p99 ms": sorted(times)[int(0.99 * len(times))],
        "rejected": rejected,
        "alone, p50 ms": statistics.median(alone),
    }


def _image(folder: Path) -> str:
    """Write a photograph-like JPEG of 320 x 240 and return its path."""
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 255, (12, 16, 3)).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(coarse).resize((320, 240), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=90)
    path = folder / "serving_load.jpg"
    path.write_bytes(stream.getvalue())
    return str(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--image", help="an image file (default: a made-up JPEG of 320 x 240)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clients", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--bare", action="store_true", help=argparse.SUPPRESS)  # child process without a server
    arguments = parser.parse_args()
    if arguments.bare:
        print(json.dumps(bare(arguments.model, arguments.image, arguments.threads, arguments.seconds)))
        return
    image = arguments.image or _image(Path(arguments.model).resolve().parent)
    for turn in range(arguments.rounds):
        options = [
            "--image",
            image,
            "--threads",
            str(arguments.threads),
            "--seconds",
            str(arguments.seconds / 2),
            "--bare",
        ]
        command = [sys.executable, __file__, arguments.model, *options]
        alone = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
        server = served(arguments.model, image, arguments.threads, arguments.seconds, arguments.clients)
        best = max(alone[f"batch {size}, images/s"] for size in BATCHES)
        row = {
            "model": Path(arguments.model).name,
            "threads": arguments.threads,
            "clients": arguments.clients,
            "turn": turn,
            "bare": alone,
            "served": server,
            "share of the bare rate": server["images/s"] / best,
            "added p50 ms": server["alone, p50 ms"] - alone["batch 1, p50 ms"],
        }
        print(json.dumps(row, indent=2))
        with open(arguments.results, "a") as stream:
            stream.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    sys.exit(run_benchmark(main))
