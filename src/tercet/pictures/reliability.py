"""Whether probabilities mean what they say."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from tercet.evaluation.metrics import calibration_error
from tercet.evaluation.metrics import reliability as reliability_rows
from tercet.pictures.style import GREY, PALETTE, legend, plain
from tercet.records.predictions import Predictions


def reliability(axes: Axes, predictions: Predictions, bins: int = 15) -> Axes:
    """Draw the share right against the probability that was claimed, in bins of the latter.

    A bar ends at the share right of its bin, a stroke is at the mean probability claimed there: above the bar is
    overconfidence. Over each bar stands the number of images.

    Args:
        axes: Where to draw.
        predictions: Samples, some of them with labels.
        bins: Bins of equal width.

    Raises:
        DataError: No sample has a label, or there is only one class.
    """
    rows = reliability_rows(predictions, bins=bins)
    width = 1 / bins
    middles = [(row["low"] + row["high"]) / 2 for row in rows]
    axes.bar(middles, [row["accuracy"] for row in rows], width=0.92 * width, color=PALETTE[5])
    for middle, row in zip(middles, rows, strict=True):
        ends = (middle - 0.46 * width, middle + 0.46 * width)
        axes.plot(ends, [row["confidence"]] * 2, color=PALETTE[3], linewidth=2)
        place = max(row["accuracy"], row["confidence"]) + 0.005  # half a stroke
        turned = 90 if bins > 8 else 0
        axes.annotate(
            f"{row['n']:.0f}",
            (middle, place),
            (0, 4),
            textcoords="offset points",
            ha="center",
            va="bottom",
            rotation=turned,
            fontsize="x-small",
            color=GREY,
        )
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle="--", zorder=0)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.16)
    axes.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1])
    axes.set_xlabel("probability of the predicted class")
    axes.set_ylabel("share right")
    axes.set_title(f"expected calibration error {calibration_error(predictions, bins=bins):.3f}", fontsize="medium")
    handles = [Patch(color=PALETTE[5]), Line2D([], [], color=PALETTE[3], linewidth=2)]
    legend(axes, handles, ["share right", "mean probability claimed"])
    return plain(axes)
