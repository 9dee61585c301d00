"""From images as they are to what a network wants to be shown: the one resize, of sizes that Python does not know.

PyTorch's exporter fixes height and width wherever Python looks at them, as `ground.geometry.fit` and PyTorch's own
antialiased resize do. Here sizes are tensors from the first step on, and a resize is two products with matrices whose
rows are the filter's weights: zero outside the centre that is kept, each row's sum 1, the outermost rows repeated
where `border` repeats it. Sizes are computed in 64 bits, as Python computes them; weights in 32, as PyTorch does.

Shapes: B images, C channels, H x W pixels of the image, h x w of the result; n pixels along one side, m of the result.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tercet.core.resize import to_channels
from tercet.export.onnx_preprocessing import InputGeometry

_CUBIC = -0.5  # the bicubic filter's parameter, as in PyTorch's antialiased one


class Preprocess(nn.Module):
    """Brings images B H W 3, bytes of any size, to floats B C h w in [0, 1].

    Args:
        geometry: What is wanted.
    """

    def __init__(self, geometry: InputGeometry) -> None:
        super().__init__()
        self.geometry = geometry

    def forward(self, images: Tensor) -> Tensor:
        """Map B H W 3 to B C h w."""
        channels_first = images.permute(0, 3, 1, 2)
        pixels = channels_first.to(torch.float32, memory_format=torch.contiguous_format) / 255
        if self.geometry.channels == 1:
            pixels = to_channels(pixels, 1)
        down, across = self._sides(images)
        if self.geometry.interpolation == "nearest":
            return pixels.index_select(3, across.nearest()).index_select(2, down.nearest())
        weigh = _FILTERS[self.geometry.interpolation]
        columns = across.weights(images.shape[2], weigh)  # w W
        rows = down.weights(images.shape[1], weigh)  # h H
        pixels = rows @ (pixels @ columns.t())
        return pixels.clamp(0.0, 1.0) if self.geometry.interpolation == "bicubic" else pixels

    def _sides(self, images: Tensor) -> tuple[_Side, _Side]:
        """Return how many pixels of each side are kept and reached: `ground.geometry`, over tensors."""
        wanted = self.geometry.size
        whole = [images.new_full((), images.shape[axis], dtype=torch.float64) for axis in (1, 2)]
        kept, reached = whole, [images.new_full((), side, dtype=torch.float64) for side in wanted]
        if self.geometry.crop_mode == "border":
            ratio = torch.minimum(reached[0] / whole[0], reached[1] / whole[1])
            reached = [_rounded(side * ratio) for side in whole]
        else:
            if self.geometry.crop_mode == "center":
                ratio = torch.minimum(whole[0] / reached[0], whole[1] / reached[1])
                kept = [side * ratio for side in reached]
            kept = [_rounded(side * self.geometry.crop_pct) for side in kept]
        down, across = (_Side(*values) for values in zip(whole, kept, reached, wanted, strict=True))
        return down, across


@dataclass(frozen=True)
class _Side:
    """One side of the images; all but the last are numbers of pixels as tensors without axes, in 64 bits."""

    whole: Tensor
    """Of the image."""
    kept: Tensor
    """Of these, in the centre."""
    reached: Tensor
    """What they become."""
    wanted: int
    """m; where more than is reached, the border is repeated."""

    @property
    def _first(self) -> Tensor:
        return torch.floor((self.whole - self.kept) / 2)

    def _places(self) -> Tensor:
        """Return which of the pixels reached stands at each of those wanted, m."""
        places = torch.arange(self.wanted, dtype=torch.float64, device=self.whole.device)
        margin = torch.floor((self.wanted - self.reached) / 2)
        return torch.minimum((places - margin).clamp(min=0), self.reached - 1)

    def nearest(self) -> Tensor:
        """Return the index of the nearest pixel, m, as PyTorch computes it in 32 bits."""
        step = self.kept.float() / self.reached.float()
        index = torch.floor(self._places().float() * step).double()
        return (torch.minimum(index, self.kept - 1) + self._first).long()

    def weights(self, count: int, weigh: Callable[[Tensor], Tensor]) -> Tensor:
        """Return what each pixel of the image adds to each one wanted, m n.

        Args:
            count: n.
            weigh: The filter, from distances to weights.
        """
        step = self.kept.float() / self.reached.float()
        centres = step * (self._places().float() + 0.5)
        pixels = torch.arange(count, dtype=torch.float64, device=self.whole.device) - self._first
        distances = (pixels.float() - centres.unsqueeze(1) + 0.5) / step.clamp(min=1)
        inside = (pixels >= 0) & (pixels < self.kept)
        weights = weigh(distances).masked_fill(~inside, 0.0)
        return weights / weights.sum(1, keepdim=True)


def _rounded(value: Tensor) -> Tensor:
    """Return max(1, round(value)); halves go to the even one, as in Python."""
    return torch.round(value).clamp(min=1)


def _bilinear(distances: Tensor) -> Tensor:
    return (1 - distances.abs()).clamp(min=0)


def _bicubic(distances: Tensor) -> Tensor:
    x = distances.abs()
    near = ((_CUBIC + 2) * x - (_CUBIC + 3)) * x * x + 1
    far = ((_CUBIC * x - 5 * _CUBIC) * x + 8 * _CUBIC) * x - 4 * _CUBIC
    return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))


_FILTERS: dict[str, Callable[[Tensor], Tensor]] = {"bilinear": _bilinear, "bicubic": _bicubic}
