"""The notebook's protocol on Fashion-MNIST: 60,000 images, 5 epochs, batch size 32, Adam 1e-3, no model selection.

    python benchmarks/seed003_protocol.py --data-dir FOLDER [--seeds 5] [--jobs 2]

Published, one run each: row-LSTM macro-F1 0.8748, small CNN 0.9059. Each finished run is written to
benchmarks/results/seed003_protocol.jsonl, and is not run again without --again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from stored_results import add_storage_options, append_row, run_benchmark, sources_line, stored_rows

NETWORKS = {
    "row-lstm tanh": ("row-lstm", {"activation": "tanh"}),
    "row-lstm relu": ("row-lstm", {"activation": "relu"}),
    "small-cnn": ("small-cnn", {}),
}
PUBLISHED = {"row-lstm tanh": 0.8748034992470057, "row-lstm relu": 0.8748034992470057, "small-cnn": 0.9059275834044541}


def run(name: str, seed: int, data_dir: str) -> dict[str, Any]:
    import numpy as np
    import torch

    from tercet.config.model import ModelConfig
    from tercet.config.run import DataConfig
    from tercet.config.training import TrainingConfig
    from tercet.core.runtime import seed_everything
    from tercet.data.image_cache import ImageCache
    from tercet.data.load import load_table
    from tercet.data.loader import ImageLoader
    from tercet.metrics.classification import score
    from tercet.models.build import build
    from tercet.models.forward import predict
    from tercet.training.trainer import Trainer

    torch.set_num_threads(1)
    seed_everything(seed)
    network, options = NETWORKS[name]
    config = DataConfig(data_dir=data_dir)
    table = load_table("fashion-mnist", config)
    cache, _ = ImageCache.decode(table, config)
    classifier = build(network, num_classes=10, config=ModelConfig(**options), channels=1, image_size=(28, 28))  # type: ignore[arg-type]
    training = TrainingConfig(epochs=5, lr=1e-3, batch_size=32)

    def loader(split: str, **more: Any) -> ImageLoader:
        rows = np.flatnonzero(np.array(table.splits) == split)
        ids, labels = [table.ids[row] for row in rows], table.labels[rows]
        return ImageLoader(cache, rows, ids=ids, labels=labels, num_classes=10, specs=(classifier.spec,), **more)

    with tempfile.TemporaryDirectory() as folder:
        train = loader("train", batch_size=32, seed=seed, shuffle=True)
        result = Trainer(classifier, train, None, config=training, folder=Path(folder)).run()
    started = time.perf_counter()
    scores = score(predict(classifier, loader("test", batch_size=500), classes=table.classes))
    return {
        "network": name,
        "seed": seed,
        "accuracy": scores.accuracy,
        "macro_f1": scores.macro_f1,
        "kappa": scores.kappa,
        "seconds_per_epoch": result.seconds / 5,
        "test_seconds": time.perf_counter() - started,
        "train_loss": result.history.column("train_loss"),
        "torch": torch.__version__,
        "threads": 1,
    }


def summarise(rows: list[dict[str, Any]]) -> str:
    by_network = defaultdict(list)
    for row in rows:
        by_network[row["network"]].append(row)
    lines = [
        "network         n  accuracy         macro-F1         kappa            s/epoch  published F1 (> mean + 2 sd?)"
    ]
    for name, network_rows in by_network.items():
        cells = []
        for key in ("accuracy", "macro_f1", "kappa"):
            values = [row[key] for row in network_rows]
            spread = stdev(values) if len(values) > 1 else float("nan")
            cells.append(f"{mean(values):.4f} ± {spread:.4f}")
        values = [row["macro_f1"] for row in network_rows]
        limit = mean(values) + 2 * stdev(values) if len(values) > 1 else float("nan")
        seconds = mean(row["seconds_per_epoch"] for row in network_rows)
        verdict = "yes" if PUBLISHED[name] > limit else "no"
        final_cells = f"{seconds:>7.1f}  {PUBLISHED[name]:.4f} ({verdict})"
        lines.append(f"{name:<14} {len(network_rows):>2}  {'  '.join(cells)}  {final_cells}")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", default=str(Path(__file__).parents[2] / "shared" / "data"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2)
    add_storage_options(parser, "seed003_protocol.jsonl")
    parser.add_argument("--run-job", nargs=2, metavar=("NETWORK", "SEED"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run_job:
        print(json.dumps(run(arguments.run_job[0], int(arguments.run_job[1]), arguments.data_dir)))
        return 0
    seeds = range(arguments.seeds)
    rows = stored_rows(arguments.results, again=arguments.again, keep=lambda row: row["seed"] in seeds)
    stored = len(rows)
    finished = {(row["network"], row["seed"]) for row in rows}
    jobs = [(name, seed) for seed in seeds for name in NETWORKS if (name, seed) not in finished]

    def run_job(job: tuple[str, int]) -> None:
        command = [sys.executable, __file__, "--data-dir", arguments.data_dir, "--run-job", job[0], str(job[1])]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        line = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout.strip()
        rows.append(json.loads(line))
        append_row(arguments.results, rows[-1])
        print(f"{job[0]} seed {job[1]}: macro-F1 {rows[-1]['macro_f1']:.4f}", flush=True)

    with ThreadPoolExecutor(arguments.jobs) as pool:
        list(pool.map(run_job, jobs))
    print(sources_line(stored, len(rows) - stored, arguments.results))
    print(summarise(sorted(rows, key=lambda row: list(NETWORKS).index(row["network"]))))
    return 0


if __name__ == "__main__":
    sys.exit(run_benchmark(main))
