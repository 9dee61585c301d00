"""Panels of explanations are aligned with the image, and names are plain text."""

import itertools

import numpy as np
import pytest
from matplotlib.axes import Axes

from tercet.plots import explanations
from tercet.plots.style import new_figure, pixels, png_bytes

HOSTILE = ("<script>alert(1)</script>", "$\\frac{", "x" * 80, "émeu 🐦", "\u202eright to left\n\x1b[2J")


@pytest.fixture
def axes() -> Axes:
    return new_figure()[1][0]


@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_drawn_in_original_pixels_with_a_frame_around_the_crop(axes: Axes, channels: int) -> None:
    small = np.full((10, 20, channels), 90, np.uint8)
    assert explanations.show_image(axes, small, (100, 200), (0.0, 50.0, 100.0, 100.0)) is axes
    assert axes.images[0].get_extent() == [0, 200, 100, 0]
    (frame,) = axes.patches
    assert frame.get_bbox().bounds == (50, 0, 100, 100)
    uncropped = explanations.show_image(new_figure()[1][0], small, (100, 200), (-50.0, 0.0, 200.0, 200.0))
    assert not uncropped.patches


def test_heat_maps_are_scaled_and_whiten_hidden_regions(axes: Axes) -> None:
    values = np.array([[0.0, 2.0], [1.0, np.nan]])
    explanations.heat_map(axes, np.zeros((2, 2, 3), np.uint8), (20, 20), values)
    _, heat, veil = axes.images
    assert np.asarray(heat.get_array()).tolist() == [[0, 1], [0.5, 0]]
    assert np.asarray(heat.get_alpha())[1, 1] == 0
    assert np.asarray(veil.get_array())[..., 3].tolist() == [[0, 0], [0, 0.75]]
    assert all(image.get_extent() == [0, 20, 20, 0] for image in axes.images)


def test_signed_contributions_share_one_scale(axes: Axes) -> None:
    explanations.signed_map(axes, np.zeros((1, 2, 1), np.uint8), (1, 2), np.array([[-4.0, 1.0]]))
    overlay = axes.images[1]
    assert np.asarray(overlay.get_array()).tolist() == [[-1, 0.25]] and overlay.get_clim() == (-1, 1)


def test_maps_of_zeros_and_nan_are_drawn(axes: Axes) -> None:
    for draw in (explanations.heat_map, explanations.signed_map):
        draw(axes, np.zeros((3, 3, 1), np.uint8), (3, 3), np.zeros((3, 3)))
        draw(axes, np.zeros((3, 3, 1), np.uint8), (3, 3), np.full((3, 3), np.nan))
    assert png_bytes(axes.figure)


def test_steps_are_aligned_with_rows_or_columns() -> None:
    rows = explanations.steps(new_figure()[1][0], [1.0, -2.0], along="height", place=(10.0, 40.0), side=60)
    assert [bar.get_y() + bar.get_height() / 2 for bar in rows.patches] == [20, 40]
    assert [bar.get_width() for bar in rows.patches] == [1, -2] and rows.get_ylim() == (60, 0)
    columns = explanations.steps(new_figure()[1][0], [1.0, 2.0, 3.0], along="width", place=(0.0, 30.0), side=30)
    assert [bar.get_x() + bar.get_width() / 2 for bar in columns.patches] == [5, 15, 25]
    order = explanations.steps(new_figure()[1][0], [1.0] * 4, along="order")
    assert [bar.get_x() + bar.get_width() / 2 for bar in order.patches] == [1, 2, 3, 4]
    assert rows.patches[0].get_facecolor() != rows.patches[1].get_facecolor()


@pytest.mark.parametrize("scale", [-0.0024, 4.0, 12345.0])
def test_tick_labels_do_not_overlap(scale: float) -> None:
    figure, panels = new_figure(2.3 * 4 + 0.4, 2.3, 1, 4)
    axes = explanations.steps(panels[-1], [scale, -scale / 20, 0.0], along="height", place=(0.0, 5000.0), side=5000)
    png_bytes(figure)
    boxes = [tick.label1.get_window_extent() for tick in axes.xaxis.get_major_ticks() if tick.label1.get_text()]
    inside = [box for box in boxes if axes.bbox.x0 <= (box.x0 + box.x1) / 2 <= axes.bbox.x1 + 1]
    assert len(inside) >= 2
    assert all(right.x0 - left.x1 > 4 for left, right in itertools.pairwise(inside))


def test_zero_contributions_are_reported(axes: Axes) -> None:
    explanations.steps(axes, [0.0, 0.0], along="order")
    assert [text.get_text() for text in axes.texts] == ["all contributions are zero"]


@pytest.mark.parametrize(("size", "message"), [((1, 3000), "height drawn 250"), ((3000, 1), "width drawn 250")])
def test_narrow_images_are_stretched(size: tuple[int, int], message: str) -> None:
    figure, panels = new_figure(4.6, 2.3, 1, 2)
    small = explanations.downscaled(np.full((*size, 3), 40, np.uint8))
    explanations.show_image(panels[0], small, size, (0.0, 0.0, *size))
    explanations.heat_map(panels[1], small, size, np.ones(small.shape[:2]))
    assert (pixels(figure) < 128).any()
    for axes in panels:
        assert min(axes.bbox.width, axes.bbox.height) > 8
    assert panels[0].get_xlabel() == f"{message} times as large" and not panels[1].get_xlabel()


def test_long_titles_are_split_into_two_lines(axes: Axes) -> None:
    explanations.title(axes, ("class activation:", "dog"), ("class activation:", HOSTILE[0]), "layer4")
    lines = axes.get_title().split("\n")
    assert lines == ["class activation: dog", "class activation:", HOSTILE[0], "layer4"]
    explanations.title(axes, ("class:", "x" * 80))
    assert all(len(line) <= 34 for line in axes.get_title().split("\n"))


def test_names_are_plain_text(axes: Axes) -> None:
    explanations.prediction_text(axes, [(name, 0.2) for name in HOSTILE], explained=HOSTILE[1], xlabel="probability")
    explanations.title(axes, *HOSTILE)
    explanations.row_name(axes, *HOSTILE)
    explanations.note(axes, HOSTILE[1])
    assert png_bytes(axes.figure)
    assert sum("script" in text.get_text() for text in axes.texts) == 1
    colours = [bar.get_facecolor() for bar in axes.patches]
    assert len(set(colours)) == 2 and colours.count(colours[1]) == 1


@pytest.mark.parametrize("shape", [(5, 3, 3), (70, 7, 7, 3), (9, 40, 30)])
def test_tiles_are_drawn_in_rows_with_gaps(shape: tuple[int, ...]) -> None:
    tiles = np.zeros(shape)
    figure, axes = explanations.tiles_figure(len(tiles), 8, shape[1:3])
    explanations.tiles(axes, tiles, columns=8)
    canvas = np.asarray(axes.images[0].get_array())
    black = (canvas == 0).all(axis=2)
    num_rows = int((np.diff(black.any(axis=1).astype(int)) == 1).sum())
    num_columns = int((np.diff(black[black.any(axis=1)][0].astype(int)) == 1).sum())
    assert (num_rows, num_columns) == (-(-len(tiles) // 8), min(len(tiles), 8))
    assert not black[0].any() and not black[:, 0].any()
    assert 1 < figure.get_size_inches()[1] < 12


@pytest.mark.parametrize(
    ("shape", "expected"), [((1200, 600, 3), (480, 240, 3)), ((9, 9, 1), (9, 9, 1)), ((960, 4, 1), (480, 2, 1))]
)
def test_large_images_are_downscaled(shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    assert explanations.downscaled(np.zeros(shape, np.uint8)).shape == expected
