"""How the trainings of a run went, and what they cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tercet.core.history import History
from tercet.data.run_reader import RunReader
from tercet.metrics.tables import short_count
from tercet.plots.cost import Cost, accuracy_against_cost
from tercet.plots.curves import Quantity, training_curves
from tercet.plots.figure_writer import FigureWriter
from tercet.plots.page import Block, Paragraph, Section, Table
from tercet.report.summary import MISSING, duration, mean_sd

_CURVES: tuple[tuple[Quantity, str], ...] = (
    ("loss", "Loss over the epochs"),
    ("accuracy", "Accuracy over the epochs"),
    ("macro_f1", "Macro F1 over the epochs"),
    ("kappa", "Kappa over the epochs"),
    ("rate", "Learning rate over the epochs"),
)
_COSTS = {
    "flops": "operations an image (FLOPs)",
    "milliseconds": "milliseconds an image, in batches",
    "seconds": "seconds of training",
}


def curves_section(
    histories: Mapping[str, History], book: FigureWriter, *, monitor_split: str = "validation"
) -> Section:
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
            where = "" if quantity == "rate" else f" on {monitor_split} images; a dot marks the epoch that was kept"
            blocks.append(
                book.draw(
                    f"training-{quantity.replace('_', '-')}",
                    f"{title}{where}.",
                    lambda axes, known=known, quantity=quantity: training_curves(axes, known, quantity),  # type: ignore[misc]
                )
            )
    return Section("Training", blocks)


def cost_section(record: RunReader, book: FigureWriter) -> Section:
    """Return what trainings and answers cost, and accuracy against that."""
    rows = list(record.metrics["networks"] if record.kind == "compare" else record.metrics["members"])
    rows = [row for row in rows if "parameters" in row]
    if not rows:
        return Section("Cost", [Paragraph("The run does not tell what its trainings cost.", quiet=True)])
    drawn = [block for what in _COSTS for block in _figures(record, rows, what, book)]
    table = _networks(rows) if record.kind == "compare" else _members(rows)
    flops = any(row.get("flops") for row in rows)
    notes = [Paragraph("FLOPs: one image, forward; a multiply-add is two.", quiet=True)] if flops else []
    return Section("Cost", [table, *notes, *drawn])


def _figures(record: RunReader, rows: list[dict[str, Any]], what: str, book: FigureWriter) -> Iterator[Block]:
    points = [point for row in rows if (point := _point(record, row, what))]
    if not points:
        return
    words = _COSTS[what]
    score = "O-F1" if record.is_multilabel else "accuracy"
    yield book.draw(
        f"accuracy-against-{what}",
        f"{score[0].upper()}{score[1:]} against {words}; the area of a dot is the number of parameters, the line its "
        "interval.",
        lambda axes: accuracy_against_cost(axes, points, xlabel=words).set_ylabel(score),
    )


def _point(record: RunReader, row: Mapping[str, Any], what: str) -> Cost | None:
    """Return a network's score and cost; None where one of them is not known."""
    scores, cost_section = row.get(record.evaluation_split), row.get(what)
    if what == "milliseconds" and (speed := row.get("images_per_second")):  # only comparisons measure it
        cost_section = 1000 / speed["mean"]
    if not scores or not cost_section:
        return None
    if record.kind == "compare":
        value, cost_section = (
            scores["accuracy"],
            cost_section["mean"] if isinstance(cost_section, Mapping) else cost_section,
        )
        spread = value["sd"]
        low, high = (value["mean"] - spread, value["mean"] + spread) if spread else (None, None)
        return Cost(row["name"], value["mean"], low, high, float(cost_section), int(row["parameters"]))
    key = "o_f1" if record.is_multilabel else "accuracy"
    low, high = scores[f"{key}_low"], scores[f"{key}_high"]
    return Cost(row["name"], scores[key], low, high, float(cost_section), int(row["parameters"]))


def _members(rows: list[dict[str, Any]]) -> Table:
    columns: dict[str, list[str]] = {
        "parameters": [short_count(row["parameters"]) if row["parameters"] else MISSING for row in rows],
        "FLOPs an image": [short_count(row["flops"]) if row.get("flops") else MISSING for row in rows],
        "training": [duration(row.get("seconds")) for row in rows],
        **{
            name: [str(row.get(key, MISSING)) for row in rows]
            for name, key in (("epochs", "epochs"), ("updates", "steps"), ("precision", "precision"))
        },
    }
    told = {name: cells for name, cells in columns.items() if set(cells) != {MISSING}}
    cells = list(zip([row["name"] for row in rows], *told.values(), strict=True))
    seconds = sum(row.get("seconds") or 0 for row in rows)
    caption = f"What each member cost; {duration(seconds)} of training in all"
    return Table(("member", *told), cells, "l" + "r" * len(told), caption)


def _networks(rows: list[dict[str, Any]]) -> Table:
    header = ("network", "parameters", "FLOPs an image", "a training", "an epoch / s", "images / s", "updates")
    cells = [
        (
            row["name"],
            short_count(row["parameters"]),
            short_count(row["flops"]) if row.get("flops") else MISSING,
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
