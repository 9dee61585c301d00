"""Spatial layout of layer outputs, and the last layer with a usable feature map.

A layer returns a map in one of three forms: B D h w, B h w D, or B N D tokens in raster order after prefix tokens
(class, distillation, registers). Shapes: B images (1 here), H x W pixels, h x w cells, N tokens, D features, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from tercet.core.errors import ConfigError
from tercet.explain.hooks import capture_outputs, eval_mode, input_leaf
from tercet.models.backbone import Backbone
from tercet.models.classifier import Classifier

MIN_GRID = 3
"""Least cells per side of a useful map: a coarser one can hardly localize anything."""


@dataclass(frozen=True)
class Layout:
    """Axes and grid of a layer's feature map."""

    form: Literal["channels first", "channels last", "tokens"]
    """Order of the axes."""
    grid: tuple[int, int]
    """h and w."""
    prefix: int = 0
    """Number of tokens before those of the grid."""

    def split(self, output: Tensor) -> Tensor:
        """Return the map B D h w of a layer's output."""
        if self.form == "channels first":
            return output
        if self.form == "channels last":
            return output.permute(0, 3, 1, 2)
        return output[:, self.prefix :].transpose(1, 2).reshape(len(output), output.shape[2], *self.grid)

    def merge(self, output: Tensor, cells: Tensor) -> Tensor:
        """Return the output with its map replaced by `cells`, B D h w."""
        if self.form == "channels first":
            return cells
        if self.form == "channels last":
            return cells.permute(0, 2, 3, 1)
        return torch.cat([output[:, : self.prefix], cells.flatten(2).transpose(1, 2)], dim=1)


def layout_of(classifier: Classifier, output: Any) -> Layout | None:
    """Return the layout of a layer's output; None if it is not a feature map, or has a single cell.

    Of four axes, the two whose proportions match the image are its height and width. If both candidate pairs match,
    the network's own format decides.
    """
    if not isinstance(output, Tensor) or output.shape[:1] != (1,) or not output.is_floating_point():
        return None
    size, features = classifier.spec.size, classifier.features
    if output.ndim == 3 and isinstance(features, Backbone):
        return token_layout(features, output.shape[1], size)
    if output.ndim != 4:
        return None
    first, last = (output.shape[2], output.shape[3]), (output.shape[1], output.shape[2])
    prefers_last = getattr(getattr(features, "network", None), "output_fmt", "NCHW") == "NHWC"
    errors = {
        "channels first": (_aspect_error(first, size), prefers_last),
        "channels last": (_aspect_error(last, size), not prefers_last),
    }
    form = cast("Literal['channels first', 'channels last']", min(errors, key=lambda name: errors[name]))
    grid = first if form == "channels first" else last
    return Layout(form, grid) if errors[form][0] <= 1 and max(grid) > 1 else None


def _aspect_error(grid: tuple[int, int], size: tuple[int, int]) -> float:
    """Return the deviation of a grid from an image's aspect ratio, in cells."""
    return min(abs(grid[0] - grid[1] * size[0] / size[1]), abs(grid[1] - grid[0] * size[1] / size[0]))


def token_layout(backbone: Backbone, count: int, size: tuple[int, int]) -> Layout | None:
    """Return the layout of `count` tokens for an image of this size; None if they do not form a matching grid."""
    for prefix in dict.fromkeys((backbone.num_prefix_tokens, 0)):
        try:
            grid = backbone.token_grid(count - prefix, *size) if count > prefix else (1, 1)
        except ConfigError:
            continue
        if max(grid) > 1 and _aspect_error(grid, size) <= 1:
            return Layout("tokens", grid, prefix)
    return None


def last_feature_map(classifier: Classifier, image: Tensor, target: int) -> str | None:
    """Return the default layer of class-activation maps; None if no layer has a feature map.

    It is the last layer of the backbone whose map has at least `MIN_GRID` cells per side and influences the logit (the
    patch tokens after the last block do not if the head reads the class token). If all maps are coarser, the finest
    count. Layers inside a block that ends on a coarser map are skipped: they are not a stage of their own.

    Args:
        classifier: The network.
        image: 1 C H W in [0, 1].
        target: Index of the class.
    """
    maps: dict[str, tuple[Layout, Tensor]] = {}
    with eval_mode(classifier):
        width = _token_width(classifier, image)

        def record(name: str, output: Any) -> None:
            layout = layout_of(classifier, output)
            if layout is not None and output.requires_grad and _is_residual_stream(output, width):
                maps.pop(name, None)  # a layer that runs twice counts where it runs last
                maps[name] = (layout, output)

        with capture_outputs(_inner_layers(classifier), record):
            logits = classifier(input_leaf(image))
        if not maps or not logits.requires_grad:
            return None
        outputs = [output for _, output in maps.values()]
        gradients = torch.autograd.grad(logits[0, target], outputs, allow_unused=True)
    sides = {name: min(layout.grid) for name, (layout, _) in maps.items()}
    influential = [
        name
        for (name, (layout, _)), gradient in zip(maps.items(), gradients, strict=True)
        if gradient is not None and bool(layout.split(gradient).any())
    ] or list(maps)  # the logit may be constant
    min_side = min(MIN_GRID, max(sides[name] for name in influential))
    fine = [name for name in influential if sides[name] >= min_side]
    coarse_blocks = {name for name, side in sides.items() if side < min_side and not _is_sequential(classifier, name)}
    stages = [name for name in fine if not any(name.startswith(f"{block}.") for block in coarse_blocks)]
    return (stages or fine)[-1]


def _is_sequential(classifier: Classifier, name: str) -> bool:
    return isinstance(classifier.get_submodule(name), nn.Sequential)


def _inner_layers(classifier: Classifier) -> list[tuple[str, nn.Module]]:
    return [(f"features.{name}", layer) for name, layer in classifier.features.named_modules() if name]


def _token_width(classifier: Classifier, image: Tensor) -> int | None:
    """Return D of the tokens that a backbone returns; None if it returns another form of map."""
    if not isinstance(classifier.features, Backbone):
        return None
    with torch.no_grad():
        output = classifier.features.network.forward_features(classifier.preprocess(image))  # type: ignore[operator]
    return output.shape[2] if isinstance(output, Tensor) and output.ndim == 3 else None


def _is_residual_stream(output: Tensor, token_width: int | None) -> bool:
    """Return whether an output has the shape of the residual stream; inside blocks there are other shapes."""
    return output.ndim == 4 if token_width is None else output.ndim == 3 and output.shape[2] == token_width
