"""What the sections of first_minute.py share: data, measurements, scores."""

from __future__ import annotations

import csv
import json
import sys
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from measured_process import Measurement, measure_process

ENCODER = "mobilenetv2_100"
SCORES = ("n", "accuracy", "accuracy_low", "accuracy_high", "log_loss")
BY_ORIGINAL = ("--data.group-from", r"healthy-(\d+)-")
Row = dict[str, Any]


@dataclass(frozen=True)
class Bench:
    """Where a section reads, works and how often it measures."""

    data: Path
    work: Path
    rounds: int
    threads: int
    limit: int | None
    size: int
    long: bool
    fastai_python: str | None

    @property
    def weights(self) -> str:
        """Weights of the encoder."""
        return str(self.data / "weights" / "mobilenetv2_100_onnxzoo_backbone.safetensors")

    @property
    def encoder(self) -> list[str]:
        """Options of the encoder, and of the number of images."""
        return ["--members", ENCODER, "--weights", self.weights, *self.limited]

    @property
    def limited(self) -> list[str]:
        """The option of the number of training images."""
        return ["--data.limit", str(self.limit)] if self.limit else []

    def measure(self, command: Sequence[str], cache: Path | None = None) -> Measurement:
        """Run a command; prints its times."""
        result = measure_process(command, threads=self.threads, cache=cache)
        words = " ".join(Path(word).name if "/" in word else word for word in command[1:])
        print(f"{result.cpu:8.1f} s CPU {result.wall:8.1f} s  {words[:90]}", file=sys.stderr, flush=True)
        return result

    def sources(self) -> dict[str, tuple[Path, list[str]]]:
        """Return the data of the section `probe`, unpacked, with their options: name to path and options."""
        leaves, hands = self.work / "leaves", self.work / "hands"
        archives = {leaves: "potato-leaves/potato-leaf-160.zip", hands: "hand-signs/asl-massey-160.zip"}
        for folder, archive in archives.items():
            if not folder.is_dir():
                with zipfile.ZipFile(self.data / archive) as packed:
                    packed.extractall(folder)
        digits = hands / "digits.csv"
        with (hands / "labels.csv").open(newline="", encoding="utf-8") as file:
            rows = [(row["file"], row["label"]) for row in csv.DictReader(file) if row["label"].isdigit()]
        with digits.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("file", "label"), *rows])
        return {"potato leaves": (leaves, []), "hand signs, digits": (digits, ["--data.image-column", "file"])}


def metrics_of(run: Path) -> Any:
    """Return the metrics of a run."""
    return json.loads((run / "metrics.json").read_text("utf-8"))


def chosen_of(metrics: Any) -> Any:
    """Return the chosen model of a run."""
    return next(row for row in [*metrics["members"], *metrics["ensembles"]] if row["name"] == metrics["chosen"])


def scores(values: Any) -> Row:
    """Return the main scores, rounded."""
    return {name: round(values[name], 6) for name in SCORES}


def alternate(bench: Bench, sides: dict[str, Callable[[int], Row]]) -> dict[str, list[Row]]:
    """Return the rows of every side, whose order is reversed in every second round."""
    rows: dict[str, list[Row]] = {name: [] for name in sides}
    for number in range(bench.rounds):
        for name in [*sides] if number % 2 == 0 else [*reversed(sides)]:
            rows[name].append(sides[name](number))
    return rows


def medians(rows: Sequence[Row]) -> Row:
    """Return the first row with the medians of its times."""
    times = {name: round(median(row[name] for row in rows), 2) for name in rows[0] if name in ("cpu", "wall")}
    return {**rows[0], **times}
