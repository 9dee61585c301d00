"""timm backbones: features, feature maps and tokens with known shapes."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any, Literal, TypeVar, cast

import torch
from torch import Tensor, nn

from tercet.core.errors import ConfigError

Module = TypeVar("Module", bound=nn.Module)


def to_meta(module: Module, *, products: list[int] | None = None) -> Module:
    """Return a copy in evaluation mode whose parameters and buffers have shapes but no storage (the meta device).

    Every parameter of the copy takes gradients; what is shared in the module is shared in the copy. Recurrent kernels
    do not come apart into steps, which would take seconds.

    Args:
        module: The module.
        products: Gains the multiply-adds of each recurrent kernel that runs.
    """
    stand_ins: dict[int, Any] = {}
    for parameter in module.parameters():
        stand_ins[id(parameter)] = nn.Parameter(torch.empty_like(parameter, device="meta"))
    for buffer in module.buffers():
        stand_ins[id(buffer)] = torch.empty_like(buffer, device="meta")
    abstract = copy.deepcopy(module, stand_ins).eval()
    for part in abstract.modules():
        if isinstance(part, nn.RNNBase):
            part.forward = _without_steps(part, [] if products is None else products)
    return abstract


def _without_steps(kernel: nn.RNNBase, products: list[int]) -> Callable[..., Any]:
    """Return a forward pass of a recurrent kernel that has its shapes and gradients, and counts what it would cost.

    Each step multiplies by every weight once: G h (i + h) a direction, with i inputs, h units and G = 4 matrices in an
    LSTM, 3 in a GRU, 1 in a simple RNN.
    """
    weights = sum(weight.numel() for name, weight in kernel.named_parameters() if name.startswith("weight"))
    states = kernel.num_layers * (2 if kernel.bidirectional else 1)

    def forward(sequence: Tensor, state: Any = None) -> Any:
        *leading, _ = sequence.shape  # B T, T B, or T alone
        products.append(math.prod(leading) * weights)
        units = kernel.proj_size or kernel.hidden_size
        everything = sequence.sum() + sum(parameter.sum() for parameter in kernel.parameters())
        batch = leading[:-1] if kernel.batch_first else leading[1:]
        output = everything.expand(*leading, units * (2 if kernel.bidirectional else 1)).contiguous()
        hidden, cell = (everything.expand(states, *batch, size) for size in (units, kernel.hidden_size))
        return output, (hidden, cell) if isinstance(kernel, nn.LSTM) else hidden

    return forward


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
            trial = to_meta(self)
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
