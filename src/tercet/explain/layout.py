"""Where the cells of an image are in what a layer returns, and which layer is the last that has them.

A layer returns a map in one of three forms: B D h w, B h w D, or B N D tokens in raster order after those that stand
for no place. Shapes: B images (1 here), H x W pixels, h x w cells, N tokens, D features, K classes.
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
"""Cells a side that a map should have: with fewer it can hardly point anywhere."""


@dataclass(frozen=True)
class Layout:
    """How a layer returns its map."""

    form: Literal["channels first", "channels last", "tokens"]
    """The order of the axes."""
    grid: tuple[int, int]
    """h and w."""
    prefix: int = 0
    """Tokens before those of the grid."""

    def split(self, output: Tensor) -> Tensor:
        """Return the map B D h w of a layer's output."""
        if self.form == "channels first":
            return output
        if self.form == "channels last":
            return output.permute(0, 3, 1, 2)
        return output[:, self.prefix :].transpose(1, 2).reshape(len(output), output.shape[2], *self.grid)

    def merge(self, output: Tensor, cells: Tensor) -> Tensor:
        """Return the output with another map B D h w in it."""
        if self.form == "channels first":
            return cells
        if self.form == "channels last":
            return cells.permute(0, 2, 3, 1)
        return torch.cat([output[:, : self.prefix], cells.flatten(2).transpose(1, 2)], dim=1)


def layout_of(classifier: Classifier, output: Any) -> Layout | None:
    """Return how a layer's output holds a map of the image; None where it is none, or has one cell.

    Of four axes those two are the image's whose proportions are; where both pairs are, the network's own form decides.

    Args:
        classifier: The network.
        output: What one of its layers returned.
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
        "channels first": (_slant(first, size), prefers_last),
        "channels last": (_slant(last, size), not prefers_last),
    }
    form = cast("Literal['channels first', 'channels last']", min(errors, key=lambda each: errors[each]))
    grid = first if form == "channels first" else last
    return Layout(form, grid) if errors[form][0] <= 1 and max(grid) > 1 else None


def _slant(grid: tuple[int, int], size: tuple[int, int]) -> float:
    """Return by how many cells a grid misses the proportions of an image."""
    return min(abs(grid[0] - grid[1] * size[0] / size[1]), abs(grid[1] - grid[0] * size[1] / size[0]))


def token_layout(backbone: Backbone, count: int, size: tuple[int, int]) -> Layout | None:
    """Return how tokens hold a map of an image of this size; None where they are no grid with its proportions."""
    prefix = backbone.num_prefix_tokens
    for skipped in dict.fromkeys((prefix, 0)):
        try:
            grid = backbone.token_grid(count - skipped, *size) if count > skipped else (1, 1)
        except ConfigError:
            continue
        if max(grid) > 1 and _slant(grid, size) <= 1:
            return Layout("tokens", grid, skipped)
    return None


def last_feature_map(classifier: Classifier, image: Tensor, target: int) -> str | None:
    """Return the layer to which a class-activation map belongs; None where no layer has a map.

    It is the last layer of the backbone whose map has at least `MIN_GRID` cells a side and takes part in the logit:
    what a class token leaves behind in the other tokens of the last block does not. Where none is as fine, the finest
    there are count. A block that ends on a coarser map is not looked into: its beginning is no stage of its own.

    Args:
        classifier: The network.
        image: 1 C H W in [0, 1].
        target: The class, below K.
    """
    found: dict[str, tuple[Layout, Tensor]] = {}
    with eval_mode(classifier):
        width = _token_width(classifier, image)

        def note(name: str, output: Any) -> None:
            layout = layout_of(classifier, output)
            if layout is not None and output.requires_grad and _is_handed_on(output, width):
                found.pop(name, None)
                found[name] = (layout, output)

        with capture_outputs(_inner_layers(classifier), note):
            logits = classifier(input_leaf(image))
        if not found or not logits.requires_grad:
            return None
        outputs = [output for _, output in found.values()]
        gradients = torch.autograd.grad(logits[0, target], outputs, allow_unused=True)
    sides = {name: min(layout.grid) for name, (layout, _) in found.items()}
    reaching = [
        name
        for (name, (layout, _)), gradient in zip(found.items(), gradients, strict=True)
        if gradient is not None and bool(layout.split(gradient).any())
    ] or list(found)  # a logit may depend on nothing
    enough = min(MIN_GRID, max(sides[name] for name in reaching))
    fine = [name for name in reaching if sides[name] >= enough]
    blocks = {name for name, side in sides.items() if side < enough and not _is_list(classifier, name)}
    whole = [name for name in fine if not any(name.startswith(f"{block}.") for block in blocks)]
    return (whole or fine)[-1]


def _is_list(classifier: Classifier, name: str) -> bool:
    """Tell whether a layer only runs others one after the other, so that each may stand for itself."""
    return isinstance(classifier.get_submodule(name), nn.Sequential)


def _inner_layers(classifier: Classifier) -> list[tuple[str, nn.Module]]:
    return [(f"features.{name}", layer) for name, layer in classifier.features.named_modules() if name]


def _token_width(classifier: Classifier, image: Tensor) -> int | None:
    """Return D of the tokens that a backbone hands on; None where it hands on another form of map."""
    if not isinstance(classifier.features, Backbone):
        return None
    with torch.no_grad():
        output = classifier.features.network.forward_features(classifier.preprocess(image))  # type: ignore[operator]
    return output.shape[2] if isinstance(output, Tensor) and output.ndim == 3 else None


def _is_handed_on(output: Tensor, token_width: int | None) -> bool:
    """Tell whether an output is of the form that runs through the network: within blocks there are others."""
    return output.ndim == 4 if token_width is None else output.ndim == 3 and output.shape[2] == token_width
