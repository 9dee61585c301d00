"""Preprocessing of exported files in PyTorch: resize and crop for images of dynamic size.

`torch.export` specializes height and width wherever Python reads them, as `tercet.core.resize` and PyTorch's own
antialiased resize do. Here sizes are tensors, and a resize is two matrix products. The rows of the matrices are filter
weights: zero outside the crop, normalized to sum 1, with the outermost rows repeated for `border`. Sizes are computed
in 64 bits, as in Python; weights in 32 bits, as in PyTorch.

Shapes: B images, C channels, H x W pixels of the image, h x w of the result; n pixels along one side, m of the result.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tercet.core.errors import ModelError
from tercet.core.resize import to_channels
from tercet.core.types import InputSpec

_CUBIC = -0.5  # the bicubic filter's parameter, as in PyTorch's antialiased resize


def input_geometry(spec: InputSpec) -> InputSpec:
    """Return the geometry of a spec, for which preprocessing is exported.

    Raises:
        ModelError: It has neither 1 nor 3 channels.
    """
    if spec.channels not in (1, 3):
        raise ModelError(f"a network that reads {spec.channels} channels cannot be exported: images have 1 or 3")
    return spec.geometry


class DynamicPreprocess(nn.Module):
    """Resizes and crops uint8 images B H W 3 of any size to floats B C h w in [0, 1]."""

    def __init__(self, geometry: InputSpec) -> None:
        super().__init__()
        self.geometry = geometry

    def forward(self, images: Tensor) -> Tensor:
        """Map B H W 3 to B C h w."""
        channels_first = images.permute(0, 3, 1, 2)
        pixels = channels_first.to(torch.float32, memory_format=torch.contiguous_format) / 255
        if self.geometry.channels == 1:
            pixels = to_channels(pixels, 1)
        vertical, horizontal = self._sides(images)
        if self.geometry.interpolation == "nearest":
            return pixels.index_select(3, horizontal.nearest()).index_select(2, vertical.nearest())
        kernel = _FILTERS[self.geometry.interpolation]
        columns = horizontal.weights(images.shape[2], kernel)  # w W
        rows = vertical.weights(images.shape[1], kernel)  # h H
        pixels = rows @ (pixels @ columns.t())
        return pixels.clamp(0.0, 1.0) if self.geometry.interpolation == "bicubic" else pixels

    def _sides(self, images: Tensor) -> tuple[_Side, _Side]:
        """Return crop and resize of both sides, as in `tercet.core.resize`."""
        target = self.geometry.size
        full = [images.new_full((), images.shape[axis], dtype=torch.float64) for axis in (1, 2)]
        crop, resized = full, [images.new_full((), side, dtype=torch.float64) for side in target]
        if self.geometry.crop_mode == "border":
            ratio = torch.minimum(resized[0] / full[0], resized[1] / full[1])
            resized = [_rounded(side * ratio) for side in full]
        else:
            if self.geometry.crop_mode == "center":
                ratio = torch.minimum(full[0] / resized[0], full[1] / resized[1])
                crop = [side * ratio for side in resized]
            crop = [_rounded(side * self.geometry.crop_pct) for side in crop]
        vertical, horizontal = (_Side(*values) for values in zip(full, crop, resized, target, strict=True))
        return vertical, horizontal


@dataclass(frozen=True)
class _Side:
    """Crop and resize along one side; lengths are scalar tensors in 64 bits."""

    full: Tensor
    """Pixels of the image."""
    crop: Tensor
    """Pixels of the centre crop."""
    resized: Tensor
    """Pixels of the crop after resizing."""
    target: int
    """m; if it exceeds `resized`, the border is repeated."""

    @property
    def _first(self) -> Tensor:
        """Index of the crop's first pixel."""
        return torch.floor((self.full - self.crop) / 2)

    def _resized_indices(self) -> Tensor:
        """Return the index of the resized pixel for each target pixel, m."""
        indices = torch.arange(self.target, dtype=torch.float64, device=self.full.device)
        margin = torch.floor((self.target - self.resized) / 2)
        return torch.minimum((indices - margin).clamp(min=0), self.resized - 1)

    def nearest(self) -> Tensor:
        """Return the index of the nearest image pixel, m, computed in 32 bits as in PyTorch."""
        step = self.crop.float() / self.resized.float()
        index = torch.floor(self._resized_indices().float() * step).double()
        return (torch.minimum(index, self.crop - 1) + self._first).long()

    def weights(self, count: int, kernel: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the weight of each of n = `count` image pixels in each target pixel, m n, by a filter of distances."""
        step = self.crop.float() / self.resized.float()
        centres = step * (self._resized_indices().float() + 0.5)
        pixels = torch.arange(count, dtype=torch.float64, device=self.full.device) - self._first
        distances = (pixels.float() - centres.unsqueeze(1) + 0.5) / step.clamp(min=1)
        inside = (pixels >= 0) & (pixels < self.crop)
        weights = kernel(distances).masked_fill(~inside, 0.0)
        return weights / weights.sum(1, keepdim=True)


def _rounded(value: Tensor) -> Tensor:
    """Return max(1, round(value)); halves are rounded to even, as in Python."""
    return torch.round(value).clamp(min=1)


def _bilinear(distances: Tensor) -> Tensor:
    return (1 - distances.abs()).clamp(min=0)


def _bicubic(distances: Tensor) -> Tensor:
    x = distances.abs()
    near = ((_CUBIC + 2) * x - (_CUBIC + 3)) * x * x + 1
    far = ((_CUBIC * x - 5 * _CUBIC) * x + 8 * _CUBIC) * x - 4 * _CUBIC
    return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))


_FILTERS: dict[str, Callable[[Tensor], Tensor]] = {"bilinear": _bilinear, "bicubic": _bicubic}
