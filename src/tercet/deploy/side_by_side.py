"""Members side by side: one pass over the images, one stack of probabilities, and what a fusion head makes of it.

Shapes: N samples, B images, M members, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tercet.models.fusion import FusionHead
from tercet.records.predictions import Predictions


class SideBySide(nn.Module):
    """Networks side by side, so that every image is read once.

    Args:
        networks: M modules from images to logits B K.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, images: Tensor | tuple[Tensor, ...]) -> Tensor:
        """Return the members' logits one after the other, B (M K); images are one tensor, or one a member."""
        shown = images if isinstance(images, tuple) else (images,) * len(self.networks)
        return torch.cat([network(part) for network, part in zip(self.networks, shown, strict=True)], dim=1)


def stack_probabilities(members: Sequence[Predictions]) -> Tensor:
    """Return the members' probabilities N M K in 32 bits, in the order of the first one's samples and classes."""
    columns = [torch.from_numpy(member.aligned_to(members[0]).probabilities) for member in members]
    return torch.stack(columns, dim=1).float()


@torch.inference_mode()
def apply_head(head: FusionHead, members: Sequence[Predictions]) -> Predictions:
    """Return what a trained fusion head makes of the members' predictions."""
    first = members[0]
    logits = head.cpu().eval()(stack_probabilities(members))  # N K
    return Predictions.from_logits(logits.numpy(), ids=first.ids, classes=first.classes, labels=first.labels)
