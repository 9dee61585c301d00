"""How trainings went: loss, scores and rate over the epochs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from tercet.core.errors import DataError
from tercet.core.history import History
from tercet.plots.style import GREY, PALE, colour, label, legend, plain

Quantity = Literal["loss", "accuracy", "macro_f1", "kappa", "rate"]
_NAMES = {"loss": "loss", "accuracy": "accuracy", "macro_f1": "macro F1", "kappa": "kappa", "rate": "learning rate"}
_TRAINED = {"loss": "train_loss", "accuracy": "train_accuracy"}
_MOST = 12
"""Runs that get a colour and a name of their own."""
_WITH_TRAINING = 4
"""Runs whose training curves are drawn too."""


def training_curves(axes: Axes, histories: Mapping[str, History], quantity: Quantity) -> Axes:
    """Draw one quantity of one or several trainings over their epochs.

    Validation is a full line; where there are few runs, what was measured while training is a dotted one. Vertical
    lines with numbers say where stages begin, if all runs agree on that, else a stroke on each curve. A dot marks the
    epoch whose weights were kept. Of many runs, the best and the worst are coloured and named.

    Args:
        axes: Where to draw.
        histories: Trainings by name; those that did not record the quantity are left out.
        quantity: What to draw.

    Raises:
        DataError: No training recorded it.
    """
    drawn = {name: history for name, history in histories.items() if _values(history, quantity)}
    if not drawn:
        raise DataError(f"no training recorded its {_NAMES[quantity]}: there is nothing to draw")
    named = _named(drawn, quantity)
    borders = {tuple(_borders(history)) for history in drawn.values()}
    shared = _longest_if_nested(borders)
    for name, history in drawn.items():
        if name not in named:
            axes.plot(_epochs(history), _values(history, quantity), color=PALE, linewidth=0.8, zorder=1)
    handles = [
        _curve(axes, drawn[name], quantity, index, training=len(drawn) <= _WITH_TRAINING, strokes=shared is None)
        for index, name in enumerate(named)
    ]
    for number, start in enumerate(shared or (), start=1):
        if len(shared or ()) > 1:
            _stage(axes, start, number)
    _finish(axes, drawn, quantity)
    labels = [label(name) for name in named]
    if len(drawn) > len(named):
        handles.append(Line2D([], [], color=PALE))
        labels.append(f"{len(drawn) - len(named)} others")
    if len(drawn) == 1:
        handles, labels = [], []
    if len(drawn) <= _WITH_TRAINING and quantity in _TRAINED:
        handles += [Line2D([], [], color=GREY), Line2D([], [], color=GREY, linestyle=":")]
        labels += ["validation", "training"]
    if quantity != "rate" and any(row.best for name in named for row in drawn[name]):
        handles.append(Line2D([], [], color=GREY, marker="o", linestyle="", markeredgecolor="white"))
        labels.append("weights kept")
    if handles:
        legend(axes, handles, labels, outside=len(handles) > 1)
    return axes


def _curve(axes: Axes, history: History, quantity: str, index: int, *, training: bool, strokes: bool) -> Line2D:
    epochs, values = _epochs(history), _values(history, quantity)
    shade = colour(index)
    style = ("-", "--", "-.")[index // 8 % 3]
    step = {"drawstyle": "steps-mid"} if quantity == "rate" else {}
    alone = "_" if len(epochs) == 1 else ""  # one epoch makes no line
    (line,) = axes.plot(epochs, values, color=shade, linestyle=style, marker=alone, linewidth=1.6, zorder=3, **step)  # type: ignore[arg-type]
    if training and quantity in _TRAINED:
        trained = history.column(_TRAINED[quantity])
        axes.plot(epochs, trained, color=shade, linestyle=":", marker=alone, linewidth=1.2, zorder=2)
    best = max((place for place, row in enumerate(history) if row.best), default=None)
    if best is not None and quantity != "rate":
        axes.plot(epochs[best], values[best], "o", color=shade, markeredgecolor="white", markersize=6, zorder=4)
    if strokes:
        starts = [start for start in _borders(history) if start > 1]
        axes.plot(starts, [values[start - 1] for start in starts], "|", color=shade, markersize=12, zorder=4)
    return line


def _finish(axes: Axes, drawn: Mapping[str, History], quantity: str) -> None:
    rates = [value for history in drawn.values() for value in _values(history, quantity) if value > 0]
    if quantity == "rate" and rates and max(rates) > 10 * min(rates):
        axes.set_yscale("log")
    elif quantity == "rate":
        axes.set_ylim(bottom=0)
    axes.set_xlabel("epoch")
    axes.set_xlim(0.5, max(map(len, drawn.values())) + 0.5)
    axes.set_ylabel(_NAMES[quantity])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    plain(axes, grid="y")


def _stage(axes: Axes, start: int, number: int) -> None:
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
    """Return one value an epoch, NaN where it was not measured; nothing where it never was."""
    if quantity == "rate":
        return history.column("rate")
    found = [row.validation.get(quantity, math.nan) for row in history]
    return found if any(math.isfinite(value) for value in found) else []


def _borders(history: History) -> list[int]:
    """Return the epochs, counted from 1, with which stages begin."""
    rows = list(history)
    return [place + 1 for place, row in enumerate(rows) if place == 0 or row.stage != rows[place - 1].stage]


def _longest_if_nested(borders: set[tuple[int, ...]]) -> tuple[int, ...] | None:
    """Return the borders that hold for all runs: those that ended early may have fewer."""
    longest = max(borders, key=len)
    return longest if all(longest[: len(one)] == one for one in borders) else None


def _named(drawn: Mapping[str, History], quantity: str) -> Sequence[str]:
    names = list(drawn)
    if len(names) <= _MOST:
        return names

    def reached(name: str) -> float:
        found = [value for value in _values(drawn[name], quantity) if math.isfinite(value)]
        return min(found) if quantity in ("loss", "rate") else -max(found)

    order = sorted(names, key=reached)
    return [*order[:4], order[-1]]
