"""Tables of scores, for text and HTML reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tercet.core.multilabel import MultilabelPredictions
from tercet.core.output import printable
from tercet.core.predictions import Predictions
from tercet.metrics.classification import confused_pairs, per_class
from tercet.metrics.metric import Detail, table_metrics
from tercet.metrics.multilabel import per_label
from tercet.metrics.significance import Comparison
from tercet.metrics.table import Table, interval, mean_sd, number, short_count


@dataclass(frozen=True)
class ResultRow:
    """A row of a table of results."""

    name: str
    """Name of the member or ensemble method."""
    kind: str
    """member or ensemble."""
    scores: Mapping[str, Any]
    """As returned by `score` or `score_multilabel`."""
    seconds: float | None = None
    """Training time."""
    parameters: int | None = None
    """Number of parameters."""
    chosen: bool = False
    """Whether it was selected."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        head = {"name": self.name, "kind": self.kind, "chosen": self.chosen}
        return {**head, **self.scores, "seconds": self.seconds, "parameters": self.parameters}


def results_table(rows: Sequence[ResultRow], *, title: str = "", note: str = "chosen on validation") -> Table:
    """Return the text table of results: members first, then ensembles; the chosen row is marked.

    Args:
        rows: Rows in order; the number of samples is below the table if it is the same for all.
        title: Title, such as data and split.
        note: Meaning of the mark.
    """
    rows = sorted(rows, key=lambda row: row.kind == "ensemble")
    sizes = sorted({row.scores["n"] for row in rows})
    columns = [
        *([["n", *(f"{row.scores['n']}" for row in rows)]] if len(sizes) > 1 else []),
        *score_columns([row.scores for row in rows], Detail.RESULTS),
        ["time\n/ s", *(number(row.seconds, ".0f" if (row.seconds or 0) >= 10 else ".1f") for row in rows)],
        ["para-\nmeters", *(short_count(row.parameters) for row in rows)],
    ]
    names = ["name", *(f"{'* ' if row.chosen else ''}{row.name}" for row in rows)]
    notes = [f"n = {sizes[0]} samples"] if len(sizes) == 1 else []
    notes += [f"* {note}"] if any(row.chosen for row in rows) else []
    last_member = frozenset({sum(row.kind == "member" for row in rows) - 1})
    return of_columns([names, *columns], "l", title, note="; ".join(notes), rules=last_member)


def page_table(rows: Sequence[ResultRow], *, title: str = "", kind: str = "kind") -> Table:
    """Return the table of results for HTML reports; the chosen rows are highlighted.

    Args:
        rows: Rows in order; the number of samples is in the title if it is the same for all.
        title: Title, such as the split.
        kind: Header of the rows' kinds.
    """
    sizes = {row.scores["n"] for row in rows}
    columns = [
        ["name", *(row.name for row in rows)],
        [kind, *(row.kind for row in rows)],
        *([["n", *(f"{row.scores['n']:,}" for row in rows)]] if len(sizes) > 1 else []),
        *score_columns([row.scores for row in rows], Detail.PAGE),
    ]
    title += f" (n = {sizes.pop():,})" if len(sizes) == 1 else ""
    return of_columns(columns, "ll", title, strong=frozenset(index for index, row in enumerate(rows) if row.chosen))


def score_columns(rows: Sequence[Mapping[str, Any]], detail: Detail) -> list[list[str]]:
    """Return the columns of scores, header first; those of text tables have narrow headers and fewer digits."""
    page = detail >= Detail.PAGE
    columns = []
    for metric in table_metrics(detail, rows):
        values = [row.get(metric.name) for row in rows]
        if metric.name == "top5" and all(value == 1 for value in values):
            continue  # always 1 with up to five classes
        spec = ".4f" if page else metric.format
        columns.append([metric.title if page else metric.narrow, *(number(value, spec) for value in values)])
        if any(f"{metric.name}_low" in row for row in rows):
            intervals = (interval(row, metric.name, " to " if page else "-") for row in rows)
            columns.append(["95 % interval" if page else "95 %\ninterval", *intervals])
    return columns


def tta_table(levels: Sequence[Mapping[str, Any]], chosen: str, *, title: str = "", page: bool = False) -> Table:
    """Return the table of test-time augmentation.

    Args:
        levels: Scores with `views` and `passes` (forward passes per image). The first is plain prediction: gains over
            it are in percentage points.
        chosen: Views of the selected level.
        title: Title.
        page: Whether it is for an HTML report.
    """
    selected = [level["views"] == chosen for level in levels]
    gains = (f"{100 * (level['accuracy'] - levels[0]['accuracy']):+.2f}" for level in levels[1:])
    accuracy, *scores = score_columns(levels, Detail.PAGE if page else Detail.RESULTS)
    columns = [
        ["views", *("* " * mark + level["views"] for level, mark in zip(levels, selected, strict=True))],
        ["passes", *(f"{level['passes']}" for level in levels)],
        accuracy,
        ["gain", "", *gains],
        *scores,
    ]
    strong = frozenset(index for index, mark in enumerate(selected) if mark)
    return of_columns(columns, "l", title, strong=strong, note=f"n = {levels[0]['n']} samples; * selected")


def classes_table(predictions: Predictions | MultilabelPredictions, *, title: str = "") -> Table:
    """Return precision, recall and F1 per class, and average precision per label; a dash without samples."""
    sets = isinstance(predictions, MultilabelPredictions)
    scores = per_label(predictions) if isinstance(predictions, MultilabelPredictions) else per_class(predictions)
    header = ["label" if sets else "class", "images", "precision", "recall", "F1", *(["average precision"] * sets)]
    rows = [
        [
            row["label" if sets else "class"],
            f"{row['n']}",
            number(row["precision"], ".3f"),
            number(row["recall"] if row["n"] else None, ".3f"),
            number(row["f1"], ".3f"),
            *([number(row["ap"], ".3f")] if sets else []),
        ]
        for row in scores
    ]
    return Table(header, rows, "l".ljust(len(header), "r"), title)


def pairs_table(predictions: Predictions, *, limit: int = 10, title: str = "") -> Table:
    """Return the table of the most frequent errors; see `confused_pairs`."""
    rows = [
        (pair["truth"], pair["predicted"], f"{pair['n']}", f"{100 * pair['share']:.1f} %")
        for pair in confused_pairs(predictions, limit=limit)
    ]
    return Table(("true class", "predicted class", "images", "share of class"), rows, "llrr", title)


def mistakes_text(predictions: Predictions, *, model: str = "", limit: int = 5) -> str:
    """Return the most frequent errors as text, or a line that there are none."""
    of_model = f" of {printable(model)}" if model else ""
    if not confused_pairs(predictions, limit=1):
        return f"no mistakes{of_model}\n"
    return pairs_table(predictions, limit=limit, title=f"most frequent mistakes{of_model}").to_text()


def spread_table(rows: Sequence[Mapping[str, Any]], *, title: str = "") -> Table:
    """Return the table of mean ± standard deviation over folds.

    Args:
        rows: `name`, `folds`, and `mean` and `sd` by metric, as in `metrics.json`.
        title: Title.
    """
    metrics = table_metrics(Detail.MAIN, [row["mean"] for row in rows])
    cells = [
        (
            row["name"],
            f"{len(row['folds'])}",
            *(mean_sd({part: row[part][metric.name] for part in ("mean", "sd")}) for metric in metrics),
        )
        for row in rows
    ]
    header = ("name", "folds", *(metric.title for metric in metrics))
    return Table(header, cells, "l".ljust(len(header), "r"), title)


def comparison_text(comparison: Comparison, a: str, b: str) -> str:
    """Return the comparison of the predictions named `a` and `b` as a sentence."""
    a, b = printable(a), printable(b)
    verdict = "significant" if comparison.p_value < 0.05 else "not significant"
    return (
        f"{a} against {b} on {comparison.n} samples: {100 * comparison.difference:+.2f} points of accuracy "
        f"(95 % interval {100 * comparison.low:+.2f} to {100 * comparison.high:+.2f}); only {a} correct "
        f"{comparison.only_a}, only {b} correct {comparison.only_b}; McNemar p = {comparison.p_value:.3g}: {verdict}."
    )


def of_columns(columns: Sequence[Sequence[str]], left: str, caption: str, **options: Any) -> Table:
    """Return a table from columns that begin with their header; those after the `left` ones are numbers."""
    header, *rows = zip(*columns, strict=True)
    return Table(header, rows, left.ljust(len(header), "r"), caption, **options)
