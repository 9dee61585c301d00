"""Attention roll-out: from which patches a vision transformer's answer is mixed (Abnar and Zuidema, ACL 2020).

A block mixes tokens by its attention W (the mean over heads) and adds what was there: A = (W + I) / 2, whose rows sum
to 1. The product of all blocks, last first, says for every token at the end from which tokens at the beginning it is
mixed. It is the same for every class, and ignores what values, projections and dense layers do.

Shapes: B images (1 here), N tokens, h x w patches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tercet.explain.hooks import UnsupportedExplanation, capture_outputs, eval_mode
from tercet.explain.layout import Layout, token_layout
from tercet.models.backbone import Backbone
from tercet.models.classifier import Classifier

_READS_ALL = ("avg", "avgmax", "max", "")


@dataclass(frozen=True)
class Rollout:
    """From which patches a transformer's answer is mixed."""

    patches: Tensor
    """h w, shares."""
    rest: float
    """Share of the tokens that stand for no place; patches and rest sum to 1."""
    reads: str
    """Which tokens the answer is read from: class token, or all patches."""
    blocks: int
    """Attention layers that were multiplied."""
    matrix: Tensor
    """N N, rows sum to 1: token at the end by token at the beginning."""


def attention_rollout(classifier: Classifier, image: Tensor) -> Rollout:
    """Return the attention roll-out of an image.

    Args:
        classifier: A timm vision transformer with anything behind it.
        image: 1 C H W in [0, 1].

    Raises:
        NotOffered: The network does not let all patches attend to each other.
    """
    weights = _attention_weights(classifier, image)
    features, layout = classifier.features, _layout(classifier, weights)
    if layout is None or not isinstance(features, Backbone):
        raise UnsupportedExplanation(
            f"'{classifier.network}' has no attention over all its patches (as ViT, DeiT, BEiT and EVA have), so there "
            "is nothing to roll out"
        )
    tokens, reads = _readers(features)
    identity = torch.eye(weights[0].shape[2], device=image.device)
    matrix = identity
    for weight in weights:
        mixed = 0.5 * (weight[0].float().mean(0) + identity)  # N N
        matrix = (mixed / mixed.sum(1, keepdim=True)) @ matrix
    row = matrix[tokens].mean(0)
    patches = row[layout.prefix :].reshape(layout.grid)
    return Rollout(patches, float(row[: layout.prefix].sum()), reads, len(weights), matrix)


def _attention_weights(classifier: Classifier, image: Tensor) -> list[Tensor]:
    """Return what the attention layers multiply values with, in the order in which they run."""
    layers = [part for part in classifier.features.modules() if isinstance(getattr(part, "attn_drop", None), nn.Module)]
    drops = [("", layer.get_submodule("attn_drop")) for layer in layers]
    weights: list[Tensor] = []
    with (
        eval_mode(classifier),
        torch.no_grad(),
        _without_fused_attention(layers),
        capture_outputs(drops, lambda name, output: weights.append(output)),
    ):
        classifier(image)
    return weights


def _layout(classifier: Classifier, weights: Sequence[Tensor]) -> Layout | None:
    """Return how the tokens that attend to each other hold the image; None where some see only a part of it."""
    shapes = {(len(weight), *weight.shape[2:]) if weight.ndim == 4 else () for weight in weights}
    if len(shapes) != 1 or not isinstance(classifier.features, Backbone):
        return None
    images, *square = shapes.pop() or (0, 0, 1)
    layout = token_layout(classifier.features, square[0], classifier.spec.size) if square[0] == square[1] else None
    whole = layout is not None and images == 1 and layout.prefix == classifier.features.num_prefix_tokens
    return layout if whole else None


def _readers(backbone: Backbone) -> tuple[slice, str]:
    """Return which tokens at the end the answer is read from."""
    pool, prefix = getattr(backbone.network, "global_pool", ""), backbone.num_prefix_tokens
    if backbone.read == "map" or pool in _READS_ALL:
        return slice(prefix, None), "all patches"
    if pool != "token" or not prefix:
        raise UnsupportedExplanation(
            f"'{type(backbone.network).__name__}' pools its tokens by an attention of its own ({pool}), which roll-out "
            "does not follow; class-activation maps are offered"
        )
    classes = prefix - int(getattr(backbone.network, "num_reg_tokens", 0) or 0)
    return slice(0, classes), "class token" if classes == 1 else "class and distillation token"


@contextmanager
def _without_fused_attention(layers: list[nn.Module]) -> Iterator[None]:
    """Within the block attention layers compute their weights, which fused kernels never show."""
    fused = [(layer, layer.fused_attn) for layer in layers if hasattr(layer, "fused_attn")]
    for layer, _ in fused:
        layer.fused_attn = False  # type: ignore[assignment]  # a flag of timm's
    try:
        yield
    finally:
        for layer, before in fused:
            layer.fused_attn = before
