"""CPU seconds of reading 3,000 files with digests and the search for copies, against decoding them only.

    python benchmarks/copies_speed.py

The files are generated: JPEGs of 320 x 240 pixels, of which 200 are stored twice and 200 again at lower quality. The
sides alternate, and the order changes after each pair; the ratio is that of each pair. Results are written to
benchmarks/results/copies_speed.json.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image

from stored_results import run_benchmark
from tercet.config.run import DataConfig
from tercet.data.copies import copy_groups
from tercet.data.data_module import read_data
from tercet.data.load import load_table
from tercet.data.read_ahead import read_ahead

HERE = Path(__file__).parent
SIZE, COPIES, CLASSES = (320, 240), 200, 10


def write_files(root: Path, count: int) -> None:
    """Write different images of soft colours with noise, and copies of the first ones."""
    generator = np.random.default_rng(0)
    for row in range(count - 2 * COPIES):
        soft = Image.fromarray(generator.integers(0, 256, (9, 12, 3), dtype=np.uint8)).resize(
            SIZE, Image.Resampling.BICUBIC
        )
        noise = generator.integers(-12, 13, (SIZE[1], SIZE[0], 1))
        picture = Image.fromarray((np.asarray(soft).astype(np.int64) + noise).clip(0, 255).astype(np.uint8))
        path = root / f"class-{row % CLASSES}" / f"{row:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path, quality=85)
        if row < COPIES:
            shutil.copy(path, path.with_stem(f"{row:05d}-same"))
            picture.save(path.with_stem(f"{row:05d}-near"), quality=60)


def decode_only(root: Path) -> str:
    """Read the table and decode every image."""
    config = DataConfig()
    table = load_table(root, config)
    decode = partial(table.source.pixels, max_pixels=config.max_pixels)
    pixels = sum(
        image.shape[0]
        for image in read_ahead(decode, table.locations, max_pixels=config.max_pixels)
        if not isinstance(image, str)
    )
    return f"{pixels} rows of pixels"


def search(root: Path) -> str:
    """Read the data as a training does: digests of files and pixels, perceptual hashes, groups of copies."""
    table = read_data(root, replace(DataConfig(), memory_budget=1)).table  # decoded, but not kept, as on the other side
    return f"{len(copy_groups(table))} groups of copies"


def cpu_seconds(function: Callable[[Path], str], root: Path) -> tuple[float, str]:
    start = time.process_time()
    text = function(root)
    return time.process_time() - start, text


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=3000)
    parser.add_argument("--pairs", type=int, default=2)
    arguments = parser.parse_args()
    pairs, notes = [], set()
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary) / "images"
        write_files(root, arguments.count)
        for number in range(arguments.pairs):
            order = (decode_only, search) if number % 2 == 0 else (search, decode_only)
            seconds = {}
            for function in order:
                seconds[function.__name__], note = cpu_seconds(function, root)
                notes.add(note)
            pairs.append({name: round(value, 2) for name, value in seconds.items()})
    ratios = [round(pair["search"] / pair["decode_only"], 3) for pair in pairs]
    document = {"images": arguments.count, "results": sorted(notes), "cpu_seconds": pairs, "ratios": ratios}
    document["median_ratio"] = median(ratios)
    text = json.dumps(document, indent=1) + "\n"
    (HERE / "results" / "copies_speed.json").write_text(text, encoding="utf-8")
    print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(run_benchmark(main))
