"""timm backbones: features, feature maps and tokens with known shapes."""

from __future__ import annotations

import tercet.core.torchvision_ops  # noqa: F401  # isort: skip  (before timm)

import copy
import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeVar, cast

import torch
from timm.layers import AttentionPool2d, AttentionPoolLatent, RotAttentionPool2d
from torch import Tensor, nn

from tercet.core.errors import ConfigError

Module = TypeVar("Module", bound=nn.Module)
_ATTENTION_POOLS = (AttentionPool2d, AttentionPoolLatent, RotAttentionPool2d)


def to_meta(module: Module, *, products: list[int] | None = None) -> Module:
    """Return a copy in evaluation mode on the meta device, where tensors have shapes but no storage.

    All parameters of the copy require gradients; tensors that modules share stay shared. Recurrent kernels are replaced
    by functions of the same shapes, because on the meta device PyTorch would run them step by step, for seconds.

    Args:
        module: The module.
        products: List to which each call of a recurrent kernel appends its number of multiply-adds.
    """
    memo: dict[int, Any] = {}  # `deepcopy` takes these instead of copying the originals
    for parameter in module.parameters():
        memo[id(parameter)] = nn.Parameter(torch.empty_like(parameter, device="meta"))
    for buffer in module.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    meta = copy.deepcopy(module, memo).eval()
    for part in meta.modules():
        if isinstance(part, nn.RNNBase):
            part.forward = _shape_only_forward(part, [] if products is None else products)
    return meta


def _shape_only_forward(kernel: nn.RNNBase, products: list[int]) -> Callable[..., Any]:
    """Return a forward pass with the shapes and gradients of a recurrent kernel that counts its multiply-adds.

    A step multiplies by each weight once: G H (D + H) per direction, with D inputs, H units and G = 4 matrices for an
    LSTM, 3 for a GRU, 1 for a simple RNN.
    """
    weights = sum(weight.numel() for name, weight in kernel.named_parameters() if name.startswith("weight"))
    states = kernel.num_layers * (2 if kernel.bidirectional else 1)

    def forward(sequence: Tensor, state: Any = None) -> Any:
        *leading, _ = sequence.shape  # B T, T B, or T alone
        products.append(math.prod(leading) * weights)
        units = kernel.proj_size or kernel.hidden_size
        total = sequence.sum() + sum(parameter.sum() for parameter in kernel.parameters())
        batch = leading[:-1] if kernel.batch_first else leading[1:]
        output = total.expand(*leading, units * (2 if kernel.bidirectional else 1)).contiguous()
        hidden, cell = (total.expand(states, *batch, size) for size in (units, kernel.hidden_size))
        return output, (hidden, cell) if isinstance(kernel, nn.LSTM) else hidden

    return forward


@dataclass(frozen=True)
class BackboneOrigin:
    """How a backbone can be built again without its repository, and where its initial weights are from."""

    architecture: str
    """Name in timm's registry."""
    arguments: dict[str, Any]
    """Arguments of timm's constructor."""
    weights: dict[str, Any] | None = None
    """`source`, `revision`, `licence` and `sha256` of the initial weights; None if they were random."""


class _Shapes(NamedTuple):
    """Measured properties of a backbone."""

    read: Literal["pooled", "map", "mean"]
    num_features: int
    grid: tuple[int, int]
    unused: frozenset[str]
    """Names of the parameters that the output does not depend on."""


_SHAPES: dict[Hashable, _Shapes] = {}
"""By the key of the backbone, class of the network, input shape and output."""


class Backbone(nn.Module):
    """A timm network without its classifier, with known output shapes.

    Args:
        network: The network, created with `num_classes=0`.
        input_shape: C, H and W of the preprocessed images.
        read: Output of `forward`: the pooled vector B D, or the feature map B h w D.
        hidden_layers: Whether the pooled vector is that after the hidden layers of the network's own head, if it has
            any (VGG, MobileNetV3). Without them it is the mean of the last feature map, of which `rows` and the other
            scans read the cells.
        key: Identity of the architecture. Networks with equal keys are measured once per process, which takes half a
            second.

    Raises:
        ConfigError: The network does not accept images of this size, or has no feature map.
    """

    num_features: int
    """D."""
    grid: tuple[int, int]
    """(h, w) of the feature map; (1, 1) for the pooled vector."""
    num_prefix_tokens: int
    """Number of tokens before those of the grid, such as the class token; 0 for a convolutional network."""
    origin: BackboneOrigin | None = None
    """Set by `tercet.models.build.build`."""

    def __init__(
        self,
        network: nn.Module,
        input_shape: tuple[int, int, int],
        *,
        read: Literal["pooled", "map"] = "pooled",
        key: Hashable = None,
        hidden_layers: bool = True,
    ) -> None:
        super().__init__()
        self.network = network
        self.read: Literal["pooled", "map", "mean"] = read
        self.num_prefix_tokens = int(getattr(network, "num_prefix_tokens", 0) or 0)
        self._channels_last = getattr(network, "output_fmt", "NCHW") == "NHWC"
        full_key = (key, type(network), input_shape, read, hidden_layers)
        shapes = None if key is None else _SHAPES.get(full_key)
        if shapes is None:
            shapes = self._measure(input_shape, hidden_layers=hidden_layers)
            if key is not None:
                _SHAPES[full_key] = shapes
        self.read, self.num_features, self.grid = shapes.read, shapes.num_features, shapes.grid
        if shapes.unused:
            _remove_unused(self, shapes.unused, prefix="")

    def _measure(self, input_shape: tuple[int, int, int], *, hidden_layers: bool) -> _Shapes:
        """Run forward and backward on the meta device."""
        with torch.inference_mode(False), torch.enable_grad():  # independent of the caller's mode
            meta, images = to_meta(self), torch.empty(1, *input_shape, device="meta")
            try:
                if self.read == "pooled" and not hidden_layers and _has_hidden_layers(meta.network, images):
                    meta.read = "mean"
                output = meta(images)
            except (RuntimeError, ValueError, AssertionError, IndexError) as error:
                raise _size_error(self.network, input_shape, error) from error
            if meta.read == "pooled":
                return _Shapes(meta.read, output.shape[-1], (1, 1), frozenset())
            output.sum().backward()
        # layers after the map would stay untrained, and count as parameters
        unused = frozenset(name for name, value in meta.named_parameters() if value.grad is None)
        grid = (output.shape[1], output.shape[2]) if meta.read == "map" else (1, 1)
        return _Shapes(meta.read, output.shape[-1], grid, unused)

    def forward(self, images: Tensor) -> Tensor:
        """Map preprocessed images B C H W to the pooled vector B D or the feature map B h w D."""
        if self.read == "pooled":
            return self.pooled(images)
        feature_map = self.feature_map(images)
        return feature_map.mean((1, 2)) if self.read == "mean" else feature_map

    def pooled(self, images: Tensor) -> Tensor:
        """Map preprocessed images B C H W to the vector B D that the network's classifier would take."""
        features = self.network.forward_features(images)  # type: ignore[operator]
        return cast("Tensor", self.network.forward_head(features, pre_logits=True)).flatten(1)  # type: ignore[operator]

    def feature_map(self, images: Tensor) -> Tensor:
        """Map preprocessed images B C H W to the feature map B h w D."""
        features = self.network.forward_features(images)  # type: ignore[operator]
        if not isinstance(features, Tensor) or features.ndim not in (3, 4):
            raise ConfigError(
                f"{type(self.network).__name__} has no single feature map: use --scan pooled and --head linear"
            )
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
        """Return the grid (h, w) of N tokens of an image of H x W pixels.

        Raises:
            ConfigError: The tokens do not form a grid.
        """
        grid_size = getattr(getattr(self.network, "patch_embed", None), "grid_size", None)
        if grid_size is not None and math.prod(grid_size) == count:
            return (int(grid_size[0]), int(grid_size[1]))
        rows = max(1, round(math.sqrt(count * height / width)))
        if rows * (count // rows) != count:
            raise ConfigError(
                f"the {count} tokens of {type(self.network).__name__} do not form a grid: use --scan pooled and "
                "--head linear"
            )
        return (rows, count // rows)


def backbone_origin(classifier: nn.Module) -> BackboneOrigin | None:
    """Return the origin of a classifier's backbone; None for networks that are not timm's."""
    features = getattr(classifier, "features", None)
    return features.origin if isinstance(features, Backbone) else None


def _size_error(network: nn.Module, input_shape: tuple[int, int, int], error: Exception) -> ConfigError:
    if isinstance(error, ConfigError):
        return error
    channels, height, width = input_shape
    described: dict[str, Any] = getattr(network, "pretrained_cfg", {})
    native = tuple(described.get("input_size", input_shape))[1:]
    return ConfigError(
        f"{described.get('architecture') or type(network).__name__} does not accept images of {height} x {width} "
        f"pixels with {channels} channel(s){size_advice((height, width), native)}{first_line(error)}"
    )


def size_advice(size: tuple[int, ...], native: tuple[int, ...]) -> str:
    """Return what to type if a network does not accept images of a height and width: those of its weights."""
    return f": set --input.size {native[0]},{native[1]}, the size of its weights" if size != native else ""


def first_line(error: Exception) -> str:
    """Return the start of an exception's message in parentheses; empty if it has none."""
    line = str(error).strip().split("\n")[0]
    return f" ({line[:120]}{'...' * (len(line) > 120)})" if line else ""


def _has_hidden_layers(network: nn.Module, images: Tensor) -> bool:
    """Return whether dense layers follow the global pooling of a convolutional network.

    Attention pooling has dense layers, too, but is a pooling.
    """
    if any(isinstance(module, _ATTENTION_POOLS) for module in network.modules()):
        return False
    features = network.forward_features(images)  # type: ignore[operator]
    if not isinstance(features, Tensor) or features.ndim != 4:
        return False
    layers: list[nn.Module] = []
    hooks = [
        module.register_forward_hook(lambda layer, *_: layers.append(layer))
        for module in network.modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    ]
    network.forward_head(features, pre_logits=True)  # type: ignore[operator]
    for hook in hooks:
        hook.remove()
    return bool(layers)


def _remove_unused(module: nn.Module, unused: frozenset[str], *, prefix: str) -> None:
    """Replace modules whose parameters are all in `unused` by the identity."""
    for name, part in list(module.named_children()):
        path = f"{prefix}{name}."
        parameters = [f"{path}{parameter}" for parameter, _ in part.named_parameters(remove_duplicate=False)]
        if parameters and unused.issuperset(parameters):
            setattr(module, name, nn.Identity())
        else:
            _remove_unused(part, unused, prefix=path)
