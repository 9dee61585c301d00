"""Explanations are drawn where they belong in the picture, and every name stays text."""

import itertools

import numpy as np
import pytest
from matplotlib.axes import Axes

from tercet.plots import explanations as drawn
from tercet.plots.style import new_figure, pixels, png_bytes

HOSTILE = ("<script>alert(1)</script>", "$\\frac{", "x" * 80, "émeu 🐦", "\u202eright to left\n\x1b[2J")


@pytest.fixture
def axes() -> Axes:
    return new_figure()[1][0]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_is_drawn_in_its_own_pixels_with_a_frame_around_what_was_shown(axes: Axes, channels: int) -> None:
    small = np.full((10, 20, channels), 90, np.uint8)
    assert drawn.show_image(axes, small, (100, 200), (0.0, 50.0, 100.0, 100.0)) is axes
    assert axes.images[0].get_extent() == [0, 200, 100, 0]
    (frame,) = axes.patches
    assert frame.get_bbox().bounds == (50, 0, 100, 100)
    whole = drawn.show_image(new_figure()[1][0], small, (100, 200), (-50.0, 0.0, 200.0, 200.0))
    assert not whole.patches


def test_heat_is_brightest_where_there_is_most_and_what_was_not_shown_is_veiled(axes: Axes) -> None:
    values = np.array([[0.0, 2.0], [1.0, np.nan]])
    drawn.heat_map(axes, np.zeros((2, 2, 3), np.uint8), (20, 20), values)
    _, cover, veil = axes.images
    assert np.asarray(cover.get_array()).tolist() == [[0, 1], [0.5, 0]]
    assert np.asarray(cover.get_alpha())[1, 1] == 0
    assert np.asarray(veil.get_array())[..., 3].tolist() == [[0, 0], [0, 0.75]]
    assert all(image.get_extent() == [0, 20, 20, 0] for image in axes.images)


def test_signed_contributions_share_one_scale(axes: Axes) -> None:
    drawn.signed_map(axes, np.zeros((1, 2, 1), np.uint8), (1, 2), np.array([[-4.0, 1.0]]))
    cover = axes.images[1]
    assert np.asarray(cover.get_array()).tolist() == [[-1, 0.25]] and cover.get_clim() == (-1, 1)


def test_nothing_at_all_is_drawn_without_a_complaint(axes: Axes) -> None:
    for draw in (drawn.heat_map, drawn.signed_map):
        draw(axes, np.zeros((3, 3, 1), np.uint8), (3, 3), np.zeros((3, 3)))
        draw(axes, np.zeros((3, 3, 1), np.uint8), (3, 3), np.full((3, 3), np.nan))
    assert png_bytes(axes.figure)


def test_steps_stand_beside_the_rows_or_under_the_columns_that_they_read() -> None:
    rows = drawn.steps(new_figure()[1][0], [1.0, -2.0], along="height", place=(10.0, 40.0), side=60)
    assert [bar.get_y() + bar.get_height() / 2 for bar in rows.patches] == [20, 40]
    assert [bar.get_width() for bar in rows.patches] == [1, -2] and rows.get_ylim() == (60, 0)
    columns = drawn.steps(new_figure()[1][0], [1.0, 2.0, 3.0], along="width", place=(0.0, 30.0), side=30)
    assert [bar.get_x() + bar.get_width() / 2 for bar in columns.patches] == [5, 15, 25]
    order = drawn.steps(new_figure()[1][0], [1.0] * 4, along="order")
    assert [bar.get_x() + bar.get_width() / 2 for bar in order.patches] == [1, 2, 3, 4]
    assert rows.patches[0].get_facecolor() != rows.patches[1].get_facecolor()


@pytest.mark.parametrize("scale", [0.03, -0.0024, 0.0009, 4.0, 12345.0])
def test_numbers_under_a_chart_of_rows_do_not_run_together(scale: float) -> None:
    figure, places = new_figure(2.3 * 4 + 0.4, 2.3, 1, 4)
    axes = drawn.steps(places[-1], [scale, -scale / 20, 0.0], along="height", place=(0.0, 5000.0), side=5000)
    png_bytes(figure)
    boxes = [tick.label1.get_window_extent() for tick in axes.xaxis.get_major_ticks() if tick.label1.get_text()]
    inside = [box for box in boxes if axes.bbox.x0 <= (box.x0 + box.x1) / 2 <= axes.bbox.x1 + 1]
    assert len(inside) >= 2
    assert all(right.x0 - left.x1 > 4 for left, right in itertools.pairwise(inside))


def test_a_chart_of_nothing_says_so(axes: Axes) -> None:
    drawn.steps(axes, [0.0, 0.0], along="order")
    assert [text.get_text() for text in axes.texts] == ["nothing contributed"]


@pytest.mark.parametrize(("size", "told"), [((1, 3000), "height drawn 250"), ((3000, 1), "width drawn 250")])
def test_a_strip_of_a_picture_is_drawn_wide_enough_to_be_seen(size: tuple[int, int], told: str) -> None:
    figure, places = new_figure(4.6, 2.3, 1, 2)
    small = drawn.downscaled(np.full((*size, 3), 40, np.uint8))
    drawn.show_image(places[0], small, size, (0.0, 0.0, *size))
    drawn.heat_map(places[1], small, size, np.ones(small.shape[:2]))
    assert (pixels(figure) < 128).any()
    for axes in places:
        assert min(axes.bbox.width, axes.bbox.height) > 8
    assert places[0].get_xlabel() == f"{told} times as large" and not places[1].get_xlabel()


def test_two_parts_of_a_title_that_are_too_long_for_a_line_stand_on_two(axes: Axes) -> None:
    drawn.title(axes, ("class activation:", "dog"), ("class activation:", HOSTILE[0]), "layer4")
    lines = axes.get_title().split("\n")
    assert lines == ["class activation: dog", "class activation:", HOSTILE[0], "layer4"]
    drawn.title(axes, ("class:", "x" * 80))
    assert all(len(line) <= 34 for line in axes.get_title().split("\n"))


def test_names_stay_text(axes: Axes) -> None:
    drawn.prediction_text(axes, [(name, 0.2) for name in HOSTILE], explained=HOSTILE[1], xlabel="probability")
    drawn.title(axes, *HOSTILE)
    drawn.row_name(axes, *HOSTILE)
    drawn.note(axes, HOSTILE[1])
    assert png_bytes(axes.figure)
    assert sum("script" in text.get_text() for text in axes.texts) == 1
    colours = [bar.get_facecolor() for bar in axes.patches]
    assert len(set(colours)) == 2 and colours.count(colours[1]) == 1


@pytest.mark.parametrize("shape", [(5, 3, 3), (70, 7, 7, 3), (1, 1, 1), (9, 40, 30)])
def test_tiles_stand_in_rows_with_a_line_between(shape: tuple[int, ...]) -> None:
    tiles = np.zeros(shape)
    figure, axes = drawn.tiles_figure(len(tiles), 8, shape[1:3])
    drawn.tiles(axes, tiles, columns=8)
    board = np.asarray(axes.images[0].get_array())
    black = (board == 0).all(axis=2)
    begins = int((np.diff(black.any(axis=1).astype(int)) == 1).sum())
    across = int((np.diff(black[black.any(axis=1)][0].astype(int)) == 1).sum())
    assert (begins, across) == (-(-len(tiles) // 8), min(len(tiles), 8))
    assert not black[0].any() and not black[:, 0].any()
    assert 1 < figure.get_size_inches()[1] < 12


@pytest.mark.parametrize(
    ("shape", "expected"), [((1200, 600, 3), (480, 240, 3)), ((9, 9, 1), (9, 9, 1)), ((960, 4, 1), (480, 2, 1))]
)
def test_large_pictures_are_reduced(shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    assert drawn.downscaled(np.zeros(shape, np.uint8)).shape == expected
