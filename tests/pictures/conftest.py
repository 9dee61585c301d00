"""Names as data may hold them, and values to draw."""

import numpy as np

from tercet.records.history import EpochRow, History
from tercet.records.predictions import Predictions

HOSTILE = (
    "<script>alert(1)</script>",
    r"$\frac{",
    "$a$",
    r"\$",
    "n" * 40 + "m" * 40,
    "🍅😀 tomato",
    "مرحبا بالعالم",
    "a\nb\x1b[31m",
    "_hidden",
    "中文",
)


def names(count: int) -> list[str]:
    return [*HOSTILE, *(f"class {index}" for index in range(count))][:count]


def history(*epochs: int, offset: float = 0.0) -> History:
    rows: list[EpochRow] = []
    for stage, count in enumerate(epochs):
        for epoch in range(count):
            loss = 1 / (len(rows) + 1) + offset
            scores = {"loss": loss, "accuracy": 1 - loss / 2, "kappa": 0.5}
            row = EpochRow(stage, epoch, 10 * len(rows), 10.0**-stage, loss / 2, 0.9, scores, 1.0, best=True)
            rows.append(row)
    return History(rows)


def predictions(classes: int, count: int = 60) -> Predictions:
    generator = np.random.default_rng(classes)
    labels = np.arange(count) % classes
    logits = generator.normal(0, 1, (count, classes))
    logits[np.arange(count), labels] += 2
    return Predictions.from_logits(
        logits, ids=[f"{row}" for row in range(count)], classes=names(classes), labels=labels
    )
