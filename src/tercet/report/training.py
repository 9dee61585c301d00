"""Sections on learning curves and training cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tercet.core.history import History
from tercet.data.run_reader import RunReader
from tercet.metrics.metric import describe_metric, is_built_in
from tercet.metrics.table import MISSING, duration, mean_sd, sentence_case, short_count
from tercet.plots.cost import Cost, accuracy_against_cost
from tercet.plots.curves import RATE, training_curves
from tercet.plots.figure_writer import FigureWriter
from tercet.plots.page import Block, Paragraph, Section, Table

_CURVES = ("loss", "accuracy", "macro_f1", "kappa")
_COSTS = {
    "flops": "FLOPs per image",
    "milliseconds": "milliseconds per image (batched)",
    "seconds": "training time in seconds",
}


def curves_section(
    histories: Mapping[str, History], writer: FigureWriter, *, monitor_split: str = "validation"
) -> Section:
    """Return the learning curves of all trainings with a stored history."""
    available = {name: history for name, history in histories.items() if len(history)}
    if not available:
        text = "No training history is stored, so learning curves are not shown."
        return Section("Training", [Paragraph(text, quiet=True)])
    blocks: list[Block] = []
    names = dict.fromkeys(name for history in available.values() for row in history for name in row.validation)
    own = sorted(name for name in names if not is_built_in(name))
    for quantity in (*_CURVES, *own, RATE):
        title = sentence_case("learning rate" if quantity == RATE else describe_metric(quantity).title)
        recorded = {
            name: history for name, history in available.items() if quantity == RATE or _records(history, quantity)
        }
        if recorded:
            split = (
                "" if quantity == RATE else f" on {monitor_split} images; a dot marks the epoch whose weights are used"
            )
            blocks.append(
                writer.draw(
                    f"training-{quantity.replace('_', '-')}",
                    f"{title} per epoch{split}.",
                    lambda axes, recorded=recorded, quantity=quantity: training_curves(axes, recorded, quantity),  # type: ignore[misc]
                )
            )
    return Section("Training", blocks)


def cost_section(record: RunReader, writer: FigureWriter) -> Section:
    """Return the cost of training and prediction, and accuracy against it."""
    rows = list(record.metrics["networks"] if record.kind == "compare" else record.metrics["members"])
    rows = [row for row in rows if "parameters" in row]
    if not rows:
        return Section("Cost", [Paragraph("The run did not record what its trainings cost.", quiet=True)])
    figures = [block for key in _COSTS for block in _figures(record, rows, key, writer)]
    table = _networks(rows) if record.kind == "compare" else _members(rows)
    flops = any(row.get("flops") for row in rows)
    notes = [Paragraph("FLOPs: forward pass of one image; a multiply-add counts as two.", quiet=True)] if flops else []
    return Section("Cost", [table, *notes, *figures])


def _figures(record: RunReader, rows: list[dict[str, Any]], key: str, writer: FigureWriter) -> Iterator[Block]:
    points = [point for row in rows if (point := _point(record, row, key))]
    if not points:
        return
    cost = _COSTS[key]
    score = "O-F1" if record.is_multilabel else "accuracy"
    yield writer.draw(
        f"accuracy-against-{key}",
        f"{score[0].upper()}{score[1:]} against {cost}. The area of a dot is proportional to the number of parameters; "
        "lines are intervals.",
        lambda axes: accuracy_against_cost(axes, points, xlabel=cost).set_ylabel(score),
    )


def _point(record: RunReader, row: Mapping[str, Any], key: str) -> Cost | None:
    """Return score and cost of a network; None if one of them is unknown."""
    scores, cost = row.get(record.evaluation_split), row.get(key)
    if key == "milliseconds" and (speed := row.get("images_per_second")):  # only comparisons measure it
        cost = 1000 / speed["mean"]
    if not scores or not cost:
        return None
    if record.kind == "compare":
        value, cost = scores["accuracy"], cost["mean"] if isinstance(cost, Mapping) else cost
        spread = value["sd"]
        low, high = (value["mean"] - spread, value["mean"] + spread) if spread else (None, None)
        return Cost(row["name"], value["mean"], low, high, float(cost), int(row["parameters"]))
    metric = "o_f1" if record.is_multilabel else "accuracy"
    low, high = scores[f"{metric}_low"], scores[f"{metric}_high"]
    return Cost(row["name"], scores[metric], low, high, float(cost), int(row["parameters"]))


def _members(rows: list[dict[str, Any]]) -> Table:
    columns: dict[str, list[str]] = {
        "parameters": [short_count(row["parameters"]) if row["parameters"] else MISSING for row in rows],
        "FLOPs per image": [short_count(row["flops"]) if row.get("flops") else MISSING for row in rows],
        "training time": [duration(row.get("seconds")) for row in rows],
        **{name: [str(row.get(name, MISSING)) for row in rows] for name in ("epochs", "steps", "precision")},
    }
    recorded = {name: cells for name, cells in columns.items() if set(cells) != {MISSING}}
    cells = list(zip([row["name"] for row in rows], *recorded.values(), strict=True))
    seconds = sum(row.get("seconds") or 0 for row in rows)
    caption = f"Cost of each member; {duration(seconds)} of training in total"
    return Table(("member", *recorded), cells, "l" + "r" * len(recorded), caption)


def _networks(rows: list[dict[str, Any]]) -> Table:
    header = ("network", "parameters", "FLOPs per image", "training time", "seconds per epoch", "images / s", "steps")
    cells = [
        (
            row["name"],
            short_count(row["parameters"]),
            short_count(row["flops"]) if row.get("flops") else MISSING,
            duration(row["seconds"]["mean"]),
            mean_sd(row["seconds_per_epoch"], ".1f"),
            mean_sd(row["images_per_second"], ".0f"),
            mean_sd(row["updates"], ".0f"),
        )
        for row in rows
    ]
    return Table(header, cells, "lrrrrrr", "Cost of each network: mean ± standard deviation over seeds")


def _records(history: History, quantity: str) -> bool:
    return any(quantity in row.validation for row in history)
