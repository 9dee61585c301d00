"""What serving costs: the server's rate under load beside that of bare ONNX Runtime, and the latency that it adds.

    python benchmarks/serving_load.py MODEL.onnx [--image FILE] [--threads 1] [--clients 48] [--rounds 3]

Bare ONNX Runtime and the server, both with the same threads, take turns within a round; only the ratio within a round
means anything on a busy machine. Bare: a process that answers decoded images over and over, in batches of 1 and 32.
Served: a process with `tercet serve`; clients send the same encoded image, each on its own connection. The added p50 is
that of one client, one image at a time, minus the bare p50 at batch 1. The clients share the machine's cores with the
server, as does decoding.
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

from tercet.data.decode import decode
from tercet.inference.onnx_model import OnnxModel
from tercet.inference.outputs import as_rgb

RESULTS = Path(__file__).parent / "results" / "serving_load.jsonl"
BATCHES = (1, 32)


def bare(model: str, image: str, threads: int, seconds: float) -> dict[str, Any]:
    """Return images a second by batch size, and the p50 in milliseconds at batch 1."""
    loaded = OnnxModel.load(model, threads=threads)
    pixels = as_rgb(decode(Path(image), max_pixels=10**9))
    found: dict[str, Any] = {}
    for size in BATCHES:
        batch = np.repeat(pixels[None], size, axis=0)
        loaded.run(batch)
        taken: list[float] = []
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            start = time.perf_counter()
            loaded.run(batch)
            taken.append(time.perf_counter() - start)
        found[f"batch {size}, images/s"] = size * len(taken) / sum(taken)
        found[f"batch {size}, p50 ms"] = 1000 * statistics.median(taken)
    return found


async def load(port: int, wire: bytes, clients: int, seconds: float) -> tuple[float, list[float], int]:
    """Return answers a second, the milliseconds of each, and how many were sent away."""
    taken: list[float] = []
    away = 0
    end = time.perf_counter() + seconds

    async def client() -> None:
        nonlocal away
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while (start := time.perf_counter()) < end:
            writer.write(wire)
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"content-length:"))
            await reader.readexactly(length)
            if head.startswith(b"HTTP/1.1 200"):
                taken.append(1000 * (time.perf_counter() - start))
            else:
                away += 1
        writer.close()

    start = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return len(taken) / (time.perf_counter() - start), taken, away


def served(model: str, image: str, threads: int, seconds: float, clients: int) -> dict[str, Any]:
    """Return the rate of many clients, and the p50 in milliseconds of a single one."""
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
        rate, many, away = asyncio.run(load(port, wire, clients, seconds))
        _, alone, _ = asyncio.run(load(port, wire, 1, seconds))
        process.send_signal(signal.SIGTERM)
        code = process.wait()
        drain.wait()
    assert code == 0, code
    return {
        "images/s": rate,
        "p50 ms": statistics.median(many),
        "p99 ms": sorted(many)[int(0.99 * len(many))],
        "sent away": away,
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
    parser.add_argument(
        "--bare", action="store_true", help=argparse.SUPPRESS
    )  # the child that measures without a server
    given = parser.parse_args()
    if given.bare:
        print(json.dumps(bare(given.model, given.image, given.threads, given.seconds)))
        return
    image = given.image or _image(Path(given.model).resolve().parent)
    for turn in range(given.rounds):
        words = ["--image", image, "--threads", str(given.threads), "--seconds", str(given.seconds / 2), "--bare"]
        said = subprocess.run(
            [sys.executable, __file__, given.model, *words], stdout=subprocess.PIPE, check=True
        ).stdout
        alone = json.loads(said)
        server = served(given.model, image, given.threads, given.seconds, given.clients)
        best = max(alone[f"batch {size}, images/s"] for size in BATCHES)
        row = {
            "model": Path(given.model).name,
            "threads": given.threads,
            "clients": given.clients,
            "turn": turn,
            "bare": alone,
            "served": server,
            "share of the bare rate": server["images/s"] / best,
            "added p50 ms": server["alone, p50 ms"] - alone["batch 1, p50 ms"],
        }
        print(json.dumps(row, indent=2))
        with open(given.results, "a") as stream:
            stream.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
