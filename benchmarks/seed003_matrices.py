"""Recompute the macro-F1 of the two confusion matrices in the notebook on a row-LSTM and a CNN.

    python benchmarks/seed003_matrices.py

Fashion-MNIST test set, 10,000 images; rows are the true classes. The notebook has the scores to 16 digits.
"""

from __future__ import annotations

import sys

from stored_results import run_benchmark, store_text
from tercet.metrics.classification import scores_from_confusion

MATRICES = {
    "row-LSTM": (
        0.8748034992470057,
        [
            [834, 2, 14, 62, 1, 1, 80, 0, 6, 0],
            [1, 968, 3, 22, 1, 0, 4, 0, 1, 0],
            [11, 2, 790, 14, 133, 0, 50, 0, 0, 0],
            [16, 13, 9, 922, 18, 0, 19, 0, 3, 0],
            [0, 1, 78, 51, 835, 1, 32, 0, 2, 0],
            [0, 0, 0, 1, 0, 946, 0, 30, 2, 21],
            [151, 3, 87, 40, 136, 0, 575, 0, 8, 0],
            [0, 0, 0, 0, 0, 7, 0, 952, 0, 41],
            [4, 1, 8, 3, 2, 1, 1, 4, 976, 0],
            [1, 0, 0, 0, 0, 3, 0, 26, 0, 970],
        ],
    ),
    "small CNN": (
        0.9059275834044541,
        [
            [904, 1, 11, 23, 5, 1, 51, 0, 4, 0],
            [1, 974, 0, 20, 2, 0, 2, 0, 1, 0],
            [23, 1, 860, 9, 66, 0, 40, 1, 0, 0],
            [14, 3, 9, 938, 17, 0, 16, 0, 3, 0],
            [1, 1, 64, 27, 874, 0, 32, 0, 1, 0],
            [0, 0, 0, 0, 0, 977, 0, 14, 0, 9],
            [167, 0, 69, 36, 80, 0, 634, 0, 14, 0],
            [0, 0, 0, 0, 0, 6, 0, 973, 0, 21],
            [2, 3, 0, 5, 1, 5, 4, 4, 975, 1],
            [0, 0, 0, 0, 0, 5, 1, 27, 0, 967],
        ],
    ),
}


def main() -> int:
    equal, lines = True, []
    for name, (published, matrix) in MATRICES.items():
        scores = scores_from_confusion(matrix)
        equal &= scores.macro_f1 == published
        lines.append(f"{name:10} n {scores.n}  accuracy {scores.accuracy:.4f}  kappa {scores.kappa:.4f}\n")
        lines.append(f"           macro-F1 published {published:.16f}  measured {scores.macro_f1:.16f}\n")
    store_text("seed003_matrices.txt", "".join(lines))
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(run_benchmark(main))
