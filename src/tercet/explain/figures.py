"""Figures of explanations: one row per member, and one for the combined prediction.

Shapes: H x W pixels of an image, D features, O filters over I channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray
from torch import Tensor

from tercet.core.files import slug
from tercet.core.resize import project_to_image
from tercet.ensemble.bundle import Member
from tercet.explain.hooks import UnsupportedExplanation
from tercet.explain.layers import Filters, conv_filters, feature_maps, first_filters, short_name
from tercet.explain.results import ImageExplanation, MemberExplanation
from tercet.explain.step_attribution import BY_COLUMN, BY_ROW
from tercet.explain.tiles import COLUMNS, MAX_TILES, filter_tiles, scaled
from tercet.plots import explanations as plots
from tercet.plots.style import new_figure, save

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float64]
_CELL = 2.3  # inches


def draw_explanation(
    explanation: ImageExplanation, pixels: Pixels, folder: Path, stem: str, *, sets: bool
) -> list[str]:
    """Draw the explanation of one image, and return the file names.

    Args:
        explanation: Results of all members.
        pixels: The image, H W C.
        folder: Where to write.
        stem: Name of the files.
        sets: Whether the bundle is multi-label.
    """
    small = plots.downscaled(pixels)
    members = explanation.members
    columns: list[tuple[str, Callable[[Axes, MemberExplanation], Axes]]] = []
    if any(member.activation for member in members):
        columns.append(("activation", lambda axes, member: _activation(axes, member, small, explanation)))
    if any(member.rollout for member in members):
        columns.append(("rollout", lambda axes, member: _rollout(axes, member, small, explanation)))
    if any(member.steps for member in members):
        columns.append(("steps", lambda axes, member: _step_cells(axes, member, small, explanation)))
        columns.append(("steps", lambda axes, member: _steps(axes, member, explanation)))
    single = len(members) == 1
    rows, width = len(members) + int(not single), max(3, 1 + len(columns) + int(single))
    figure, grid = new_figure(_CELL * width + 0.4, _CELL * rows + 0.4, rows, width)
    for row, member in enumerate(members):
        line = grid[row * width :][:width]
        plots.show_image(line[0], small, explanation.size, _corners(member))
        plots.row_name(line[0], member.name, member.predicted)
        for axes, (method, draw) in zip(line[1:], columns, strict=False):
            if getattr(member, method) is None:
                plots.empty_axes(axes)
            else:
                draw(axes, member)
        for axes in line[1 + len(columns) : width - int(single)]:
            plots.empty_axes(axes)
    last = grid[-width:]
    if not single:
        _combined(last, explanation, small)
    axes = plots.prediction_text(
        last[-1 if single else 2],
        explanation.best,
        explained=explanation.target,
        xlabel="score" if sets else "probability",
    )
    plots.title(axes, ("prediction:", explanation.predicted))
    return [path.name for path in save(figure, folder, stem)]


def _corners(member: MemberExplanation) -> tuple[float, float, float, float]:
    return member.window.top, member.window.left, member.window.height, member.window.width


def _project(
    cells: Tensor, member: MemberExplanation, small: Pixels, explanation: ImageExplanation, *, blocks: bool = False
) -> Floats:
    """Project cells to the whole image, at the size of `small` or of the finest map of all members, if that is finer.

    With `blocks`, cells keep sharp edges; otherwise they are interpolated.
    """
    shapes = [cells.shape for other in explanation.members for cells in other.all_cells()]
    size = (max(small.shape[0], *(shape[0] for shape in shapes)), max(small.shape[1], *(shape[1] for shape in shapes)))
    values = cells[None].cpu().double()
    projected = project_to_image(
        values, member.window, explanation.size, size, interpolation="nearest" if blocks else "bilinear"
    )
    pixels: Floats = projected[0].numpy()
    return pixels


def _activation(axes: Axes, member: MemberExplanation, small: Pixels, explanation: ImageExplanation) -> Axes:
    assert member.activation is not None
    cells = member.activation.cells
    plots.heat_map(axes, small, explanation.size, _project(cells, member, small, explanation))
    layer = f"{short_name(member.activation.layer)}, {cells.shape[0]} x {cells.shape[1]}"
    return plots.title(axes, ("class activation:", explanation.target), layer)


def _rollout(axes: Axes, member: MemberExplanation, small: Pixels, explanation: ImageExplanation) -> Axes:
    assert member.rollout is not None
    plots.heat_map(axes, small, explanation.size, _project(member.rollout.patches, member, small, explanation))
    return plots.title(axes, "attention rollout", (f"{member.rollout.blocks} blocks,", member.rollout.reads))


def _step_cells(axes: Axes, member: MemberExplanation, small: Pixels, explanation: ImageExplanation) -> Axes:
    assert member.steps is not None
    values = _project(member.steps.cells, member, small, explanation, blocks=True)
    plots.signed_map(axes, small, explanation.size, values)
    return plots.title(axes, ("contributions:", explanation.target), f"scan over {member.steps.scan}")


def _steps(axes: Axes, member: MemberExplanation, explanation: ImageExplanation) -> Axes:
    assert member.steps is not None
    scan, window = member.steps, member.window
    values = scan.contributions.tolist()
    if scan.scan in BY_ROW:
        plots.steps(axes, values, along="height", place=(window.top, window.height), side=explanation.size[0])
    elif scan.scan in BY_COLUMN:
        plots.steps(axes, values, along="width", place=(window.left, window.width), side=explanation.size[1])
    else:
        plots.steps(axes, values, along="order")
    return plots.title(axes, f"{len(values)} steps", f"logit {scan.baseline:z.2f} to {scan.logit:z.2f}")


def _combined(line: Sequence[Axes], explanation: ImageExplanation, small: Pixels) -> None:
    """Draw the last row: the image, and the mean of the members' maps, each scaled to a maximum of 1."""
    plots.show_image(line[0], small, explanation.size, (0, 0, *explanation.size))
    plots.row_name(line[0], "ensemble", explanation.predicted)
    for axes in line[3:]:
        plots.empty_axes(axes)
    maps = [
        _project(member.cells, member, small, explanation) for member in explanation.members if member.cells is not None
    ]
    scaled = [values / max(float(np.nanmax(values)), 1e-12) for values in maps]
    counts = np.sum([~np.isnan(values) for values in scaled], axis=0) if scaled else np.zeros(1)
    if not counts.any():
        plots.empty_axes(line[1])
        return
    total = np.sum([np.nan_to_num(values) for values in scaled], axis=0)
    mean = np.where(counts > 0, total / np.maximum(counts, 1), np.nan)
    heat = plots.heat_map(line[1], small, explanation.size, mean)
    plots.title(heat, "mean of the members' maps", ("class:", explanation.target))


def draw_filters(member: Member, layers: Sequence[str], folder: Path) -> list[str]:
    """Draw the filters of a member's first convolution and of those in `layers`; return the file names."""
    filters: list[Filters] = []
    with suppress(UnsupportedExplanation):  # the caller reports it if no member has filters
        filters.append(first_filters(member.classifier))
    deeper = [conv_filters(member.classifier, layer) for layer in layers]
    first = {item.layer for item in filters}
    filters += [item for item in deeper if item is not None and item.layer not in first]
    return [name for item in filters for name in _draw_filters(member, item, folder)]


def _draw_filters(member: Member, filters: Filters, folder: Path) -> list[str]:
    tiles, columns, note = filter_tiles(filters.weights.cpu().double().numpy())  # O I k k
    return _draw_tiles(tiles, columns, (member.name, short_name(filters.layer)), note, folder, "filters")


def draw_features(member: Member, image: Tensor, layer: str, folder: Path, stem: str) -> list[str]:
    """Draw a layer's feature maps for an image 1 C H W, and return the file names."""
    maps = feature_maps(member.classifier, image, layer).cpu().double().numpy()  # D h w
    tiles = scaled(maps[:MAX_TILES, None])[:, 0]
    count = f"{len(tiles)} of {len(maps)}" if len(maps) > len(tiles) else f"{len(maps)}"
    note = f"{count} feature maps of {maps.shape[1]} x {maps.shape[2]} cells, each scaled separately"
    return _draw_tiles(tiles, COLUMNS, (member.name, short_name(layer)), note, folder, stem)


def _draw_tiles(tiles: Floats, columns: int, names: tuple[str, str], note: str, folder: Path, stem: str) -> list[str]:
    figure, axes = plots.tiles_figure(len(tiles), columns, tiles.shape[1:3])
    plots.tiles(axes, tiles, columns=columns)
    plots.title(axes, *names)
    plots.note(axes, note)
    return [path.name for path in save(figure, folder, "-".join([stem, *map(slug, names)]))]
