"""Accuracy and cost of the first answer: probes, folds, rungs of the ladder, frozen trainings, and other programs.

    python benchmarks/first_minute.py probe|folds|ladder|frozen|others --data-dir FOLDER [--rounds 3] [--threads 1]
    python benchmarks/first_minute.py report

FOLDER contains potato-leaves/potato-leaf-160.zip, hand-signs/asl-massey-160.zip, fashion-mnist/, and in weights/ the
encoders mobilenetv2_100_onnxzoo_backbone.safetensors and mobilenetv2_035_keras_backbone.safetensors. Both sides of a
comparison are whole processes, run alternately, each with an empty cache of features; times are medians over rounds.
Seeds are 0.

    probe    `tercet probe` and its export against linear_probe.py: potato leaves, and the ten digits of the hand signs
    folds    five folds of `tercet crossval --preset fast` against one `tercet probe`
    ladder   leaves by original, hand signs by hand (also fine-tuned with --long), 10,000 images of Fashion-MNIST
    frozen   epochs of a frozen network with stored features against epochs that compute them
    others   `tercet probe` and `tercet train` against linear_probe.py and, with --fastai-python, fastai

Results are written to benchmarks/results/first_minute-SECTION.json and .txt; `report` writes their tables to
docs/performance.md. `--limit N` trains on N images, to try a section; then use `--results` as well.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from first_minute_bench import Bench, Row
from first_minute_ladder import ladder
from first_minute_probes import folds, frozen, others, probe
from first_minute_report import render, write_page
from measured_process import processor
from stored_results import run_benchmark
from tercet.core.runtime import describe_environment

HERE = Path(__file__).parent
SECTIONS: dict[str, Callable[[Bench], Row]] = {
    function.__name__: function for function in (probe, folds, ladder, frozen, others)
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("section", choices=[*SECTIONS, "report"])
    parser.add_argument("--data-dir", default=str(HERE.parents[1] / "shared" / "data"))
    parser.add_argument("--output", help="folder for the runs (default: a temporary folder)")
    parser.add_argument("--results", default=str(HERE / "results"), help="folder for the results")
    parser.add_argument("--rounds", type=int, help="measurements of each side (default: 3; ladder: 1)")
    parser.add_argument("--threads", type=int, default=1, help="threads per process; 0: each program chooses")
    parser.add_argument("--limit", type=int, help="training images, to try a section")
    parser.add_argument("--size", type=int, default=96, help="ladder: input size of fine-tuned networks")
    parser.add_argument("--long", action="store_true", help="ladder: fine-tune on the hand signs too")
    parser.add_argument("--fastai-python", help="others: Python of an environment with fastai and safetensors")
    arguments = parser.parse_args()
    results = Path(arguments.results)
    if arguments.section == "report":
        write_page(HERE.parent / "docs" / "performance.md", results, list(SECTIONS))
        return 0
    rounds = arguments.rounds or (1 if arguments.section == "ladder" else 3)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        bench = Bench(
            data=Path(arguments.data_dir).resolve(),
            work=Path(arguments.output or temporary).resolve(),
            rounds=rounds,
            threads=arguments.threads,
            limit=arguments.limit,
            size=arguments.size,
            long=arguments.long,
            fastai_python=arguments.fastai_python,
        )
        values = SECTIONS[arguments.section](bench)
    document = {
        "seconds": round(time.monotonic() - started, 1),
        "processor": processor(),
        "environment": describe_environment(),
        "rounds": rounds,
        "threads": arguments.threads,
        "limit": arguments.limit,
        "results": values,
    }
    results.mkdir(parents=True, exist_ok=True)
    stem = results / f"first_minute-{arguments.section}"
    stem.with_suffix(".json").write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    text = render(arguments.section, document)
    stem.with_suffix(".txt").write_text(text, "utf-8")
    print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(run_benchmark(main))
