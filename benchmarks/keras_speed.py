"""Seconds per epoch of a row-LSTM and a small CNN in Tercet and in Keras, measured alternately.

    python benchmarks/keras_speed.py --data-dir FOLDER --keras-python PYTHON [--rounds 3] [--images 60000]

PYTHON is the interpreter of an environment with `pip install tensorflow-cpu keras`; Keras may use all cores. Both train
on the same 60,000 Fashion-MNIST images, batch size 32, Adam 1e-3, one epoch after a warm-up of a few steps. On a busy
machine only the ratio within a round is meaningful.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

from stored_results import run_benchmark

CASES = ("row-lstm tanh", "row-lstm relu", "small-cnn")
RESULTS = Path(__file__).parent / "results" / "keras_speed.jsonl"

KERAS = r"""
import gzip, json, sys, time
import numpy as np
import keras
from keras import layers
case, folder, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
with gzip.open(f"{folder}/train-images-idx3-ubyte.gz") as f:
    x = np.frombuffer(f.read(), np.uint8, offset=16).reshape(-1, 28, 28)[:count] / np.float32(255)
with gzip.open(f"{folder}/train-labels-idx1-ubyte.gz") as f:
    y = np.frombuffer(f.read(), np.uint8, offset=8)[:count]
if case == "small-cnn":
    x = x[..., None]
    model = keras.Sequential([layers.Input((28, 28, 1)), layers.Conv2D(32, 3, activation="relu"),
        layers.MaxPooling2D(2), layers.Flatten(), layers.Dense(128, activation="relu"), layers.Dropout(0.2),
        layers.Dense(32, activation="relu"), layers.Dropout(0.2), layers.Dense(10, activation="softmax")])
else:
    act = case.split()[1]
    model = keras.Sequential([layers.Input((28, 28)), layers.LSTM(128, activation=act, return_sequences=True),
        layers.LSTM(128, activation=act), layers.Dense(32, activation="relu"), layers.Dense(10, activation="softmax")])
model.compile(loss="sparse_categorical_crossentropy", optimizer="adam", metrics=["accuracy"])
model.fit(x[:1024], y[:1024], batch_size=32, epochs=1, verbose=0)
start = time.perf_counter()
model.fit(x, y, batch_size=32, epochs=1, verbose=0)
print(json.dumps({"seconds": time.perf_counter() - start, "keras": keras.__version__}))
"""


def tercet_epoch(case: str, folder: str, count: int, threads: int, precision: str) -> dict[str, Any]:
    import numpy as np
    import torch

    from tercet.config.model import ModelConfig
    from tercet.config.run import DataConfig
    from tercet.config.training import StageConfig, TrainingConfig
    from tercet.data.image_cache import ImageCache
    from tercet.data.load import load_table
    from tercet.data.loader import ImageLoader
    from tercet.models.build import build
    from tercet.training.trainer import Trainer

    torch.set_num_threads(threads)
    table = load_table("fashion-mnist", DataConfig(data_dir=folder))
    cache, _ = ImageCache.decode(table, DataConfig())
    network, _, activation = case.partition(" ")
    config = ModelConfig(activation=activation or "tanh")  # type: ignore[arg-type]
    seconds = 0.0
    for images in (1024, count):  # a warm-up, then the epoch
        rows = np.arange(images)
        classifier = build(network, num_classes=10, config=config, channels=1, image_size=(28, 28))
        loader = ImageLoader(
            cache,
            rows,
            ids=table.ids[:images],
            labels=table.labels[:images],
            num_classes=10,
            specs=(classifier.spec,),
            batch_size=32,
            shuffle=True,
        )
        stages = (StageConfig(lr=1e-3, epochs=1, schedule="constant"),)
        training = TrainingConfig(stages=stages, precision=precision)  # type: ignore[arg-type]
        with tempfile.TemporaryDirectory() as scratch:
            started = time.perf_counter()
            Trainer(classifier, loader, None, config=training, folder=Path(scratch)).run()
            seconds = time.perf_counter() - started
    return {"seconds": seconds, "torch": torch.__version__}


def keras_problem(python: str) -> str:
    """Return why an interpreter cannot train with Keras on TensorFlow; empty if it can."""
    advice = "give the Python of an environment with `pip install tensorflow-cpu keras` as --keras-python"
    try:
        process = subprocess.run([python, "-c", "import tensorflow, keras"], capture_output=True, text=True)
    except OSError as error:
        return f"cannot run {python} ({error.strerror}): {advice}"
    lines = process.stderr.strip().splitlines()
    return (
        f"{python} cannot import Keras ({lines[-1] if lines else 'no message'}): {advice}" if process.returncode else ""
    )


def measure(arguments: argparse.Namespace, case: str, side: str) -> dict[str, Any]:
    if side == "keras":
        folder = str(Path(arguments.data_dir) / "fashion-mnist")
        command = [arguments.keras_python, "-c", KERAS, case, folder, str(arguments.images)]
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    else:
        threads, precision = side.split("-")[1:]
        command = [sys.executable, __file__, "--data-dir", arguments.data_dir, "--images", str(arguments.images)]
        command += ["--job", case, threads, precision]
        environment = {**os.environ, "OMP_NUM_THREADS": threads, "OMP_WAIT_POLICY": "PASSIVE"}
    out = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
    row: dict[str, Any] = json.loads(out.strip().splitlines()[-1])
    return {"case": case, "side": side, **row}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", default=str(Path(__file__).parents[2] / "shared" / "data"))
    parser.add_argument("--keras-python", default="python3")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=60_000)
    parser.add_argument("--sides", default="keras,tercet-1-32,tercet-1-bf16")
    parser.add_argument("--job", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.job:
        case, threads, precision = arguments.job
        print(json.dumps(tercet_epoch(case, arguments.data_dir, arguments.images, int(threads), precision)))
        return 0
    sides = arguments.sides.split(",")
    if "keras" in sides and (problem := keras_problem(arguments.keras_python)):
        print(problem, file=sys.stderr)
        return 2
    RESULTS.parent.mkdir(exist_ok=True)
    rows = []
    for number in range(arguments.rounds):
        for case in CASES:
            for side in sides:
                row = {"round": number, "images": arguments.images, **measure(arguments, case, side)}
                rows.append(row)
                with open(RESULTS, "a", encoding="utf-8") as stream:
                    stream.write(json.dumps(row) + "\n")
                print(f"round {number + 1}: {case}, {side}: {row['seconds']:.1f} s", flush=True)
    for case in CASES:
        for side in sides[1:]:
            pairs = [
                (a["seconds"], b["seconds"])
                for a in rows
                for b in rows
                if a["case"] == b["case"] == case
                and a["round"] == b["round"]
                and (a["side"], b["side"]) == (sides[0], side)
            ]
            ratios = [first / second for first, second in pairs]
            spread = f" ± {stdev(ratios):.2f}" if len(ratios) > 1 else ""
            times = f"{sides[0]} {median(a for a, _ in pairs):.1f} s, {side} {median(b for _, b in pairs):.1f} s"
            print(f"{case}: {times}: {mean(ratios):.2f}{spread} times faster (n = {len(ratios)})")
    return 0


if __name__ == "__main__":
    sys.exit(run_benchmark(main))
