"""Combine the published Fashion-MNIST predictions of the E2E-3M paper and compare with the published accuracies.

    python benchmarks/published_predictions.py [FOLDER]

FOLDER contains the `.npy` files of https://github.com/leonlha/e2e-3m (10,000 x 10 softmax outputs each). Their rows are
the official test images ordered by class, 1,000 each, so that the labels need no data. The three members are those of
the paper and the ensemble methods have no parameters; only the member that the average is compared with is selected on
these images.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from stored_results import run_benchmark, store_text
from tercet.core.errors import DataError
from tercet.core.prediction_files import read_predictions
from tercet.ensemble.combine import average, pruned, vote
from tercet.metrics.classification import score
from tercet.metrics.significance import compare
from tercet.metrics.tables import ResultRow, comparison_text, results_table

FOLDER = Path(__file__).resolve().parents[2] / "shared/data/e2e3m-predictions/fashion-mnist"
PREFIX = "FashionMNIST_MulModel_Mixed_STDSE_LSTMXc_STD_IcR_299_"
MEMBERS = ("SEResNeXt101", "Xception", "InceptionResNetV2")
PUBLISHED = {"average": 0.9592, "pruned": 0.9591, "vote": 0.9590}
LABELS = np.repeat(np.arange(10), 1000)


def main() -> int:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    try:
        files = [folder / f"{PREFIX}{name}.npy" for name in MEMBERS]
        members = [read_predictions(file, labels=LABELS) for file in files]
    except DataError as error:
        print(f"{error}; give the folder with the files of https://github.com/leonlha/e2e-3m", file=sys.stderr)
        return error.exit_code
    lines = []
    ensembles = {"average": average(members), "pruned": pruned(members), "vote": vote(members)}
    rows = [ResultRow(name, "member", score(member)) for name, member in zip(MEMBERS, members, strict=True)]
    rows += [ResultRow(name, "ensemble", score(predictions)) for name, predictions in ensembles.items()]
    lines.append(results_table(rows, title="Fashion-MNIST test, published predictions").to_text(width=100))
    for name, expected in PUBLISHED.items():
        accuracy = score(ensembles[name]).accuracy
        verdict = "equal" if accuracy == expected else "DIFFERENT"
        lines.append(f"{name:8} published {expected:.4f}  measured {accuracy:.4f}  {verdict}")
    lines.append("")
    best = max(zip(MEMBERS, members, strict=True), key=lambda pair: score(pair[1]).accuracy)
    pairs = [("average", *best), ("average", "pruned", ensembles["pruned"]), ("average", "vote", ensembles["vote"])]
    for a, b, predictions in pairs:
        lines.append(comparison_text(compare(ensembles[a], predictions), a, b))
    store_text("published_predictions.txt", "\n".join(lines) + "\n")
    return 0 if all(score(ensembles[name]).accuracy == expected for name, expected in PUBLISHED.items()) else 1


if __name__ == "__main__":
    sys.exit(run_benchmark(main))
