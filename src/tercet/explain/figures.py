"""From what was found to figures: a row a member, and one for the fused answer.

Shapes: H x W pixels of a picture, D features, O filters over I channels.
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
from tercet.plots import explanations as drawn
from tercet.plots.style import new_figure, save

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float64]
_CELL = 2.3
_MOST_TILES, _COLUMNS = 64, 8
_MOST_CHANNELS = 16


def draw_explanation(found: ImageExplanation, pixels: Pixels, folder: Path, stem: str, *, sets: bool) -> list[str]:
    """Draw what the members saw in one image, and return the files' names.

    Args:
        found: What was found.
        pixels: The picture, H W C.
        folder: Where to write.
        stem: Name of the files.
        sets: Whether the answer is a set of labels.
    """
    small = drawn.downscaled(pixels)
    columns: list[tuple[str, Callable[[Axes, MemberExplanation], Axes]]] = []
    if any(saw.activation for saw in found.members):
        columns.append(("activation", lambda axes, saw: _activation(axes, saw, small, found)))
    if any(saw.rollout for saw in found.members):
        columns.append(("rollout", lambda axes, saw: _rollout(axes, saw, small, found)))
    if any(saw.steps for saw in found.members):
        columns.append(("steps", lambda axes, saw: _cells(axes, saw, small, found)))
        columns.append(("steps", lambda axes, saw: _steps(axes, saw, found)))
    alone = len(found.members) == 1
    rows, width = len(found.members) + int(not alone), max(3, 1 + len(columns) + int(alone))
    figure, places = new_figure(_CELL * width + 0.4, _CELL * rows + 0.4, rows, width)
    for row, saw in enumerate(found.members):
        line = places[row * width :][:width]
        drawn.show_image(line[0], small, found.size, _corners(saw))
        drawn.row_name(line[0], saw.name, saw.predicted)
        for axes, (way, draw) in zip(line[1:], columns, strict=False):
            if getattr(saw, way) is None:
                drawn.empty_axes(axes)
            else:
                draw(axes, saw)
        for axes in line[1 + len(columns) : width - int(alone)]:
            drawn.empty_axes(axes)
    last = places[-width:]
    if not alone:
        _fused(last, found, small)
    axes = drawn.prediction_text(
        last[-1 if alone else 2], found.best, explained=found.target, xlabel="score" if sets else "probability"
    )
    drawn.title(axes, ("answer:", found.predicted))
    return [path.name for path in save(figure, folder, stem)]


def _corners(saw: MemberExplanation) -> tuple[float, float, float, float]:
    return saw.window.top, saw.window.left, saw.window.height, saw.window.width


def _over(
    cells: Tensor, saw: MemberExplanation, small: Pixels, found: ImageExplanation, *, blocks: bool = False
) -> Floats:
    """Return cells laid over the whole picture: at the reduced size, or as finely as the finest cells of all."""
    sides = [each.shape for one in found.members for each in one.all_cells()]
    frame = (max(small.shape[0], *(side[0] for side in sides)), max(small.shape[1], *(side[1] for side in sides)))
    laid = project_to_image(
        cells[None].cpu().double(), saw.window, found.size, frame, interpolation="nearest" if blocks else "bilinear"
    )
    values: Floats = laid[0].numpy()
    return values


def _activation(axes: Axes, saw: MemberExplanation, small: Pixels, found: ImageExplanation) -> Axes:
    assert saw.activation is not None
    cells = saw.activation.cells
    drawn.heat_map(axes, small, found.size, _over(cells, saw, small, found))
    where = f"{short_name(saw.activation.layer)}, {cells.shape[0]} x {cells.shape[1]}"
    return drawn.title(axes, ("class activation:", found.target), where)


def _rollout(axes: Axes, saw: MemberExplanation, small: Pixels, found: ImageExplanation) -> Axes:
    assert saw.rollout is not None
    drawn.heat_map(axes, small, found.size, _over(saw.rollout.patches, saw, small, found))
    return drawn.title(axes, "attention roll-out", (f"{saw.rollout.blocks} blocks,", saw.rollout.reads))


def _cells(axes: Axes, saw: MemberExplanation, small: Pixels, found: ImageExplanation) -> Axes:
    assert saw.steps is not None
    drawn.signed_map(axes, small, found.size, _over(saw.steps.cells, saw, small, found, blocks=True))
    return drawn.title(axes, ("contributions:", found.target), f"scan over {saw.steps.scan}")


def _steps(axes: Axes, saw: MemberExplanation, found: ImageExplanation) -> Axes:
    assert saw.steps is not None
    scan, window = saw.steps, saw.window
    values = scan.contributions.tolist()
    if scan.scan in ("rows", "pixel rows"):
        drawn.steps(axes, values, along="height", place=(window.top, window.height), side=found.size[0])
    elif scan.scan == "columns":
        drawn.steps(axes, values, along="width", place=(window.left, window.width), side=found.size[1])
    else:
        drawn.steps(axes, values, along="order")
    return drawn.title(axes, f"{len(values)} steps", f"logit {scan.baseline:z.2f} to {scan.logit:z.2f}")


def _fused(line: Sequence[Axes], found: ImageExplanation, small: Pixels) -> None:
    """Draw the last row: the picture, and the mean of the members' maps, each on a scale from 0 to 1."""
    drawn.show_image(line[0], small, found.size, (0, 0, *found.size))
    drawn.row_name(line[0], "fused", found.predicted)
    for axes in line[3:]:
        drawn.empty_axes(axes)
    laid = [_over(saw.cells, saw, small, found) for saw in found.members if saw.cells is not None]
    scaled = [values / max(float(np.nanmax(values)), 1e-12) for values in laid]
    known = np.sum([~np.isnan(values) for values in scaled], axis=0) if scaled else np.zeros(1)
    if not known.any():
        drawn.empty_axes(line[1])
        return
    total = np.sum([np.nan_to_num(values) for values in scaled], axis=0)
    mean = np.where(known > 0, total / np.maximum(known, 1), np.nan)
    heat = drawn.heat_map(line[1], small, found.size, mean)
    drawn.title(heat, "mean of the members' maps", ("class:", found.target))


# ------------------------------------------------------------------------------------- filters and feature maps


def draw_filters(member: Member, layers: Sequence[str], folder: Path) -> list[str]:
    """Draw the filters of a member's first convolution and of those among `layers`; return the files' names."""
    found: list[Filters] = []
    with suppress(UnsupportedExplanation):  # the workflow says so where no member has any
        found.append(first_filters(member.classifier))
    deeper = [conv_filters(member.classifier, layer) for layer in layers]
    found += [each for each in deeper if each is not None and each.layer not in {one.layer for one in found}]
    return [name for each in found for name in _draw_filters(member, each, folder)]


def _draw_filters(member: Member, found: Filters, folder: Path) -> list[str]:
    weights = found.weights.cpu().double().numpy()  # O I k k
    count, channels = weights.shape[:2]
    if channels in (1, 3):
        shown, columns = _scaled(weights[:_MOST_TILES]).transpose(0, 2, 3, 1), _COLUMNS
        shown = shown if channels == 3 else shown[..., 0]
        told = f"{len(shown)} of {count} filters" if count > len(shown) else f"{count} filters"
    else:
        part = _scaled(weights[:_MOST_CHANNELS, :_MOST_CHANNELS])
        shown, columns = part.reshape(-1, *part.shape[2:]), part.shape[1]
        told = f"{part.shape[0]} of {count} filters (rows) over {columns} of {channels} channels (columns)"
    return _board(shown, columns, (member.name, short_name(found.layer)), told, folder, "filters")


def draw_features(member: Member, image: Tensor, layer: str, folder: Path, stem: str) -> list[str]:
    """Draw a member's feature maps after a layer, and return the files' names."""
    maps = feature_maps(member.classifier, image, layer).cpu().double().numpy()  # D h w
    shown = _scaled(maps[:_MOST_TILES, None])[:, 0]
    few = f"{len(shown)} of {len(maps)}" if len(maps) > len(shown) else f"{len(maps)}"
    told = f"{few} feature maps of {maps.shape[1]} x {maps.shape[2]} cells, each on its own scale"
    return _board(shown, _COLUMNS, (member.name, short_name(layer)), told, folder, stem)


def _board(shown: Floats, columns: int, names: tuple[str, str], told: str, folder: Path, stem: str) -> list[str]:
    figure, axes = drawn.tiles_figure(len(shown), columns, shown.shape[1:3])
    drawn.tiles(axes, shown, columns=columns)
    drawn.title(axes, *names)
    drawn.note(axes, told)
    return [path.name for path in save(figure, folder, "-".join([stem, *map(slug, names)]))]


def _scaled(tiles: Floats) -> Floats:
    """Bring each of O I k k to [0, 1] over all its channels; what is flat becomes grey."""
    low = tiles.min(axis=(1, 2, 3), keepdims=True)
    spread = tiles.max(axis=(1, 2, 3), keepdims=True) - low
    scaled: Floats = np.where(spread > 0, (tiles - low) / np.where(spread > 0, spread, 1), 0.5)
    return scaled
