"""ONNX preprocessing: resize and crop as `tercet.core.resize` does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tercet.core.errors import ModelError
from tercet.core.types import InputSpec
from tercet.ensemble.bundle import Bundle
from tercet.export.onnx_graph import DOUBLE, FLOAT, INT64, Graph


@dataclass(frozen=True)
class InputGeometry:
    """What of an `InputSpec` decides its pixels; mean and deviation belong to the network."""

    size: tuple[int, int]
    channels: int
    crop_mode: str
    crop_pct: float
    interpolation: str

    @classmethod
    def of(cls, spec: InputSpec) -> InputGeometry:
        """Return that of a spec.

        Raises:
            ModelError: Its channels can be made neither of grey nor of colour.
        """
        if spec.channels not in (1, 3):
            raise ModelError(f"a network that reads {spec.channels} channels cannot be exported: images have 1 or 3")
        return cls(spec.size, spec.channels, spec.crop_mode, spec.crop_pct, spec.interpolation)


def geometries(bundle: Bundle) -> list[InputGeometry]:
    """Return what each member is shown, its views included.

    Raises:
        ModelError: A member reads channels that images do not have.
    """
    return [InputGeometry.of(spec) for spec in bundle.specs]


_LUMA = (0.299, 0.587, 0.114)
_MODES = {"bilinear": "linear", "bicubic": "cubic"}


@dataclass(frozen=True)
class DynamicSize:
    """Height and width as values of the graph: vectors of one whole number each."""

    height: str
    width: str


def add_preprocessing(graph: Graph, images: str, geometry: InputGeometry) -> str:
    """Add what brings images B H W 3, bytes of any size, to floats B C h w in [0, 1]; return their name."""
    sides = _sides(graph, images)
    target = DynamicSize(*(graph.integers(side) for side in geometry.size))
    if geometry.crop_mode == "border":
        target = _inner(graph, sides, geometry.size)
    elif geometry.crop_mode == "center" or geometry.crop_pct != 1:
        images, sides = _crop(graph, images, sides, geometry)
    if geometry.interpolation == "nearest":
        images = _pick(graph, images, sides, target)
    pixels = graph.cast(images, FLOAT)  # B H W 3, 0 to 255
    if geometry.channels == 1:
        pixels = graph.add("MatMul", pixels, graph.constant(np.reshape(_LUMA, (3, 1))))  # B H W 1
    if geometry.interpolation == "nearest":
        pixels = graph.add("Transpose", pixels, perm=[0, 3, 1, 2])
    else:
        pixels = _resample(graph, pixels, sides, target, geometry)
    pixels = graph.add("Div", pixels, graph.constant(255.0))
    if geometry.interpolation == "bicubic":
        pixels = graph.add("Clip", pixels, graph.constant(0.0), graph.constant(1.0))
    return _pad(graph, pixels, target, geometry.size) if geometry.crop_mode == "border" else pixels


def _sides(graph: Graph, images: str) -> DynamicSize:
    shape = graph.add("Shape", images)
    return DynamicSize(*(graph.add("Gather", shape, graph.integers(axis)) for axis in (1, 2)))


def _rounded(graph: Graph, value: str) -> str:
    """Return max(1, round(value)) as a whole number; halves go to the even one, as in Python."""
    whole = graph.cast(graph.add("Round", value), INT64)
    return graph.add("Max", whole, graph.integers(1))


def _ratio(graph: Graph, above: tuple[str, str], below: tuple[str, str]) -> str:
    """Return the smaller of two quotients, in 64 bits."""
    return graph.add("Min", *(graph.add("Div", upper, lower) for upper, lower in zip(above, below, strict=True)))


def _doubles(graph: Graph, sides: DynamicSize, size: tuple[int, int]) -> tuple[tuple[str, str], tuple[str, str]]:
    picture = graph.cast(sides.height, DOUBLE), graph.cast(sides.width, DOUBLE)
    return picture, (graph.constant([size[0]], np.float64), graph.constant([size[1]], np.float64))


def _inner(graph: Graph, sides: DynamicSize, size: tuple[int, int]) -> DynamicSize:
    """Return the sides of a picture scaled to lie within `size`."""
    picture, wanted = _doubles(graph, sides, size)
    ratio = _ratio(graph, wanted, picture)
    return DynamicSize(*(_rounded(graph, graph.add("Mul", side, ratio)) for side in picture))


def _crop(graph: Graph, images: str, sides: DynamicSize, geometry: InputGeometry) -> tuple[str, DynamicSize]:
    """Return the centre that is kept, and its sides."""
    kept, wanted = _doubles(graph, sides, geometry.size)
    if geometry.crop_mode == "center":
        ratio = _ratio(graph, kept, wanted)
        kept = graph.add("Mul", wanted[0], ratio), graph.add("Mul", wanted[1], ratio)
    share = graph.constant(geometry.crop_pct, np.float64)
    inner = DynamicSize(*(_rounded(graph, graph.add("Mul", side, share)) for side in kept))
    two = graph.integers(2)
    pairs = ((sides.height, inner.height), (sides.width, inner.width))
    corner = [graph.add("Div", graph.add("Sub", whole, part), two) for whole, part in pairs]
    ends = [graph.add("Add", start, part) for start, (_, part) in zip(corner, pairs, strict=True)]
    starts, stops = (graph.add("Concat", *parts, axis=0) for parts in (corner, ends))
    cut = graph.add("Slice", images, starts, stops, graph.integers(1, 2))
    return cut, inner


def _pick(graph: Graph, images: str, sides: DynamicSize, target: DynamicSize) -> str:
    """Return the nearest pixels, B h w 3, by the indices that torch computes in 32 bits."""
    zero, one = graph.constant(0, np.int64), graph.constant(1, np.int64)
    for axis, (whole, wanted) in enumerate(((sides.height, target.height), (sides.width, target.width)), 1):
        step = graph.add("Div", graph.cast(whole, FLOAT), graph.cast(wanted, FLOAT))
        places = graph.cast(graph.add("Range", zero, graph.add("Squeeze", wanted), one), FLOAT)
        index = graph.cast(graph.add("Floor", graph.add("Mul", places, step)), INT64)
        index = graph.add("Min", index, graph.add("Sub", whole, graph.integers(1)))
        images = graph.add("Gather", images, index, axis=axis)
    return images


def _resample(graph: Graph, pixels: str, sides: DynamicSize, target: DynamicSize, geometry: InputGeometry) -> str:
    """Bring floats B H W C to B C h w with an antialiased filter."""
    options: dict[str, Any] = {"mode": _MODES[geometry.interpolation], "antialias": 1, "exclude_outside": 1}
    if geometry.interpolation == "bicubic":
        options["cubic_coeff_a"] = -0.5
    channels, one = graph.integers(geometry.channels), graph.integers(1)
    rows = graph.add("Unsqueeze", graph.add("Reshape", pixels, graph.integers(0, 0, -1)), one)  # B 1 H (W C)
    rows = graph.add("Resize", rows, "", "", target.height, axes=[2], **options)
    columns = graph.add("Reshape", rows, graph.add("Concat", graph.integers(-1, 1), sides.width, channels, axis=0))
    columns = graph.add("Resize", columns, "", "", target.width, axes=[2], **options)  # (B h) 1 w C
    shape = graph.add("Concat", graph.integers(-1), target.height, target.width, channels, axis=0)
    return graph.add("Transpose", graph.add("Reshape", columns, shape), perm=[0, 3, 1, 2])


def _pad(graph: Graph, pixels: str, inner: DynamicSize, size: tuple[int, int]) -> str:
    """Repeat the border of B C h' w' until it is B C h w."""
    two, none = graph.integers(2), graph.integers(0)
    before, after = [], []
    for side, wanted in zip((inner.height, inner.width), size, strict=True):
        missing = graph.add("Sub", graph.integers(wanted), side)
        before.append(graph.add("Div", missing, two))
        after.append(graph.add("Sub", missing, before[-1]))
    margins = graph.add("Concat", none, none, *before, none, none, *after, axis=0)
    return graph.add("Pad", pixels, margins, mode="edge")
