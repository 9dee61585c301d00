"""Recall and false positives of the duplicate detection in `tercet audit`, and its time for 20,000 files.

    python benchmarks/audit_potato.py --data-dir FOLDER [--parts hash,made,network,speed]

FOLDER contains potato-leaves/potato-leaf-160.zip, fashion-mnist/ and
weights/mobilenetv2_100_onnxzoo_backbone.safetensors. The 500 images of healthy leaves are 125 originals with four
augmented copies each (rotated, flipped, shifted, sheared): 750 true pairs. The split of the archive keeps the copies of
an original together, a random split does not. `made` measures the same on copies created here (re-encoded, resized,
brightened, rotated, cropped). Results are written to benchmarks/results/ after each part.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import re
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from stored_results import run_benchmark
from tercet.audit.embedding import build_embedder, embed_images
from tercet.audit.inspect import inspect
from tercet.audit.run import audit_data
from tercet.config.run import DataConfig
from tercet.core.runtime import describe_environment
from tercet.data.duplicate_pairs import PairList
from tercet.data.duplicates import MIN_CORRELATION, near_pairs, similar_pairs
from tercet.data.feature_cache import FeatureCache
from tercet.data.load import load_table
from tercet.data.perceptual_hashes import downscale, hashes
from tercet.data.splits import assign_splits
from tercet.data.table import SampleTable

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "audit_potato.json"
PARTS = ("hash", "made", "network", "speed")
DISTANCES = (0, 2, 4, 6, 8, 10, 12)
COSINES = (0.99, 0.98, 0.97, 0.96, 0.95, 0.94, 0.92, 0.9)
SIZE = 96  # input pixels; the weights were trained at 224, which takes too long on two cores
MANY = 10**8  # no limit on pairs
Picture = Image.Image


def reencoded(picture: Picture, quality: int = 60) -> Picture:
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=quality)
    return Image.open(stream).copy()


def scaled(picture: Picture, share: float) -> Picture:
    size = (max(1, round(picture.width * share)), max(1, round(picture.height * share)))
    return picture.resize(size, Image.Resampling.LANCZOS)


def cropped(picture: Picture, share: float) -> Picture:
    across, down = round(picture.width * share), round(picture.height * share)
    return picture.crop((across, down, picture.width - across, picture.height - down))


CHANGES: dict[str, Callable[[Picture], Picture]] = {
    "JPEG, quality 60": reencoded,
    "resized to 90 %": lambda picture: scaled(picture, 0.9),
    "both": lambda picture: reencoded(scaled(picture, 0.9)),
    "resized to 50 %": lambda picture: scaled(picture, 0.5),
    "20 % brighter": lambda picture: ImageEnhance.Brightness(picture).enhance(1.2),
    "mirrored, turned, JPEG": lambda picture: reencoded(picture.transpose(Image.Transpose.TRANSVERSE)),
    "cropped by 4 %": lambda picture: cropped(picture, 0.04),
    "rotated by 2 degrees": lambda picture: picture.rotate(2, Image.Resampling.BILINEAR),
}


def originals(table: SampleTable) -> NDArray[np.str_]:
    """Return the number of the original of each healthy leaf; empty for others."""
    matches = [re.search(r"healthy-(\d+)-", name) for name in table.ids]
    return np.array([match[1] if match else "" for match in matches])


def is_true_pair(pairs: PairList, original: NDArray[np.str_]) -> NDArray[np.bool_]:
    return np.asarray((original[pairs.first] == original[pairs.second]) & (original[pairs.first] != ""))


def torn_pairs(table: SampleTable, original: NDArray[np.str_]) -> tuple[int, int]:
    """Return the number of true pairs, and how many of them the default split of tercet train separates."""
    split = np.array(assign_splits(replace(table, splits=None), DataConfig()).splits)
    groups = [np.flatnonzero(original == name) for name in np.unique(original[original != ""])]
    pairs = [(a, b) for group in groups for index, a in enumerate(group) for b in group[index + 1 :]]
    return len(pairs), sum(split[a] != split[b] for a, b in pairs)


def by_hash(table: SampleTable) -> dict[str, Any]:
    """Return true and false pairs found by hash among the leaves, with and without confirmation, by distance."""
    original = originals(table)
    inspection = inspect(table, max_pixels=10**8)
    assert inspection.hashes is not None
    true, torn = torn_pairs(table, original)
    lines = {}
    for name, least in (("hash alone", -1.0), (f"hash and correlation {MIN_CORRELATION}", MIN_CORRELATION)):
        pairs = near_pairs(
            inspection.hashes, inspection.grey, max_distance=DISTANCES[-1], min_correlation=least, max_pairs=MANY
        )
        right = is_true_pair(pairs, original)
        lines[name] = {
            str(limit): [
                int((right & (pairs.distance <= limit)).sum()),
                int((~right & (pairs.distance <= limit)).sum()),
            ]
            for limit in DISTANCES
        }
    return {"true_pairs": true, "torn_by_random_split": torn, "found_and_false_by_distance": lines}


def by_network(table: SampleTable, weights: Path) -> dict[str, Any]:
    """Return true and false pairs found by features among the leaves, for one and eight orientations, by cosine."""
    original = originals(table)
    embedder = build_embedder(
        {"model": "mobilenetv2_100", "weights": str(weights), "input.size": [SIZE]}, channels=3, image_size=None
    )
    digests = inspect(table, max_pixels=10**8, compute_hashes=False).digests
    with tempfile.TemporaryDirectory() as folder:  # earlier features would hide the computation
        embedder = replace(embedder, cache=FeatureCache(Path(folder)))
        started = time.monotonic()
        features = embed_images(embedder, table, np.arange(len(table)), digests, max_pixels=10**8, device="cpu")
        seconds = time.monotonic() - started
    lines = {}
    for name, some in (("as they are", features[:, :1]), ("eight orientations", features)):
        pairs = similar_pairs(some, min_similarity=COSINES[-1], max_pairs=MANY)
        right = is_true_pair(pairs, original)
        lines[name] = {
            str(limit): [
                int((right & (pairs.similarity >= limit)).sum()),
                int((~right & (pairs.similarity >= limit)).sum()),
            ]
            for limit in COSINES
        }
    return {"input_size": SIZE, "seconds": seconds, "found_and_false_by_cosine": lines}


def made(pictures: list[Picture], sample: int) -> dict[str, Any]:
    """Return the share of detected copies, and the number of false pairs among the images, by distance."""
    grey = np.stack([downscale(pixels_of(picture)) for picture in pictures])
    codes = hashes(grey)
    pairs = near_pairs(codes, grey, max_distance=DISTANCES[-1], min_correlation=-1, max_pairs=MANY)
    sure = pairs.similarity >= MIN_CORRELATION
    false = {
        str(limit): [int((pairs.distance <= limit).sum()), int((sure & (pairs.distance <= limit)).sum())]
        for limit in DISTANCES
    }
    shares: dict[str, dict[str, list[float]]] = {}
    for change, apply in CHANGES.items():
        distance, similarity = np.full(sample, 99), np.full(sample, -1.0)
        for index in range(sample):
            copy = downscale(pixels_of(apply(pictures[index])))
            pair = near_pairs(
                np.stack([codes[index], hashes(copy[None])[0]]),
                np.stack([grey[index], copy]),
                max_distance=16,
                min_correlation=-1,
            )
            if len(pair):
                distance[index], similarity[index] = pair.distance[0], pair.similarity[0]
        shares[change] = {
            str(limit): [
                float((distance <= limit).mean()),
                float(((distance <= limit) & (similarity >= MIN_CORRELATION)).mean()),
            ]
            for limit in DISTANCES
        }
    return {"pictures": len(pictures), "copies": sample, "false_alone_and_confirmed": false, "share_found": shares}


def pixels_of(picture: Picture) -> NDArray[np.uint8]:
    pixels = np.asarray(picture)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def garments(folder: Path, count: int) -> list[Picture]:
    content = gzip.decompress((folder / "fashion-mnist" / "train-images-idx3-ubyte.gz").read_bytes())
    return [Image.fromarray(image) for image in np.frombuffer(content, np.uint8, offset=16).reshape(-1, 28, 28)[:count]]


def speed(folder: Path, count: int = 20_000) -> dict[str, Any]:
    """Return time and findings of an audit of PNG files in ten class folders."""
    labels = gzip.decompress((folder / "fashion-mnist" / "train-labels-idx1-ubyte.gz").read_bytes())[8:]
    with tempfile.TemporaryDirectory() as temporary:
        for index, picture in enumerate(garments(folder, count)):
            target = Path(temporary) / "images" / str(labels[index])
            target.mkdir(parents=True, exist_ok=True)
            picture.save(target / f"{index}.png")
        started, used = time.monotonic(), time.process_time()
        result = audit_data(Path(temporary) / "images", output=str(Path(temporary) / "audit"))
        seconds, processor = time.monotonic() - started, time.process_time() - used
    copies = result.result.duplicates
    return {
        "files": count,
        "seconds": seconds,
        "processor_seconds": processor,
        "equal": len(result.result.duplicates_by("pixels")),
        "near": len(result.result.duplicates_by("hash")),
        "near_with_one_label": sum(not copy.disagrees for copy in copies if copy.method == "hash"),
    }


def table_of(lines: Mapping[str, Mapping[str, list[float]]], first: str) -> list[str]:
    limits = list(next(iter(lines.values())))
    head = f"{first:<32}" + "".join(f"{limit:>14}" for limit in limits)
    rows = [
        f"{name:<32}"
        + "".join(f"{' / '.join(f'{value:g}' for value in map(_short, cell)):>14}" for cell in line.values())
        for name, line in lines.items()
    ]
    return [head, *rows]


def _short(value: float) -> float:
    return round(value, 3)


def report(results: Mapping[str, Any]) -> str:
    """Return the results as text."""
    parts: list[str] = []
    if part := results.get("hash"):
        parts += [
            f"POTATO LEAVES: {part['true_pairs']} true pairs, {part['torn_by_random_split']} separated by random split"
        ]
        parts += ["", *table_of(part["found_and_false_by_distance"], "found / false pairs, by distance"), ""]
    if part := results.get("network"):
        parts += [f"features of mobilenetv2_100 at {part['input_size']} pixels, {part['seconds']:.0f} s"]
        parts += ["", *table_of(part["found_and_false_by_cosine"], "found / false pairs, by cosine"), ""]
    for name, part in results.get("made", {}).items():
        parts += [f"COPIES MADE OF {name.upper()}: {part['copies']} per change, hash alone / confirmed", ""]
        parts += table_of(part["share_found"], "share found, by distance")
        parts += [*table_of({f"false pairs of {part['pictures']}": part["false_alone_and_confirmed"]}, "")[1:], ""]
    if part := results.get("speed"):
        parts += [
            f"{part['files']:,} FILES: {part['seconds']:.0f} s, {part['processor_seconds']:.0f} s of CPU time; "
            f"{part['equal']} identical images, {part['near']} near pairs, {part['near_with_one_label']} of one class"
        ]
    return "\n".join(parts) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", default=str(HERE.parents[1] / "shared" / "data"))
    parser.add_argument("--parts", default=",".join(PARTS), help="parts to measure; the others are taken from results/")
    arguments = parser.parse_args()
    folder, parts = Path(arguments.data_dir), arguments.parts.split(",")
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    table = load_table(folder / "potato-leaves" / "potato-leaf-160.zip", DataConfig())
    if "hash" in parts:
        results["hash"] = by_hash(table)
    if "made" in parts:
        diseased = [row for row, name in enumerate(originals(table)) if not name]
        leaves = [Image.fromarray(table.source.pixels(table.locations[row], max_pixels=10**8)) for row in diseased]
        results["made"] = {"leaves": made(leaves, 200), "garments": made(garments(folder, 3000), 200)}
    if "network" in parts:
        results["network"] = by_network(table, folder / "weights" / "mobilenetv2_100_onnxzoo_backbone.safetensors")
    if "speed" in parts:
        results["speed"] = speed(folder)
    measured = {"machines": {**results.get("machines", {}), **dict.fromkeys(parts, describe_environment())}}
    results = {key: value for key, value in results.items() if key != "environment"} | measured
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    stored = [name for name in PARTS if name in results and name not in parts]
    text = report(results)
    if stored:
        print(f"stored results of earlier runs, not measured now: {', '.join(stored)}")
    RESULTS.with_suffix(".txt").write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(run_benchmark(main))
