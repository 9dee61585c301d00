"""Training curves: loss, scores and learning rate per epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from tercet.core.errors import DataError
from tercet.core.history import History
from tercet.metrics.metric import describe_metric
from tercet.plots.style import GREY, PALE, colour, despine, label, legend

RATE = "rate"
"""The learning rate, as a quantity to draw."""
_TRAIN_COLUMNS = {"loss": "train_loss", "accuracy": "train_accuracy"}
_MAX_NAMED = 12
"""Number of runs up to which each has its own colour and name."""
_MAX_WITH_TRAINING = 4
"""Number of runs up to which training curves are drawn too."""


def training_curves(axes: Axes, histories: Mapping[str, History], quantity: str) -> Axes:
    """Draw a quantity of one or several training runs per epoch.

    Solid lines are validation values; with few runs, dotted lines are training values. The start of a stage is a
    numbered vertical line if it is the same in all runs, otherwise a tick on each curve. A dot marks the epoch whose
    weights were saved. Of many runs, the best and the worst are coloured and named.

    Args:
        axes: Axes to draw on.
        histories: Histories by run name; those without the quantity are skipped.
        quantity: Name of a validation score, or `RATE`.

    Raises:
        DataError: No run recorded the quantity.
    """
    drawn = {name: history for name, history in histories.items() if _values(history, quantity)}
    if not drawn:
        raise DataError(f"no run recorded its {_title(quantity)}")
    named = _select_names(drawn, quantity)
    shared_starts = _shared_starts({tuple(_stage_starts(history)) for history in drawn.values()})
    for name, history in drawn.items():
        if name not in named:
            axes.plot(_epochs(history), _values(history, quantity), color=PALE, linewidth=0.8, zorder=1)
    handles = [
        _draw_curve(
            axes,
            drawn[name],
            quantity,
            index,
            training=len(drawn) <= _MAX_WITH_TRAINING,
            stage_ticks=shared_starts is None,
        )
        for index, name in enumerate(named)
    ]
    for number, start in enumerate(shared_starts or (), start=1):
        if len(shared_starts or ()) > 1:
            _draw_stage(axes, start, number)
    _set_axes(axes, drawn, quantity)
    labels = [label(name) for name in named]
    if len(drawn) > len(named):
        handles.append(Line2D([], [], color=PALE))
        labels.append(f"{len(drawn) - len(named)} others")
    if len(drawn) == 1:
        handles, labels = [], []
    if len(drawn) <= _MAX_WITH_TRAINING and quantity in _TRAIN_COLUMNS:
        handles += [Line2D([], [], color=GREY), Line2D([], [], color=GREY, linestyle=":")]
        labels += ["validation", "training"]
    if quantity != RATE and any(row.best for name in named for row in drawn[name]):
        handles.append(Line2D([], [], color=GREY, marker="o", linestyle="", markeredgecolor="white"))
        labels.append("saved weights")
    if handles:
        legend(axes, handles, labels, outside=len(handles) > 1)
    return axes


def _draw_curve(
    axes: Axes, history: History, quantity: str, index: int, *, training: bool, stage_ticks: bool
) -> Line2D:
    epochs, values = _epochs(history), _values(history, quantity)
    run_colour = colour(index)
    style = ("-", "--", "-.")[index // 8 % 3]
    step = {"drawstyle": "steps-mid"} if quantity == RATE else {}
    marker = "_" if len(epochs) == 1 else ""  # a line needs two epochs
    (line,) = axes.plot(
        epochs,
        values,
        color=run_colour,
        linestyle=style,
        marker=marker,
        linewidth=1.6,
        zorder=3,
        **step,  # type: ignore[arg-type]
    )
    if training and quantity in _TRAIN_COLUMNS:
        train_values = history.column(_TRAIN_COLUMNS[quantity])
        axes.plot(epochs, train_values, color=run_colour, linestyle=":", marker=marker, linewidth=1.2, zorder=2)
    best = max((index for index, row in enumerate(history) if row.best), default=None)
    if best is not None and quantity != RATE:
        axes.plot(epochs[best], values[best], "o", color=run_colour, markeredgecolor="white", markersize=6, zorder=4)
    if stage_ticks:
        starts = [start for start in _stage_starts(history) if start > 1]
        axes.plot(starts, [values[start - 1] for start in starts], "|", color=run_colour, markersize=12, zorder=4)
    return line


def _set_axes(axes: Axes, drawn: Mapping[str, History], quantity: str) -> None:
    rates = [value for history in drawn.values() for value in _values(history, quantity) if value > 0]
    if quantity == RATE and rates and max(rates) > 10 * min(rates):
        axes.set_yscale("log")
    elif quantity == RATE:
        axes.set_ylim(bottom=0)
    axes.set_xlabel("epoch")
    axes.set_xlim(0.5, max(map(len, drawn.values())) + 0.5)
    axes.set_ylabel(_title(quantity))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    despine(axes, grid="y")


def _draw_stage(axes: Axes, start: int, number: int) -> None:
    if number > 1:
        axes.axvline(start - 0.5, color=GREY, linewidth=0.8, linestyle="--", zorder=0)
    axes.annotate(
        f"stage {number}",
        (start - 0.5, 1.0),
        xycoords=("data", "axes fraction"),
        xytext=(3, 2),
        textcoords="offset points",
        fontsize="x-small",
        color=GREY,
        annotation_clip=False,
    )


def _epochs(history: History) -> list[int]:
    return list(range(1, len(history) + 1))


def _values(history: History, quantity: str) -> list[float]:
    """Return one value per epoch, NaN where it was not measured; an empty list if it was never measured."""
    if quantity == RATE:
        return history.column("rate")
    values = [row.validation.get(quantity, math.nan) for row in history]
    return values if any(math.isfinite(value) for value in values) else []


def _stage_starts(history: History) -> list[int]:
    """Return the first epoch, counted from 1, of each stage."""
    rows = list(history)
    return [index + 1 for index, row in enumerate(rows) if index == 0 or row.stage != rows[index - 1].stage]


def _shared_starts(starts: set[tuple[int, ...]]) -> tuple[int, ...] | None:
    """Return the stage starts if they are the same in all runs, some of which may have ended early; else None."""
    longest = max(starts, key=len)
    return longest if all(longest[: len(values)] == values for values in starts) else None


def _title(quantity: str) -> str:
    return "learning rate" if quantity == RATE else describe_metric(quantity).title


def _select_names(drawn: Mapping[str, History], quantity: str) -> Sequence[str]:
    names = list(drawn)
    if len(names) <= _MAX_NAMED:
        return names

    def best_value(name: str) -> float:
        values = [value for value in _values(drawn[name], quantity) if math.isfinite(value)]
        return -max(values) if quantity != RATE and describe_metric(quantity).higher_is_better else min(values)

    order = sorted(names, key=best_value)
    return [*order[:4], order[-1]]
