"""How the trainings of a run went, and what they cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tercet.evaluation.report import short_count
from tercet.pictures.cost import Cost, accuracy_against_cost
from tercet.pictures.curves import Quantity, training_curves
from tercet.pictures.page import Block, Paragraph, Section, Table
from tercet.records.history import History
from tercet.workflows.report.record import Record
from tercet.workflows.report.sketchbook import Sketchbook
from tercet.workflows.report.wording import ABSENT, duration, mean_sd

_CURVES: tuple[tuple[Quantity, str], ...] = (
    ("loss", "Loss over the epochs"),
    ("accuracy", "Accuracy over the epochs"),
    ("macro_f1", "Macro F1 over the epochs"),
    ("kappa", "Kappa over the epochs"),
    ("rate", "Learning rate over the epochs"),
)


def curves(histories: Mapping[str, History], book: Sketchbook, *, selection: str = "validation") -> Section:
    """Return the curves of all trainings overlaid, as far as their histories are there."""
    some = {name: history for name, history in histories.items() if len(history)}
    if not some:
        return Section(
            "Training", [Paragraph("No history of a training is there, so curves are left out.", quiet=True)]
        )
    blocks: list[Block] = []
    for quantity, title in _CURVES:
        known = {name: history for name, history in some.items() if quantity == "rate" or _has(history, quantity)}
        if known:
            where = "" if quantity == "rate" else f" on {selection} images; a dot marks the epoch that was kept"
            blocks.append(
                book.draw(
                    f"training-{quantity.replace('_', '-')}",
                    f"{title}{where}.",
                    lambda axes, known=known, quantity=quantity: training_curves(axes, known, quantity),  # type: ignore[misc]
                )
            )
    return Section("Training", blocks)


def cost(record: Record, book: Sketchbook) -> Section:
    """Return what trainings and answers cost, and accuracy against that."""
    rows = list(record.document["networks"] if record.kind == "compare" else record.document["members"])
    rows = [row for row in rows if "parameters" in row]
    if not rows:
        return Section("Cost", [Paragraph("The run does not tell what its trainings cost.", quiet=True)])
    drawn = [
        *_figures([point for row in rows if (point := _point(record, row, "flops"))], "flops", book),
        *_figures([point for row in rows if (point := _point(record, row, "seconds"))], "seconds", book),
    ]
    table = _networks(rows) if record.kind == "compare" else _members(rows)
    flops = any(row.get("flops") for row in rows)
    note = "FLOPs: one image, forward; a multiply-add is two." if flops else "Operations were not counted."
    return Section("Cost", [table, Paragraph(note, quiet=True), *drawn])


def _figures(points: list[Cost], what: str, book: Sketchbook) -> Iterator[Block]:
    if not points:
        return
    words = {"flops": "operations an image (FLOPs)", "seconds": "seconds of training"}[what]
    yield book.draw(
        f"accuracy-against-{what}",
        f"Accuracy against {words}; the area of a dot is the number of parameters, the line its interval.",
        lambda axes: accuracy_against_cost(axes, points, xlabel=words),
    )


def _point(record: Record, row: Mapping[str, Any], what: str) -> Cost | None:
    """Return a network's accuracy and cost; None where one of them is not known."""
    scores, cost = row.get(record.judged), row.get(what)
    if not scores or not cost:
        return None
    if record.kind == "compare":
        value, cost = scores["accuracy"], cost["mean"] if isinstance(cost, Mapping) else cost
        spread = value["sd"] or 0.0
        low, high = (value["mean"] - spread, value["mean"] + spread) if spread else (None, None)
        return Cost(row["name"], value["mean"], low, high, float(cost), int(row["parameters"]))
    low, high = scores["accuracy_low"], scores["accuracy_high"]
    return Cost(row["name"], scores["accuracy"], low, high, float(cost), int(row["parameters"]))


def _members(rows: list[dict[str, Any]]) -> Table:
    header = ("member", "parameters", "FLOPs an image", "training", "epochs", "updates", "precision")
    cells = [
        (
            row["name"],
            short_count(row["parameters"]) if row["parameters"] else ABSENT,
            short_count(row["flops"]) if row.get("flops") else ABSENT,
            duration(row.get("seconds")),
            *(str(row.get(key, ABSENT)) for key in ("epochs", "steps", "precision")),
        )
        for row in rows
    ]
    seconds = sum(row.get("seconds") or 0 for row in rows)
    return Table(header, cells, "lrrrrrr", f"What each member cost; {duration(seconds)} of training in all")


def _networks(rows: list[dict[str, Any]]) -> Table:
    header = ("network", "parameters", "FLOPs an image", "a training", "an epoch / s", "images / s", "updates")
    cells = [
        (
            row["name"],
            short_count(row["parameters"]),
            short_count(row["flops"]) if row.get("flops") else ABSENT,
            duration(row["seconds"]["mean"]),
            mean_sd(row["seconds_per_epoch"], 1),
            mean_sd(row["images_per_second"], 0),
            mean_sd(row["updates"], 0),
        )
        for row in rows
    ]
    return Table(header, cells, "lrrrrrr", "What each network cost: mean ± standard deviation over seeds")


def _has(history: History, quantity: str) -> bool:
    return any(quantity in row.validation for row in history)
