"""Combine prediction files of three classifiers by two methods, and compare each with the best file.

    python examples/combine_predictions.py

The files are generated: 1,000 samples, 5 classes, three independent classifiers. Any files with a row per sample and a
column per class work, if the rows sum to 1.
"""

from pathlib import Path

import numpy as np

import tercet


def write_files(folder: Path, *, samples: int = 1000, classes: int = 5) -> tuple[list[Path], Path]:
    """Write three files of probabilities (N K) and one of true labels (N)."""
    generator = np.random.default_rng(0)
    truth = generator.integers(0, classes, samples)
    files = [folder / f"classifier-{number}.npy" for number in (1, 2, 3)]
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        logits = generator.normal(0, 1, (samples, classes)) + 1.5 * np.eye(classes)[truth]
        np.save(file, np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True))
    np.save(folder / "truth.npy", truth)
    return files, folder / "truth.npy"


if __name__ == "__main__":
    files, labels = write_files(Path("runs/example-predictions"))
    for method in ("average", "weighted"):  # weighted is fitted on the labels, so its score is cross-fitted
        print(tercet.combine(files, ensemble_methods=[method], labels=labels).report)
