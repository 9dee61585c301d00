"""Tables of comparisons, searches and reproductions, from the content of their `metrics.json`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tercet.config.fields import quote_value
from tercet.metrics.metric import Detail, describe_metric, find_metric, metric_names
from tercet.metrics.table import MISSING, Table, duration, mean_sd, number, points, result_text, short_count
from tercet.metrics.tables import of_columns


def network_tables(rows: Sequence[Mapping[str, Any]], *, baseline: str, title: str, split: str) -> list[Table]:
    """Return the text tables of a comparison: scores, costs, and errors compared with those of the baseline.

    Args:
        rows: `networks` of `metrics.json`.
        baseline: Name of the baseline.
        title: Title of the scores.
        split: Split of the errors.
    """
    names = ["network", *(row["name"] for row in rows)]
    tests = [row.get("test") or {} for row in rows]
    scores = [
        ["train\nacc.", *(_two_lines(row.get("train_accuracy")) for row in rows)],
        ["valid.\nacc.", *(_two_lines((row.get("validation") or {}).get("accuracy")) for row in rows)],
        *(
            [_TEST_HEADERS.get(name, find_metric(name).narrow), *(_two_lines(test.get(name)) for test in tests)]
            for name in metric_names("single", Detail.MAIN)
            if name != "log_loss"
        ),
        *_columns(("points\n95 %", "p\nHolm"), [_baseline_test(row, baseline) for row in rows]),
    ]
    costs = _columns(
        ("para-\nmeters", "train-\nable", "FLOPs /\nimage", "steps", "s /\nepoch", "s /\ntraining", "images\n/ s"),
        [
            (
                *(short_count(row.get(key)) for key in ("parameters", "trainable", "flops")),
                *(_mean(row.get(key)) for key in ("updates", "seconds_per_epoch", "seconds", "images_per_second")),
            )
            for row in rows
        ],
    )
    errors = _columns(
        ("same\nclass", "both\nright", "only it\nright", "only base-\nline right", "both\nwrong", "own seeds\nagree"),
        [(*_errors(row.get("errors")), _percent(row.get("own_agreement"))) for row in rows],
    )
    versus = f"errors compared with those of {baseline} on {split}, % of images"
    return [
        of_columns(
            [names, *scores],
            "l",
            f"{title}; mean and standard deviation over seeds",
            rules=frozenset(range(len(rows))),
        ),
        of_columns([names, *costs], "l", "costs"),
        of_columns([names, *errors], "l", versus),
    ]


_TEST_HEADERS = {"accuracy": "test\nacc.", "macro_f1": "test\nF1"}


def _columns(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[list[str]]:
    return [[name, *(row[index] for row in rows)] for index, name in enumerate(header)]


def _two_lines(value: Mapping[str, Any] | None) -> str:
    return mean_sd(value, separator="\n±")


def _baseline_test(row: Mapping[str, Any], baseline: str) -> tuple[str, str]:
    if row["name"] == baseline:
        return "base-\nline", ""
    test = row.get("against_baseline")
    if test is None:
        return MISSING, MISSING
    return "\n".join(points(test, "..")), f"{test['p_value']:.2g}\n{test['p_holm']:.2g}"


def _errors(pair: Mapping[str, Any] | None) -> list[str]:
    return [_percent(pair[key] if pair else None) for key in ("agreement", "both", "only_a", "only_b", "neither")]


def _percent(fraction: float | None) -> str:
    return MISSING if fraction is None else f"{100 * fraction:.2f}"


def _mean(value: Mapping[str, Any] | None) -> str:
    if value is None:
        return MISSING
    mean = value["mean"]
    return f"{mean:.0f}" if mean >= 100 else f"{mean:.3g}"


def published_table(rows: Sequence[Mapping[str, Any]], *, title: str = "", page: bool = False) -> Table:
    """Return published beside measured results; HTML reports also have the metric and the number of images.

    Args:
        rows: `table` of `metrics.json`.
        title: Title.
        page: Whether it is for an HTML report.
    """
    values = [[result_text(row[key], row, signed=key == "difference") for row in rows] for key in _RESULTS]
    published, measured, difference = ([key, *cells] for key, cells in zip(_RESULTS, values, strict=True))
    counts = {
        key: [key, *(MISSING if row[key] is None else f"{row[key]:,}" for row in rows)] for key in ("n", "images")
    }
    spread = ["sd or\ninterval", *map(_spread, rows)]
    metrics = [describe_metric(row["metric"]).title for row in rows]
    data = list(dict.fromkeys(row["data"] for row in rows if row.get("data")))  # absent in runs of earlier versions
    note = f"measured on {', '.join(data)}" if data else ""
    if page:
        names = ["result", *(row["what"] for row in rows)]
        columns = [names, ["metric", *metrics], published, measured, spread, *counts.values(), difference]
        if len(data) > 1:
            columns.insert(1, ["images of", *(row.get("data") or MISSING for row in rows)])
        return of_columns(columns, "lll" if len(data) > 1 else "ll", title, note=note)
    suffixes = ["" if metric in _UNNAMED or "ratio" in metric else f" ({metric})" for metric in metrics]
    names = ["what", *(row["what"] + suffix for row, suffix in zip(rows, suffixes, strict=True))]
    return of_columns([names, published, measured, spread, counts["n"], difference], "l", title, note=note)


_RESULTS = ("published", "measured", "difference")
_UNNAMED = ("accuracy", "parameters", "flops")
"""Metrics that the descriptions of the results name."""


def _spread(row: Mapping[str, Any]) -> str:
    if row["low"] is not None:
        return f"{row['low']:.3f}-{row['high']:.3f}"
    return MISSING if row["sd"] is None else f"± {result_text(row['sd'], row)}"


def trials_table(rows: Sequence[Mapping[str, Any]], monitor: str, best: int, *, title: str = "") -> Table:
    """Return the trials of a search.

    Args:
        rows: Trials as in `trials.json`, in order.
        monitor: The objective.
        best: Number of the best trial, which is marked.
        title: Title.
    """
    cells = [
        (
            f"{'* ' if row['number'] == best else ''}{row['number']}",
            number(row["score"]),
            f"{row['epochs']}" + (" pruned" if row["state"] == "pruned" else ""),
            duration(row["seconds"]),
            short_count(row["parameters"]),
            _options_text(row),
        )
        for row in rows
    ]
    header = ("trial", describe_metric(monitor).title, "epochs", "time", "para-\nmeters", "options")
    strong = frozenset(index for index, row in enumerate(rows) if row["number"] == best)
    note = "* best on validation; trial 0 is the baseline with the unchanged options"
    return Table(header, cells, "rrrrrl", title, strong, note)


def rank_trials(rows: Sequence[Mapping[str, Any]], best: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return completed trials from best to worst, then pruned ones, then failed ones."""
    # The metric may be one of the caller's, which is not registered here: the best trial shows its direction.
    completed = [row["score"] for row in rows if row["state"] == "complete" and row["score"] is not None]
    sign = -1 if best["score"] >= max(completed, default=-math.inf) else 1

    def rank(row: Mapping[str, Any]) -> tuple[int, float, int]:
        value = math.inf if row["score"] is None else sign * row["score"]
        return ("complete", "pruned", "failed").index(row["state"]), value, row["number"]

    return sorted(rows, key=rank)


def _options_text(row: Mapping[str, Any]) -> str:
    options = ", ".join(f"{key} {_option_value(value)}" for key, value in row["options"].items())
    return f"{options}; failed: {row['reason']}" if row["state"] == "failed" else options


def _option_value(value: Any) -> str:
    if value is None:
        return "default"
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else quote_value(value)
