"""Flow chart of an image through layers of a network: filters and feature maps from left to right."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tercet.core.files import slug
from tercet.ensemble.bundle import Member
from tercet.explain.layers import conv_filters, feature_maps, layer_names, short_name
from tercet.explain.tiles import filter_tiles, scaled
from tercet.plots import explanations as plots
from tercet.plots.style import new_figure, save

_CELL = 2.1  # inches
_TILES, _COLUMNS = 16, 4  # per panel


@dataclass(frozen=True)
class _Panel:
    """Small images of one step, N k k or N k k 3, with its title and the operation that leads to it."""

    tiles: NDArray[np.float64]
    lines: tuple[str, str]
    operation: str = ""


def draw_flow(member: Member, image: Tensor, layers: Sequence[str], folder: Path, stem: str) -> list[str]:
    """Draw the flow chart of an image 1 C H W through layers of a member, and return the file names.

    Args:
        member: The member.
        image: 1 C H W in [0, 1].
        layers: Dotted names of layers with feature maps; they are drawn in the order in which they are defined.
        folder: Where to write.
        stem: Start of the file names.
    """
    panels = list(_panels(member, image, layers))
    figure, grid = new_figure(_CELL * len(panels), _CELL + 0.6, 1, len(panels))
    for number, (axes, panel) in enumerate(zip(grid, panels, strict=True)):
        plots.tiles(axes, panel.tiles, columns=min(_COLUMNS, len(panel.tiles)))
        plots.title(axes, *panel.lines)
        if number:
            plots.arrow_from_left(axes, panel.operation)
    return [path.name for path in save(figure, folder, f"{stem}-flow-{slug(member.name)}")]


def _panels(member: Member, image: Tensor, layers: Sequence[str]) -> Iterator[_Panel]:
    classifier = member.classifier
    pixels = image[0].permute(1, 2, 0).cpu().double().numpy()  # H W C
    pixels = pixels if pixels.shape[2] == 3 else pixels[..., 0]
    size = " x ".join(map(str, (image.shape[1], *image.shape[2:])))
    yield _Panel(pixels[None], ("input", size))
    for layer in sorted(layers, key=layer_names(classifier).index):
        module, filters = classifier.get_submodule(layer), conv_filters(classifier, layer)
        if filters is not None:
            tiles, _, _ = filter_tiles(filters.weights.cpu().double().numpy(), filters=_TILES, channels=1)
            shape = " x ".join(map(str, filters.weights.shape))
            yield _Panel(tiles, ("filters of", f"{short_name(layer)}: {shape}"))
        maps = feature_maps(classifier, image, layer).cpu().double().numpy()  # D h w
        shape = " x ".join(map(str, maps.shape))
        yield _Panel(scaled(maps[:_TILES, None])[:, 0], (short_name(layer), shape), type(module).__name__)
