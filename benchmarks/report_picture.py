"""The picture of the README: the results in the report of a run on potato leaves, as a screenshot.

    python benchmarks/report_picture.py --data-dir FOLDER [--output docs/report.png]

FOLDER contains potato-leaves/potato-leaf-160.zip and the weights mobilenetv2_100_onnxzoo_backbone and
mobilenetv2_035_keras_backbone (safetensors) in weights/. Two fine-tuned MobileNetV2 (one with an LSTM over the rows of
its feature map) and a row-LSTM from scratch are trained for three epochs on the splits of the archive, and combined by
the method selected on validation; seed 0. Needs Chromium and playwright. The scores are written to
benchmarks/results/report_picture.json.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

try:
    from playwright.sync_api import sync_playwright
except ImportError:
    raise SystemExit("playwright is not installed: pip install playwright, then playwright install chromium") from None

import tercet
from stored_results import run_benchmark
from tercet.core.runtime import describe_environment

HERE = Path(__file__).parent
SIZE = {"width": 1200, "height": 1500}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=HERE.parent / "docs" / "report.png")
    options = parser.parse_args()
    weights = options.data_dir / "weights"
    members = [
        {
            "name": "mobilenetv2",
            "model": "mobilenetv2_100",
            "weights": str(weights / "mobilenetv2_100_onnxzoo_backbone.safetensors"),
            "input": {"size": 96},
        },
        {
            "name": "mobilenetv2-lstm",
            "model": "mobilenetv2_035",
            "weights": str(weights / "mobilenetv2_035_keras_backbone.safetensors"),
            "backbone": {"args": {"pad_type": "same", "bn_eps": 0.001}},
            "input": {"size": 96, "mean": 0.5, "std": 0.5},
            "recurrent": "lstm",
            "scan": "rows",
            "hidden_size": 128,
        },
        {"name": "row-lstm", "model": "row-lstm", "input": {"size": 64}},
    ]
    with tempfile.TemporaryDirectory() as folder:
        run = tercet.train(
            options.data_dir / "potato-leaves" / "potato-leaf-160.zip",
            members=members,
            epochs=3,
            lr=1e-3,
            schedule="cosine",
            augment="light-flip",
            ensemble_methods=["average", "weighted", "vote"],
            output=f"{folder}/potato-leaves",
        )
        print(run.report)
        page = tercet.write_report(run.path, title="Potato leaves").path
        with sync_playwright() as driver:
            executable = shutil.which("chromium") or shutil.which("google-chrome")
            browser = driver.chromium.launch(executable_path=executable, args=["--no-sandbox"])
            window = browser.new_page(viewport=SIZE, color_scheme="light")
            window.goto(page.resolve().as_uri())
            heading = window.get_by_role("heading", name="Results")
            window.locator("section").filter(has=heading).screenshot(path=str(options.output))
            browser.close()
        scores = {name: run.metrics[name] for name in ("chosen", "members", "ensembles", "comparison")}
    environment = describe_environment()
    result = {"n": 300, "seed": 0, "environment": environment, **scores}
    (HERE / "results" / "report_picture.json").write_text(json.dumps(result, indent=1, default=str) + "\n", "utf-8")


if __name__ == "__main__":
    sys.exit(run_benchmark(main))
