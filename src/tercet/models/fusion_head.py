"""The end-to-end ensemble (E2E-3M, Algorithm 1 of the paper): a small network over the members' softmax outputs.

Shapes: B images, M members, K classes, C channels, H x W pixels.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from tercet.core.errors import ConfigError
from tercet.models.layers import dense_layer


class FusionHead(nn.Module):
    """Linear, LeakyReLU, dropout, linear: member probabilities B M K to logits B K (Algorithm 1, steps 6-10).

    The members' probabilities are concatenated to B (M K). With `width` 4096 and three members there are 167,946
    parameters for 10 classes, 86,021 for 5 and 1,642,596 for 100.

    Args:
        num_members: M.
        num_classes: K.
        width: Width of the hidden layer (the paper's lambda); 0 is a single matrix without bias (equation 19).
        slope: Negative slope of the LeakyReLU.
        dropout: Dropout probability.
    """

    def __init__(
        self, num_members: int, num_classes: int, *, width: int = 4096, slope: float = 0.2, dropout: float = 0.5
    ) -> None:
        super().__init__()
        if min(num_members, num_classes) < 1 or width < 0:
            raise ConfigError(
                f"a fusion head needs members and classes, and a width of 0 or more: got {num_members} members, "
                f"{num_classes} classes, width {width}"
            )
        self.num_members, self.num_classes = num_members, num_classes
        self.width, self.slope, self.dropout = width, slope, dropout
        columns = num_members * num_classes
        layers: dict[str, nn.Module] = {"classes": dense_layer(columns, num_classes, bias=False)}
        if width:
            layers = {
                "dense": dense_layer(columns, width),
                "activation": nn.LeakyReLU(slope),
                "dropout": nn.Dropout(dropout),
                "classes": dense_layer(width, num_classes),
            }
        self.layers = nn.Sequential(OrderedDict(layers))

    def options(self) -> dict[str, Any]:
        """Return the keyword arguments of an equal head."""
        return {"width": self.width, "slope": self.slope, "dropout": self.dropout}

    def forward(self, probabilities: Tensor) -> Tensor:
        """Map member probabilities B M K to logits B K."""
        shape = tuple(probabilities.shape)
        if shape[1:] != (self.num_members, self.num_classes):
            raise ValueError(
                f"expected member probabilities of shape (B, {self.num_members}, {self.num_classes}), got {shape}"
            )
        return cast("Tensor", self.layers(probabilities.flatten(1)))  # B (M K)

    def from_logits(self, logits: Tensor) -> Tensor:
        """Map member logits B M K to logits B K; the softmax is taken in 32 bits."""
        return cast("Tensor", self(torch.softmax(logits.float(), 2)))


class EndToEnd(nn.Module):
    """Members and fusion head as one module from images to logits.

    Each branch has its own preprocessing. If `train_branches` is false, the branches are frozen: their parameters
    require no gradients, they stay in evaluation mode, and run without a graph, so that training leaves their weights
    and batch-norm statistics bit-identical.

    Args:
        branches: Members: modules from images to logits B K.
        head: Fusion head for as many members.
        train_branches: Whether the members are trained too; true does not change their `requires_grad`.
    """

    def __init__(self, branches: Sequence[nn.Module], head: FusionHead, *, train_branches: bool) -> None:
        super().__init__()
        if len(branches) != head.num_members:
            raise ConfigError(f"the fusion head takes {head.num_members} members, got {len(branches)}")
        counts = [getattr(branch, "num_classes", head.num_classes) for branch in branches]
        if any(count != head.num_classes for count in counts):
            raise ConfigError(f"the fusion head has {head.num_classes} classes, the members have {counts}")
        self.branches = nn.ModuleList(branches)
        self.head = head
        self.train_branches = train_branches
        if not train_branches:
            self.branches.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> EndToEnd:
        """Set the mode of the head, and of the branches if they are trained."""
        super().train(mode)
        if not self.train_branches:
            self.branches.eval()
        return self

    def members(self, images: Tensor | tuple[Tensor, ...]) -> Tensor:
        """Map images, B C H W for all branches or one such tensor per branch, to the members' logits B M K."""
        views = images if isinstance(images, tuple) else (images,) * len(self.branches)
        if len(views) != len(self.branches):
            raise ValueError(f"expected one tensor of images, or {len(self.branches)}, got {len(views)}")
        with torch.set_grad_enabled(self.train_branches and torch.is_grad_enabled()):
            return torch.stack([branch(view) for branch, view in zip(self.branches, views, strict=True)], 1)

    def joint(self, images: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Map images to the fused logits B K and the members' logits B M K, for a loss on both."""
        logits = self.members(images)
        return self.head.from_logits(logits), logits

    def forward(self, images: Tensor | tuple[Tensor, ...]) -> Tensor:
        """Map images, B C H W for all branches or one such tensor per branch, to the fused logits B K."""
        return self.joint(images)[0]
