"""Tables of first_minute.py, for its text files and docs/performance.md."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

START, END = "<!-- tables of first_minute.py: start -->", "<!-- tables of first_minute.py: end -->"
TITLES = {
    "probe": "Probe",
    "folds": "Five folds",
    "ladder": "Rungs of the ladder",
    "frozen": "Frozen training",
    "others": "Other programs",
}
Row = Mapping[str, Any]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def accuracy(row: Row) -> str:
    """Return an accuracy, with its 95 % interval if there is one."""
    if "accuracy_low" not in row:
        return f"{row['accuracy']:.4f}"
    return f"{row['accuracy']:.4f} ({row['accuracy_low']:.3f}-{row['accuracy_high']:.3f})"


def seconds(value: float) -> str:
    return f"{value:.1f}"


def target(name: str, measured: str, met: bool) -> list[str]:
    """Return a row of a table of targets."""
    return [name, measured, "yes" if met else "no"]


def targets(rows: Sequence[Sequence[str]]) -> str:
    return table(["target", "measured", "met"], rows)


def standard_error(row: Row) -> float:
    """Return the standard error of an accuracy, of independent images."""
    return math.sqrt(row["accuracy"] * (1 - row["accuracy"]) / row["n"])


def probe(results: Row) -> Iterator[str]:
    """Yield the tables of the section `probe`."""
    lines, goals = [], []
    for name, values in results.items():
        for side, label in (("tercet", "`tercet probe`"), ("script", "timm and scikit-learn")):
            row = values[side]
            lines.append([name, label, str(row["n"]), accuracy(row), seconds(row["cpu"]), seconds(row["wall"])])
        gap = values["tercet"]["accuracy"] - values["script"]["accuracy"]
        p_value = values["p_value"]
        goals += [
            target(
                f"{name}: accuracy not worse",
                f"{gap:+.4f}, McNemar p = {p_value:.2f}",
                gap >= 0 or p_value > 0.05,
            ),
            target(f"{name}: CPU at most 1.0 times", f"{values['cpu_ratio']:.2f}", values["cpu_ratio"] <= 1),
            target(f"{name}: report within 30 s", seconds(values["tercet"]["wall"]), values["tercet"]["wall"] <= 30),
            target(
                f"{name}: verified ONNX file within 60 s", seconds(values["first_onnx"]), values["first_onnx"] <= 60
            ),
        ]
    yield table(["data", "program", "test images", "accuracy", "CPU s", "wall s"], lines)
    yield targets(goals)


def folds(results: Row) -> Iterator[str]:
    """Yield the tables of the section `folds`."""
    lines = [
        [name, str(results[name]["n"]), accuracy(results[name]), seconds(results[name]["cpu"])]
        for name in ("probe", "five folds")
    ]
    yield table(["potato leaves, by original", "images", "accuracy", "CPU s"], lines)
    ratio = results["cpu_ratio"]
    yield targets([target("five folds: CPU at most 1.5 times one probe", f"{ratio:.2f}", ratio <= 1.5)])


def ladder(results: Row) -> Iterator[str]:
    """Yield the tables of the section `ladder`."""
    goals = []
    for name in ("potato leaves", "hand signs"):
        values, lines = results[name], []
        earlier = values["stored"]
        for preset in (preset for preset in ("fast", "good") if preset in values):
            row = values[preset]
            lines += [[f"{preset}: {model}", accuracy(scores), "", ""] for model, scores in row["models"].items()]
            lines.append([f"**{preset}: chosen**", accuracy(row), seconds(row["cpu"]), seconds(row["wall"])])
            best = max(row["models"].values(), key=lambda scores: scores["accuracy"])
            gap = row["accuracy"] - best["accuracy"]
            within = gap >= -standard_error(best)
            goals.append(target(f"{name}, {preset}: chosen within a standard error of the best", f"{gap:+.4f}", within))
            gap, share = row["accuracy"] - earlier["accuracy"], row["cpu"] / earlier["seconds"]
            goals += [
                target(f"{name}, {preset}: not below the stored result", f"{gap:+.4f}", gap >= 0),
                target(f"{name}, {preset}: at most 0.2 times its seconds", f"{share:.2f}", share <= 0.2),
            ]
        lines.append(["stored result, all trainings", accuracy(earlier), seconds(earlier["seconds"]), ""])
        yield table([f"{name}, pooled", f"accuracy, n = {values['fast']['n']}", "CPU s", "wall s"], lines)
    rows = results["Fashion-MNIST"]
    lines = [
        [
            row["rung"],
            row["chosen"],
            accuracy(row["validation"]),
            accuracy(row["test"]) if row["test"] else "-",
            seconds(row["cpu"]),
            seconds(row["wall"]),
        ]
        for row in rows
    ]
    yield table(["Fashion-MNIST, rung", "best so far", "validation", "test", "CPU s", "wall s"], lines)
    tested = [row["test"] for row in rows if row["test"]]
    if tested:
        best = max(tested, key=lambda scores: scores["accuracy"])
        gap = tested[-1]["accuracy"] - best["accuracy"]
        within = gap >= -standard_error(best)
        goals.append(target("Fashion-MNIST: last within a standard error of the best rung", f"{gap:+.4f}", within))
    yield targets(goals)


def frozen(results: Row) -> Iterator[str]:
    """Yield the tables of the section `frozen`."""
    lines = []
    for name, label in (("stored", "stored"), ("computed", "computed in every epoch, `--augment light`")):
        row = results[name]
        times = [f"{row['first_epoch']:.2f}", f"{row['later_epochs']:.3f}", seconds(row["cpu"])]
        lines.append([label, *times, accuracy(row)])
    yield table(["features", "first epoch, s", "later epochs, s", "whole training, CPU s", "validation"], lines)
    ratio = results["ratio"]
    yield targets([target("later epochs at least 20 times as fast", f"{ratio:.0f}", ratio >= 20)])


def others(results: Row) -> Iterator[str]:
    """Yield the table of the section `others`."""
    lines = [
        [name, side, str(row["n"]), accuracy(row), seconds(row["cpu"]), seconds(row["wall"])]
        for name, values in results.items()
        for side, row in values.items()
        if side != "rounds"
    ]
    yield table(["data", "program", "test images", "accuracy", "CPU s", "wall s"], lines)


TABLES = {function.__name__: function for function in (probe, folds, ladder, frozen, others)}


def render(section: str, document: Row) -> str:
    """Return the Markdown tables of a section."""
    rounds = document["rounds"]
    threads = document["threads"]
    protocol = [
        f"medians of {rounds} rounds" if rounds > 1 else "one round",
        f"{threads} thread{'s' * (threads > 1)} per process" if threads else "threads as each program chooses",
        "seed 0",
        f"{document['environment']['cores']} cores ({document['processor'] or 'unknown processor'})",
        f"PyTorch {document['environment']['packages']['torch']}",
    ]
    if document["limit"]:
        protocol.append(f"only {document['limit']} training images")
    text = ", ".join(protocol)
    return "\n".join([f"{text[0].upper()}{text[1:]}.\n", *TABLES[section](document["results"])])


def write_page(page: Path, results: Path, sections: Sequence[str]) -> None:
    """Replace the tables of a page between its two markers by those of stored results."""
    before, _, rest = page.read_text("utf-8").partition(START)
    _, marker, after = rest.partition(END)
    if not marker:
        raise SystemExit(f"{page} has no line {START} with a later line {END}: add both")
    parts = []
    for section in sections:
        path = results / f"first_minute-{section}.json"
        command = f"`python benchmarks/first_minute.py {section}`"
        if path.is_file():
            text = f"{command}:\n{render(section, json.loads(path.read_text('utf-8')))}"
        else:
            text = f"Not measured yet: {command} writes the result.\n"
        parts.append(f"\n### {TITLES[section]}\n\n{text}")
    page.write_text(f"{before}{START}\n{''.join(parts)}\n{END}{after}", "utf-8")
