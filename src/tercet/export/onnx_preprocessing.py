"""ONNX nodes that resize and crop images of dynamic size, as in `tercet.core.resize`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tercet.core.types import InputSpec
from tercet.export.onnx_graph import DOUBLE, FLOAT, INT64, Graph

_LUMA = (0.299, 0.587, 0.114)
_MODES = {"bilinear": "linear", "bicubic": "cubic"}


@dataclass(frozen=True)
class DynamicSize:
    """Height and width as graph values: int64 vectors of length 1."""

    height: str
    width: str


def add_preprocessing(graph: Graph, images: str, geometry: InputSpec) -> str:
    """Add resize and crop of uint8 images B H W 3 to floats B C h w in [0, 1]; return the name of the result."""
    size = _size_of(graph, images)
    target = DynamicSize(*(graph.integers(side) for side in geometry.size))
    if geometry.crop_mode == "border":
        target = _fit_within(graph, size, geometry.size)
    elif geometry.crop_mode == "center" or geometry.crop_pct != 1:
        images, size = _crop(graph, images, size, geometry)
    if geometry.interpolation == "nearest":
        images = _nearest(graph, images, size, target)
    pixels = graph.cast(images, FLOAT)  # B H W 3, 0 to 255
    if geometry.channels == 1:
        pixels = graph.add("MatMul", pixels, graph.constant(np.reshape(_LUMA, (3, 1))))  # B H W 1
    if geometry.interpolation == "nearest":
        pixels = graph.add("Transpose", pixels, perm=[0, 3, 1, 2])
    else:
        pixels = _resample(graph, pixels, size, target, geometry)
    pixels = graph.add("Div", pixels, graph.constant(255.0))
    if geometry.interpolation == "bicubic":
        pixels = graph.add("Clip", pixels, graph.constant(0.0), graph.constant(1.0))
    return _pad(graph, pixels, target, geometry.size) if geometry.crop_mode == "border" else pixels


def _size_of(graph: Graph, images: str) -> DynamicSize:
    shape = graph.add("Shape", images)
    return DynamicSize(*(graph.add("Gather", shape, graph.integers(axis)) for axis in (1, 2)))


def _rounded(graph: Graph, value: str) -> str:
    """Return max(1, round(value)) as int64; halves are rounded to even, as in Python."""
    integer = graph.cast(graph.add("Round", value), INT64)
    return graph.add("Max", integer, graph.integers(1))


def _min_ratio(graph: Graph, numerators: tuple[str, str], denominators: tuple[str, str]) -> str:
    """Return the smaller of two quotients, in 64 bits."""
    pairs = zip(numerators, denominators, strict=True)
    return graph.add("Min", *(graph.add("Div", upper, lower) for upper, lower in pairs))


def _doubles(graph: Graph, image: DynamicSize, size: tuple[int, int]) -> tuple[tuple[str, str], tuple[str, str]]:
    sides = graph.cast(image.height, DOUBLE), graph.cast(image.width, DOUBLE)
    return sides, (graph.constant([size[0]], np.float64), graph.constant([size[1]], np.float64))


def _fit_within(graph: Graph, image: DynamicSize, size: tuple[int, int]) -> DynamicSize:
    """Return the sides of an image scaled to fit within `size`."""
    sides, limits = _doubles(graph, image, size)
    ratio = _min_ratio(graph, limits, sides)
    return DynamicSize(*(_rounded(graph, graph.add("Mul", side, ratio)) for side in sides))


def _crop(graph: Graph, images: str, image: DynamicSize, geometry: InputSpec) -> tuple[str, DynamicSize]:
    """Return the centre crop and its size."""
    sides, target = _doubles(graph, image, geometry.size)
    if geometry.crop_mode == "center":
        ratio = _min_ratio(graph, sides, target)
        sides = graph.add("Mul", target[0], ratio), graph.add("Mul", target[1], ratio)
    share = graph.constant(geometry.crop_pct, np.float64)
    crop = DynamicSize(*(_rounded(graph, graph.add("Mul", side, share)) for side in sides))
    two = graph.integers(2)
    pairs = ((image.height, crop.height), (image.width, crop.width))
    corner = [graph.add("Div", graph.add("Sub", full, part), two) for full, part in pairs]
    ends = [graph.add("Add", start, part) for start, (_, part) in zip(corner, pairs, strict=True)]
    starts, stops = (graph.add("Concat", *parts, axis=0) for parts in (corner, ends))
    return graph.add("Slice", images, starts, stops, graph.integers(1, 2)), crop


def _nearest(graph: Graph, images: str, size: DynamicSize, target: DynamicSize) -> str:
    """Return the nearest pixels, B h w 3, with indices computed in 32 bits as in PyTorch."""
    start, step = graph.constant(0, np.int64), graph.constant(1, np.int64)
    for axis, (full, side) in enumerate(((size.height, target.height), (size.width, target.width)), 1):
        scale = graph.add("Div", graph.cast(full, FLOAT), graph.cast(side, FLOAT))
        positions = graph.cast(graph.add("Range", start, graph.add("Squeeze", side), step), FLOAT)
        index = graph.cast(graph.add("Mul", positions, scale), INT64)  # truncates, as in PyTorch
        index = graph.add("Min", index, graph.add("Sub", full, graph.integers(1)))
        images = graph.add("Gather", images, index, axis=axis)
    return images


def _resample(graph: Graph, pixels: str, size: DynamicSize, target: DynamicSize, geometry: InputSpec) -> str:
    """Resize floats B H W C to B C h w with an antialiased filter."""
    options: dict[str, Any] = {"mode": _MODES[geometry.interpolation], "antialias": 1, "exclude_outside": 1}
    if geometry.interpolation == "bicubic":
        options["cubic_coeff_a"] = -0.5
    channels = graph.integers(geometry.channels)
    rows = graph.add("Unsqueeze", graph.add("Reshape", pixels, graph.integers(0, 0, -1)), graph.integers(1))
    rows = graph.add("Resize", rows, "", "", target.height, axes=[2], **options)  # B 1 h (W C)
    columns = graph.add("Reshape", rows, graph.add("Concat", graph.integers(-1, 1), size.width, channels, axis=0))
    columns = graph.add("Resize", columns, "", "", target.width, axes=[2], **options)  # (B h) 1 w C
    shape = graph.add("Concat", graph.integers(-1), target.height, target.width, channels, axis=0)
    return graph.add("Transpose", graph.add("Reshape", columns, shape), perm=[0, 3, 1, 2])


def _pad(graph: Graph, pixels: str, inner: DynamicSize, size: tuple[int, int]) -> str:
    """Repeat the border of B C h' w' up to B C h w."""
    two, none = graph.integers(2), graph.integers(0)
    before, after = [], []
    for inner_side, side in zip((inner.height, inner.width), size, strict=True):
        missing = graph.add("Sub", graph.integers(side), inner_side)
        before.append(graph.add("Div", missing, two))
        after.append(graph.add("Sub", missing, before[-1]))
    margins = graph.add("Concat", none, none, *before, none, none, *after, axis=0)
    return graph.add("Pad", pixels, margins, mode="edge")
