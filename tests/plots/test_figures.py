"""Contents of figures, read from the axes, and all figures rendered with hostile names."""

import io
import math
from collections.abc import Callable

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from PIL import Image

from tercet.core.errors import DataError
from tercet.core.history import History
from tercet.metrics.classification import calibration_error, confused_pairs, score
from tercet.metrics.classification import confusion as confusion_of
from tercet.metrics.classification import reliability as reliability_rows
from tercet.plots.bars import Bar, bars, bars_height, leaderboard
from tercet.plots.cost import Cost, accuracy_against_cost
from tercet.plots.curves import training_curves
from tercet.plots.distribution import class_counts, counts_height
from tercet.plots.grids import image_grid, thumbnail
from tercet.plots.matrices import agreement, confusion, reliability
from tercet.plots.matrices import confused_pairs as draw_pairs
from tercet.plots.style import PALETTE, drawing, new_figure, pixels
from tests.fixtures.browser import HOSTILE, history, names, predictions


@pytest.fixture
def axes() -> Axes:
    return new_figure()[1][0]


def texts(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def ticks(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.get_yticklabels()]


def bar_widths(axes: Axes) -> list[float]:
    return [patch.get_width() for patch in axes.patches if isinstance(patch, Rectangle)]


def costs(count: int) -> list[Cost]:
    generator = np.random.default_rng(count)
    rows = zip(names(count), *generator.uniform(0, 1, (3, count)), strict=True)
    return [Cost(name, 0.8 + a / 20, None, None, 10 ** (8 + b), int(10 ** (4 + 3 * c))) for name, a, b, c in rows]


FIGURES: dict[str, Callable[[Axes], object]] = {
    "curves": lambda axes: training_curves(axes, {name: history(3, 2) for name in HOSTILE}, "loss"),
    "one epoch": lambda axes: training_curves(axes, {"a": history(1)}, "accuracy"),
    "bars": lambda axes: bars(
        axes, [Bar(name, 0.5, 0.4, 0.6, name[:3]) for name in HOSTILE[:6]], xlabel="x", baseline=0.4
    ),
    "leaderboard": lambda axes: leaderboard(axes, [(name, 0.1) for name in HOSTILE], {HOSTILE[0]: 0.9}),
    "two classes": lambda axes: confusion(axes, confusion_of(predictions(2)), names(2), rates=False),
    "ten classes": lambda axes: confusion(axes, confusion_of(predictions(10)), names(10), rates=True),
    "thirty classes": lambda axes: confusion(axes, confusion_of(predictions(30)), names(30), rates=False),
    "1,010 classes": lambda axes: confusion(axes, confusion_of(predictions(1010)), names(1010), rates=True),
    "pairs": lambda axes: draw_pairs(axes, confused_pairs(predictions(10))),
    "agreement": lambda axes: agreement(axes, np.eye(10), names(10)),
    "reliability": lambda axes: reliability(axes, predictions(10)),
    "cost": lambda axes: accuracy_against_cost(axes, costs(10), xlabel="operations"),
    "counts": lambda axes: class_counts(axes, {name: 5 for name in HOSTILE}, {"train": {HOSTILE[0]: 5}}),
    "many counts": lambda axes: class_counts(axes, {name: 1 + len(name) for name in names(1010)}),
}


@pytest.mark.parametrize("draw", FIGURES.values(), ids=FIGURES)
def test_figures_are_rendered_with_white_edges(draw: Callable[[Axes], object]) -> None:
    figure, (axes,) = new_figure(5, 4)
    assert draw(axes) is axes
    rendered = pixels(figure, dpi=60)
    assert (rendered < 128).any()
    for edge in (rendered[0], rendered[-1], rendered[:, 0], rendered[:, -1]):
        assert (edge > 200).all()  # nothing is cut off


class TestCurves:
    def test_curves_stages_and_the_saved_epoch(self, axes: Axes) -> None:
        run = history(3, 2)
        training_curves(axes, {"run": run}, "loss")
        curve, training, dot, stage = axes.lines
        assert list(curve.get_ydata()) == run.column("loss")
        assert list(training.get_ydata()) == run.column("train_loss")
        assert list(dot.get_xdata()) == [5]
        assert list(stage.get_xdata()) == [3.5, 3.5]
        assert texts(axes) == ["stage 1", "stage 2"]

    def test_a_run_that_ended_early_has_the_same_stages(self, axes: Axes) -> None:
        training_curves(axes, {"long": history(3, 2, 1), "short": history(3)}, "kappa")
        assert texts(axes) == ["stage 1", "stage 2", "stage 3"]

    def test_different_stages_are_ticks_on_the_curves(self, axes: Axes) -> None:
        training_curves(axes, {"a": history(3, 2), "b": history(2, 2)}, "rate")
        assert texts(axes) == []
        assert [list(line.get_xdata()) for line in axes.lines if line.get_marker() == "|"] == [[4], [3]]
        assert axes.get_yscale() == "linear"

    def test_only_some_of_many_runs_are_named(self, axes: Axes) -> None:
        training_curves(axes, {f"run {index}": history(3, offset=index) for index in range(30)}, "loss")
        legend = [text.get_text() for text in axes.get_legend().get_texts()]
        assert legend[:6] == ["run 0", "run 1", "run 2", "run 3", "run 29", "25 others"]

    def test_unrecorded_quantities_are_refused(self, axes: Axes) -> None:
        with pytest.raises(DataError, match="macro F1"):
            training_curves(axes, {"a": history(2), "b": History()}, "macro_f1")


class TestBars:
    def test_bars_start_at_zero_and_are_grouped_by_name(self, axes: Axes) -> None:
        rows = [
            Bar(name, value, value - 0.1, value + 0.1, group)
            for name in "ab"
            for group, value in (("x", 0.5), ("y", 0.9))
        ]
        bars(axes, rows, xlabel="accuracy")
        assert bar_widths(axes) == [0.5, 0.9, 0.5, 0.9]
        assert ticks(axes) == ["a", "b"]
        assert texts(axes) == ["0.5000", "0.9000"] * 2
        assert [text.get_text() for text in axes.get_legend().get_texts()] == ["x", "y"]

    def test_close_values_become_points(self, axes: Axes) -> None:
        bars(axes, [Bar("a", 0.91), Bar("b", 0.93)], xlabel="accuracy")
        assert bar_widths(axes) == []
        assert axes.get_xlim()[0] > 0.9

    def test_only_the_lowest_and_highest_of_many_bars_are_drawn(self, axes: Axes) -> None:
        rows = [Bar(f"{index}", index / 1000) for index in range(1, 1011)]
        bars(axes, rows, xlabel="recall")
        assert ticks(axes) == [
            *(f"{i}" for i in range(1, 31)),
            "… 970 between them …",
            *(f"{i}" for i in range(1001, 1011)),
        ]
        assert bars_height(rows) == bars_height(rows[:41])

    @pytest.mark.parametrize("rows", [[], [Bar("a", math.nan)]])
    def test_missing_values_are_refused(self, axes: Axes, rows: list[Bar]) -> None:
        with pytest.raises(DataError, match="finite"):
            bars(axes, rows, xlabel="x")

    def test_long_leaderboards_are_reduced(self, axes: Axes) -> None:
        leaderboard(axes, [(f"team {index}", 1 - index / 200) for index in range(100)], {"ours": 0.7})
        near = ["59. team 58", "60. team 59", "61. ours", "62. team 60", "63. team 61"]
        assert ticks(axes)[9:] == ["10. team 9", "… 48 others …", *near, "… 38 others …"]


class TestMatrices:
    def test_cells_have_counts_or_shares(self, axes: Axes) -> None:
        matrix = [[999, 1, 0], [0, 3, 1], [0, 0, 0]]
        confusion(axes, matrix, ["a", "b", "c"], rates=False)
        assert texts(axes) == ["999", "1", "0", "0", "3", "1", "0", "0", "0"]
        second = new_figure()[1][0]
        confusion(second, matrix, ["a", "b", "c"], rates=True)
        assert texts(second) == ["99.9", "0.1", "0", "0", "75.0", "25.0"]  # the third class has no images

    @pytest.mark.parametrize("classes", [250, 1010])
    def test_many_classes_are_merged_into_blocks(self, axes: Axes, classes: int) -> None:
        matrix = confusion_of(predictions(classes, 3000))
        confusion(axes, matrix, names(classes), rates=False)
        cells = axes.images[0].get_array()
        assert len(cells) <= 250
        assert cells.sum() == matrix.sum() == 3000

    @pytest.mark.parametrize(
        "draw", [agreement, lambda axes, matrix, classes: confusion(axes, matrix, classes, rates=True)]
    )
    def test_other_shapes_are_refused(self, axes: Axes, draw: Callable) -> None:
        with pytest.raises(DataError, match="shape"):
            draw(axes, np.ones((2, 3)), ["a", "b"])

    def test_confused_pairs_are_limited_and_keep_their_direction(self, axes: Axes) -> None:
        pairs = [{"truth": HOSTILE[6], "predicted": HOSTILE[6], "n": 30 - index, "share": 0.034} for index in range(25)]
        draw_pairs(axes, pairs)
        assert len(ticks(axes)) == 20
        assert ticks(axes)[0] == f"\u200e{HOSTILE[6]}\u200e → \u200e{HOSTILE[6]}\u200e"
        assert texts(axes)[0] == "30 (3.4 %)"

    def test_no_mistakes_are_reported(self, axes: Axes) -> None:
        draw_pairs(axes, [])
        assert texts(axes) == ["no mistakes"]


def test_reliability_draws_the_bins_of_the_metric(axes: Axes) -> None:
    samples = predictions(4, 200)
    reliability(axes, samples, bins=5)
    rows = reliability_rows(samples, bins=5)
    assert [patch.get_height() for patch in axes.patches] == [row["accuracy"] for row in rows]
    assert texts(axes) == [f"{row['n']}" for row in rows]
    assert sum(int(text) for text in texts(axes)) == 200
    assert axes.get_title().endswith(f"{calibration_error(samples, bins=5):.3f}")
    assert calibration_error(samples) == score(samples).ece


class TestCost:
    def test_areas_are_proportional_to_parameters(self, axes: Axes) -> None:
        points = [
            Cost("a", 0.5, 0.4, 0.6, 1e6, 100),
            Cost("b", 0.7, None, None, 1e8, 400),
            Cost("c", 0.9, None, None, 0, 1),
        ]
        accuracy_against_cost(axes, points, xlabel="operations")
        small, large = axes.collections[0].get_sizes()
        assert large == 4 * small
        assert texts(axes) == ["b", "a"]  # a logarithmic axis has no zero
        with pytest.raises(DataError, match="positive cost"):
            accuracy_against_cost(axes, points[2:], xlabel="operations")

    def test_names_do_not_overlap_and_are_inside_the_axes(self, axes: Axes) -> None:
        accuracy_against_cost(axes, costs(20), xlabel="operations")
        with drawing():
            axes.figure.draw_without_rendering()
            boxes = [Text.get_window_extent(text) for text in axes.texts]  # without the lines to the dots
        frame = axes.get_window_extent().padded(2)
        for index, box in enumerate(boxes):
            assert frame.x0 <= box.x0
            assert box.x1 <= frame.x1
            assert not any(box.overlaps(other) for other in boxes[:index])


class TestCounts:
    def test_classes_are_sorted_and_stacked_by_split(self, axes: Axes) -> None:
        class_counts(axes, {"a": 3, "b": 10}, {"train": {"a": 2, "b": 7}, "test": {"a": 1, "b": 3}})
        assert ticks(axes) == ["b", "a"]
        assert bar_widths(axes) == [7, 2, 3, 1]
        assert texts(axes) == ["10", "3"]

    def test_many_classes_are_curves(self, axes: Axes) -> None:
        counts = {f"class {index}": 1 + index**2 for index in range(1010)}
        class_counts(axes, counts, {"train": counts, "test": {}})
        assert list(axes.lines[0].get_ydata()) == sorted(counts.values(), reverse=True)
        assert texts(axes)[0] == "largest: class 1009 (1018082)"
        assert axes.get_yscale() == "symlog"
        assert counts_height(counts) < 5


class TestGrids:
    def test_titles_are_plain_text(self) -> None:
        figure, _ = new_figure()
        image = np.zeros((4, 6, 1), dtype=np.uint8)
        grid = image_grid(figure, [image] * 3, ["a\nb", ("true $x$", "said y"), "z"], columns=2)
        assert len(grid) == 4
        assert [panel.get_title() for panel in grid] == [r"a\nb", "true \\$x\\$\nsaid y", "z", ""]
        assert (pixels(figure, dpi=60) < 50).any()

    def test_invalid_images_and_titles_are_refused(self) -> None:
        figure, axes = new_figure()
        with pytest.raises(DataError, match="uint8"):
            image_grid(axes, [np.zeros((4, 4, 3))], ["a"], columns=1)
        with pytest.raises(DataError, match="titles"):
            image_grid(figure, [], [], columns=1)

    @pytest.mark.parametrize("shape", [(300, 200, 3), (300, 200, 1), (300, 200)])
    def test_thumbnails_are_small_and_have_no_metadata(self, shape: tuple[int, ...]) -> None:
        image = Image.open(io.BytesIO(thumbnail(np.full(shape, 77, dtype=np.uint8), 96)))
        assert image.size == (64, 96)
        assert image.format == "JPEG"
        assert not image.getexif()
        assert abs(int(np.asarray(image).mean()) - 77) <= 1


def test_colours_are_different() -> None:
    assert len(set(PALETTE)) == 8
