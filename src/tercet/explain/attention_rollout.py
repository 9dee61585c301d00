"""Attention rollout for vision transformers (Abnar and Zuidema, ACL 2020).

A block mixes tokens by its attention W (mean over heads) plus the residual connection: A = (W + I) / 2, whose rows sum
to 1. The product of all A, last block first, gives the share of each input token in each output token. It is the same
for every class, and ignores values, projections and MLPs.

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

_PATCH_POOLS = ("avg", "avgmax", "max", "")


@dataclass(frozen=True)
class Rollout:
    """Shares of the patches in the tokens that the head reads."""

    patches: Tensor
    """h w, shares."""
    rest: float
    """Share of the prefix tokens (class, distillation, registers); patches and rest sum to 1."""
    reads: str
    """Tokens that the head reads: class token, or all patches."""
    blocks: int
    """Number of attention layers that were multiplied."""
    matrix: Tensor
    """N N, output token by input token; rows sum to 1."""


def attention_rollout(classifier: Classifier, image: Tensor) -> Rollout:
    """Return the attention rollout of an image.

    Args:
        classifier: A timm vision transformer with any head.
        image: 1 C H W in [0, 1].

    Raises:
        UnsupportedExplanation: The network has no global attention among its patches.
    """
    weights = _attention_weights(classifier, image)
    features, layout = classifier.features, _layout(classifier, weights)
    if layout is None or not isinstance(features, Backbone):
        raise UnsupportedExplanation(
            f"'{classifier.network}' has no global attention among its patches (as ViT, DeiT, BEiT and EVA have), so "
            "attention rollout does not apply"
        )
    tokens, reads = _output_tokens(features)
    identity = torch.eye(weights[0].shape[2], device=image.device)
    matrix = identity
    for weight in weights:
        mixed = 0.5 * (weight[0].float().mean(0) + identity)  # N N
        matrix = (mixed / mixed.sum(1, keepdim=True)) @ matrix
    row = matrix[tokens].mean(0)
    patches = row[layout.prefix :].reshape(layout.grid)
    return Rollout(patches, float(row[: layout.prefix].sum()), reads, len(weights), matrix)


def _attention_weights(classifier: Classifier, image: Tensor) -> list[Tensor]:
    """Return the attention weights of all layers, in the order in which they run."""
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
    """Return the layout of the tokens; None if attention is local (windows) or the tokens are not an image grid."""
    shapes = {(len(weight), *weight.shape[2:]) if weight.ndim == 4 else () for weight in weights}
    if len(shapes) != 1 or not isinstance(classifier.features, Backbone):
        return None
    images, *sides = shapes.pop() or (0, 0, 1)
    layout = token_layout(classifier.features, sides[0], classifier.spec.size) if sides[0] == sides[1] else None
    is_global = layout is not None and images == 1 and layout.prefix == classifier.features.num_prefix_tokens
    return layout if is_global else None


def _output_tokens(backbone: Backbone) -> tuple[slice, str]:
    """Return the output tokens that the head reads, and their description."""
    pool, prefix = getattr(backbone.network, "global_pool", ""), backbone.num_prefix_tokens
    if backbone.read == "map" or pool in _PATCH_POOLS:
        return slice(prefix, None), "all patches"
    if pool != "token" or not prefix:
        raise UnsupportedExplanation(
            f"'{type(backbone.network).__name__}' uses attention pooling ({pool}), which attention rollout does not "
            "support; class-activation maps are available"
        )
    classes = prefix - int(getattr(backbone.network, "num_reg_tokens", 0) or 0)
    return slice(0, classes), "class token" if classes == 1 else "class and distillation token"


@contextmanager
def _without_fused_attention(layers: list[nn.Module]) -> Iterator[None]:
    """Turn fused attention off within the block: fused kernels do not expose the weights."""
    flags = [(layer, layer.fused_attn) for layer in layers if hasattr(layer, "fused_attn")]
    for layer, _ in flags:
        layer.fused_attn = False  # type: ignore[assignment]  # a flag of timm's
    try:
        yield
    finally:
        for layer, flag in flags:
            layer.fused_attn = flag
