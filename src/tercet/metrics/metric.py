"""The table of metrics, and the scores that they give to predictions.

Option choices, monitors, tables, reports, comparisons and recipes read names, titles, directions and number formats
here. The built-in metrics of a task share intermediate results, so `metrics.classification` and `metrics.multilabel`
compute them together. This module loads no numerical library, since `--help` lists the names.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from statistics import mean, stdev
from typing import Any, Literal

from tercet.core.errors import ConfigError, DataError
from tercet.core.registry import PARTS, Registry, did_you_mean

Task = Literal["single", "multi"]
"""One class per image, or a set of labels per image."""


class Detail(IntEnum):
    """The tables that show a metric, from the briefest; more detailed ones show it too."""

    MAIN = 1
    """Mean ± standard deviation over folds."""
    COMPARISON = 2
    """Mean ± standard deviation over seeds."""
    RESULTS = 3
    """Tables of results, the card of a bundle, results of recipes."""
    PAGE = 4
    """HTML reports."""
    FILE = 5
    """`metrics.json`."""
    MONITOR = 6
    """Not in tables: `monitor` and training histories only."""


@dataclass(frozen=True)
class Metric:
    """One metric."""

    name: str
    """Key in files and name in options."""
    title: str
    """Name in tables."""
    function: Callable[[Any], float] | None = None
    """Maps `Predictions`, or `MultilabelPredictions` for multi-label tasks, with known labels to a number; None for
    the built-in metrics."""
    higher_is_better: bool = True
    format: str = ".4f"
    """Format of the number in text tables."""
    tasks: Mapping[Task, int] = field(default_factory=lambda: {"single": Detail.MAIN})
    """Tasks that have the metric, with the `Detail` of the briefest table that shows it."""
    header: str = ""
    """Header of a narrow column (default: the title, with a word per line)."""

    @property
    def narrow(self) -> str:
        """Header of a narrow column."""
        return self.header or self.title.replace(" ", "\n")


METRICS: Registry[Metric | Callable[[Any], float]] = PARTS["metric"]
"""A `Metric`, or a function of `Predictions`, whose attribute `higher_is_better` may be false."""
BUILT_IN = (
    Metric("o_precision", "O-P", tasks={"multi": Detail.FILE}),  # micro averages: over all N K decisions
    Metric("o_recall", "O-R", tasks={"multi": Detail.FILE}),
    Metric("o_f1", "O-F1", tasks={"multi": Detail.MAIN}),
    Metric("c_precision", "C-P", tasks={"multi": Detail.FILE}),  # means over labels
    Metric("c_recall", "C-R", tasks={"multi": Detail.FILE}),
    Metric("c_f1", "C-F1", format=".3f", tasks={"multi": Detail.RESULTS}),  # harmonic mean of C-P and C-R
    Metric("accuracy", "accuracy", header="accu-\nracy"),
    Metric("balanced_accuracy", "balanced accuracy", tasks={"single": Detail.FILE}),  # mean recall of the true classes
    Metric("macro_precision", "macro precision", tasks={"single": Detail.FILE}),
    Metric("macro_recall", "macro recall", tasks={"single": Detail.FILE}),
    Metric("macro_f1", "macro F1", format=".3f", tasks={"single": Detail.MAIN, "multi": Detail.PAGE}),
    Metric("kappa", "kappa", format=".3f", tasks={"single": Detail.COMPARISON}),  # Cohen's: agreement beyond chance
    Metric("top5", "top 5", tasks={"single": Detail.PAGE}),  # with min(5, K) classes; the lowest index wins ties
    Metric("map", "mAP", format=".3f", tasks={"multi": Detail.RESULTS}),  # mean over labels of average precision
    Metric("exact_match", "exact match", format=".3f", tasks={"multi": Detail.RESULTS}),  # images with all labels right
    Metric("hamming", "Hamming loss", None, False, tasks={"multi": Detail.RESULTS}, header="Ham-\nming"),
    # nats per image; multi-label: summed over labels
    Metric("log_loss", "log loss", None, False, ".3f", {"single": Detail.MAIN, "multi": Detail.FILE}),
    # squared error against one-hot labels, summed over classes, averaged over images, in [0, 2]
    Metric("brier", "Brier", None, False, tasks={"single": Detail.FILE}),
    # expected calibration error of the top class (Guo et al., arXiv:1706.04599), 15 bins of equal width
    Metric("ece", "ECE", None, False, ".3f", {"single": Detail.RESULTS}),
    Metric("loss", "loss", None, False, tasks={"single": Detail.MONITOR, "multi": Detail.MONITOR}),  # the log loss
    Metric("sum", "sum", tasks={"single": Detail.MONITOR}),  # accuracy + macro F1 + kappa
)
"""The built-in metrics, in the order of table columns."""
for _metric in BUILT_IN:
    METRICS.register(_metric.name)(_metric)

_INTERVALS = ("accuracy_low", "accuracy_high", "o_f1_low", "o_f1_high")
_RESERVED = {*_INTERVALS, "n", "name", "kind", "chosen", "seconds", "parameters", "flops", "passes"}


def find_metric(name: str) -> Metric:
    """Return a metric.

    Raises:
        ConfigError: The metric is unknown, or its name is that of another value in `metrics.json`.
    """
    part = METRICS[name]
    if name in _RESERVED:
        raise ConfigError(f"metric '{name}': results already have a value of this name, register it under another")
    if isinstance(part, Metric):
        return replace(part, name=name)
    higher = bool(getattr(part, "higher_is_better", True))
    return Metric(name, name.replace("_", " "), part, higher)


def is_built_in(name: str) -> bool:
    """Return whether a metric is not the caller's."""
    return any(metric.name == name for metric in BUILT_IN)


def describe_metric(name: str) -> Metric:
    """Return a metric for display; one that is not registered in this process gets default title and format."""
    return find_metric(name) if name in METRICS else Metric(name, name.replace("_", " "))


def custom_metrics(task: Task) -> list[Metric]:
    """Return the registered metrics of a task that are not built in."""
    return [metric for name in METRICS.custom() if task in (metric := find_metric(name)).tasks]


def metric_names(task: Task, detail: Detail = Detail.MONITOR) -> list[str]:
    """Return the names of the metrics of a task that tables of this detail show; the built-in ones first."""
    metrics = [*BUILT_IN, *custom_metrics(task)]
    return [metric.name for metric in metrics if task in metric.tasks and metric.tasks[task] <= detail]


def table_metrics(detail: Detail, rows: Sequence[Mapping[str, Any]]) -> list[Metric]:
    """Return the metrics that a table shows: those in its rows, the built-in ones in their order.

    Args:
        detail: Detail of the table.
        rows: Scores, or mean and standard deviation, by name, as in `metrics.json`.
    """
    task: Task = "multi" if any("o_f1" in row for row in rows) else "single"
    names = dict.fromkeys(name for row in rows for name, value in row.items() if _is_score(value))
    built_in = [metric for metric in BUILT_IN if metric.name in names]
    others = set(names) - {metric.name for metric in built_in} - _RESERVED
    metrics = [*built_in, *map(describe_metric, sorted(others))]
    return [metric for metric in metrics if metric.tasks.get(task, Detail.MONITOR) <= detail]


def _is_score(value: Any) -> bool:
    return isinstance(value, float) or (isinstance(value, Mapping) and {"mean", "sd"} <= value.keys())


class Scores(dict[str, float]):
    """Values by metric; `scores.accuracy` is `scores["accuracy"]`. Also `n`, the number of images, and the 95 %
    interval of the main metric: `accuracy_low` and `accuracy_high`, or `o_f1_low` and `o_f1_high`.
    """

    def __getattr__(self, name: str) -> float:
        try:
            return self[name]
        except ConfigError as error:
            raise AttributeError(str(error)) from None

    def __missing__(self, name: str) -> float:
        if name == "loss":
            return self["log_loss"]
        if name == "sum" and "kappa" in self:
            return self["accuracy"] + self["macro_f1"] + self["kappa"]
        raise ConfigError(f"there is no score '{name}'{did_you_mean(name, self)} (known: {', '.join(self)})")

    def to_dict(self) -> dict[str, float]:
        """Return plain values for JSON."""
        return dict(self)

    def card(self) -> dict[str, float]:
        """Return the scores for the manifest of a bundle."""
        return {"n": self["n"], **{metric.name: self[metric.name] for metric in table_metrics(Detail.RESULTS, [self])}}


def own_scores(task: Task, predictions: Any) -> dict[str, float]:
    """Return the values of the caller's own metrics.

    Raises:
        DataError: A function raises, or does not return a finite number.
    """
    return {metric.name: own_score(metric.name, predictions) for metric in custom_metrics(task)}


def own_score(name: str, predictions: Any) -> float:
    """Return the value of one of the caller's own metrics; see `own_scores`."""
    function = find_metric(name).function
    assert function is not None
    try:
        value = float(function(predictions))
    except Exception as error:
        raise DataError(f"metric '{name}' failed: {type(error).__name__}: {error}") from error
    if not math.isfinite(value):
        count = f"{len(predictions)} images"
        raise DataError(f"metric '{name}' is {value} on {count}: it must be a finite number")
    return value


def complete(
    quick: Mapping[str, float], task: Task, monitor: str, all_scores: Callable[[], Mapping[str, float]] | None
) -> dict[str, float]:
    """Return the scores of a validation: the given ones, the monitored metric, and the caller's own metrics.

    Args:
        quick: Scores that cost little.
        task: The task.
        monitor: The monitored metric.
        all_scores: Returns all scores, if others are needed; None if the logits are not finite, which gives NaN.
    """
    own = (metric.name for metric in custom_metrics(task))
    names = [name for name in dict.fromkeys((monitor, *own)) if name not in quick]
    if all_scores is None:
        return dict.fromkeys([*quick, *names], math.nan)
    scores = all_scores() if names else {}
    return {**quick, **{name: scores[name] for name in names}}


def rank_key(monitor: str, scores: Mapping[str, float]) -> tuple[float, float]:
    """Return a sort key that puts better scores first: by the monitored metric, then by lower loss."""
    value = scores[monitor]
    return (-value if find_metric(monitor).higher_is_better else value), scores["loss"]


def is_better(monitor: str, new: Mapping[str, float], best: Mapping[str, float] | None) -> bool:
    """Return whether `new` is better than `best`; the lower loss decides ties, and NaN is never better.

    Args:
        monitor: The metric.
        new: Scores that include `monitor` and `loss`.
        best: Likewise; everything except NaN is better than None.
    """
    if math.isnan(new[monitor]) or math.isnan(new["loss"]):
        return False
    if best is None or math.isnan(best[monitor]) or math.isnan(best["loss"]):
        return True
    return rank_key(monitor, new) < rank_key(monitor, best)


def spread_of(values: Sequence[float]) -> dict[str, Any] | None:
    """Return `mean`, sample standard deviation `sd` (None for one value) and number `n`; None without values."""
    if not values:
        return None
    return {"mean": mean(values), "sd": stdev(values) if len(values) > 1 else None, "n": len(values)}


def fold_spread(folds: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float | None]]:
    """Return `mean` and `sd` by metric over the scores of folds; see `spread_of`."""
    names = [metric.name for metric in table_metrics(Detail.FILE, folds)]
    spreads = {name: spread_of([fold[name] for fold in folds]) or {} for name in names}
    return {part: {name: values[part] for name, values in spreads.items()} for part in ("mean", "sd")}
