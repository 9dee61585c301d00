"""False positive rate of tests at the 5 % level over images, over seeds, and over both.

    python benchmarks/seeds_and_images.py [--repeats 1000]

The table is written to benchmarks/results/seeds_and_images.txt.

Two equally good networks are simulated: an image is classified correctly if a logit is positive. The logit is the sum
of an effect of the image (common to both networks), an effect of network and image, an effect of the seed, and noise.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from stored_results import RESULTS, run_benchmark, store_text
from tercet.metrics.significance import crossed_mean

CASES = [(500, 3, 0.0), (500, 3, 0.1), (500, 3, 0.3), (5000, 3, 0.1), (5000, 3, 0.3), (500, 5, 0.2), (200, 10, 0.2)]


def simulate(generator: np.random.Generator, images: int, seeds: int, seed_effect: float) -> NDArray[np.float64]:
    """Return the differences of two equally good networks, images x seeds."""
    image_effect = generator.normal(2, 2, (images, 1))
    first, second = (
        image_effect
        + generator.normal(0, 1, (images, 1))
        + generator.normal(0, seed_effect, (1, seeds))
        + generator.normal(0, 0.7, (images, seeds))
        > 0
        for _ in range(2)
    )
    return first.astype(np.float64) - second


def t_test(values: NDArray[np.float64]) -> float:
    """Return the p-value of a t-test that the mean is zero."""
    error = values.std(ddof=1) / np.sqrt(len(values))
    return float(2 * student.sf(abs(values.mean()) / error, len(values) - 1)) if error > 0 else 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=1000)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the table")
    arguments = parser.parse_args()
    repeats = arguments.repeats
    generator = np.random.default_rng(0)
    lines = [f"{repeats} simulated comparisons of equally good networks each, generator seed 0"]
    lines.append("images  seeds  seed effect     images only  seeds only  both")
    for images, seeds, seed_effect in CASES:
        false_positives = np.zeros(3)
        for _ in range(repeats):
            differences = simulate(generator, images, seeds, seed_effect)
            mean, error, freedom = crossed_mean(differences)
            both = 2 * student.sf(abs(mean) / error, freedom)
            by_image, by_seed = (t_test(differences.mean(axis=axis)) for axis in (1, 0))
            false_positives += np.array([by_image, by_seed, both]) < 0.05
        shares = "  ".join(f"{100 * share:9.1f} %" for share in false_positives / repeats)
        lines.append(f"{images:6}  {seeds:5}  {seed_effect:13}   {shares}")
    store_text("seeds_and_images.txt", "\n".join(lines) + "\n", arguments.results)


if __name__ == "__main__":
    sys.exit(run_benchmark(main))
