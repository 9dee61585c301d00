"""Any timm network as a backbone: the pooled vector, or the feature map, whatever form timm returns.

timm's `forward_features` has three forms: B C H W (most convolutional networks), B H W C (those that say so in
`output_fmt`: Swin, Sequencer, ...) and B N D tokens in raster order, after `num_prefix_tokens` tokens that stand for no
place (class, registers). All become B h w D.

The pooled vector is what the network's own classifier would read: `forward_head(pre_logits=True)`. Its width is not
always D: MobileNetV3, VGG, HGNet and others have trained layers between pooling and classifier (MobileNetV3-large: 960
to 1280, `head_hidden_size`). They are part of the pretrained network and stay for scan `pooled`. A feature map never
passes through them, so there they are removed: no parameter is kept that could not learn.

Shapes: B images, C channels, H x W pixels, h x w cells of the feature map, N = h w, D features.
"""

from __future__ import annotations

import math
from typing import Literal, cast

import torch
from torch import Tensor, nn

from tercet.ground.errors import ConfigError
from tercet.models.shapes import abstract_copy


class Backbone(nn.Module):
    """A timm network without its classifier.

    Args:
        network: The network, created with `num_classes=0`.
        input_shape: C, H and W of the preprocessed images.
        read: What `forward` returns: the pooled vector B D, or the feature map B h w D.

    Raises:
        ConfigError: The network cannot read images of this size, or has no feature map.
    """

    num_features: int
    """D of what `forward` returns."""
    grid: tuple[int, int]
    """(h, w) of the feature map; (1, 1) for the pooled vector."""
    num_prefix_tokens: int
    """Tokens before those of the grid, where the network has tokens."""

    def __init__(
        self, network: nn.Module, input_shape: tuple[int, int, int], *, read: Literal["pooled", "map"] = "pooled"
    ) -> None:
        super().__init__()
        self.network = network
        self.read = read
        self.num_prefix_tokens = int(getattr(network, "num_prefix_tokens", 0) or 0)
        self._channels_last = getattr(network, "output_fmt", "NCHW") == "NHWC"
        with torch.inference_mode(False), torch.set_grad_enabled(read == "map"):  # whatever the caller's mode is
            trial = abstract_copy(self)
            try:
                output = trial(torch.empty(1, *input_shape, device="meta"))
            except (RuntimeError, ValueError, AssertionError, IndexError) as error:
                raise _cannot_read(network, input_shape, error) from error
            if read == "map":
                output.sum().backward()
        self.num_features = output.shape[-1]
        self.grid = (output.shape[1], output.shape[2]) if read == "map" else (1, 1)
        if read == "map":
            _remove_unused(self, {name for name, value in trial.named_parameters() if value.grad is None}, prefix="")

    def forward(self, images: Tensor) -> Tensor:
        """Map preprocessed images B C H W to B D or, where the map is read, to B h w D."""
        return self.pooled(images) if self.read == "pooled" else self.feature_map(images)

    def pooled(self, images: Tensor) -> Tensor:
        """Map preprocessed images B C H W to the vector B D that the network's own classifier would read."""
        features = self.network.forward_features(images)  # type: ignore[operator]
        return cast("Tensor", self.network.forward_head(features, pre_logits=True)).flatten(1)  # type: ignore[operator]

    def feature_map(self, images: Tensor) -> Tensor:
        """Map preprocessed images B C H W to the feature map B h w D."""
        features = self.network.forward_features(images)  # type: ignore[operator]
        if not isinstance(features, Tensor) or features.ndim not in (3, 4):
            raise ConfigError(f"{type(self.network).__name__} has no single feature map: use --scan pooled")
        if features.ndim == 4:
            return features if self._channels_last else features.permute(0, 2, 3, 1)  # B h w D
        tokens = features[:, self.num_prefix_tokens :]  # B N D
        grid = self.token_grid(tokens.shape[1], images.shape[-2], images.shape[-1])
        return tokens.reshape(-1, *grid, tokens.shape[2])  # B h w D

    def tokens(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Map preprocessed images B C H W to tokens B N D in raster order and their grid (h, w)."""
        feature_map = self.feature_map(images)
        return feature_map.flatten(1, 2), (feature_map.shape[1], feature_map.shape[2])

    def token_grid(self, count: int, height: int, width: int) -> tuple[int, int]:
        """Return the grid (h, w) that N tokens are of an image of H x W pixels.

        Raises:
            ConfigError: They are no grid.
        """
        announced = getattr(getattr(self.network, "patch_embed", None), "grid_size", None)
        if announced is not None and math.prod(announced) == count:
            return (int(announced[0]), int(announced[1]))
        rows = max(1, round(math.sqrt(count * height / width)))
        if rows * (count // rows) != count:
            raise ConfigError(
                f"{type(self.network).__name__} returns {count} tokens that are no grid: use --scan pooled"
            )
        return (rows, count // rows)


def _cannot_read(network: nn.Module, input_shape: tuple[int, int, int], error: Exception) -> ConfigError:
    if isinstance(error, ConfigError):
        return error
    channels, height, width = input_shape
    reason = str(error).strip().split("\n")[0][:200]
    return ConfigError(
        f"{type(network).__name__} cannot read images of {height} x {width} pixels with {channels} channel(s) "
        f"({reason}): set --input.size"
    )


def _remove_unused(module: nn.Module, unused: set[str], *, prefix: str) -> None:
    """Replace the parts that hold only parameters named in `unused` by nothing."""
    for name, part in list(module.named_children()):
        path = f"{prefix}{name}."
        owned = [f"{path}{parameter}" for parameter, _ in part.named_parameters(remove_duplicate=False)]
        if owned and unused.issuperset(owned):
            setattr(module, name, nn.Identity())
        else:
            _remove_unused(part, unused, prefix=path)
