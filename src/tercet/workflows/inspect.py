"""What there is: networks and data sets, described without training anything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch

from tercet.data.catalog import DATASETS
from tercet.models.build import build, network_descriptions
from tercet.models.fusion import FusionHead
from tercet.models.summary import summarize
from tercet.records.config import FusionConfig, ModelConfig

FUSION_HEAD = "e2e"


@dataclass(frozen=True)
class InspectConfig:
    """What the network is for."""

    classes: int = 1000
    """Number of classes."""
    image_size: tuple[int, ...] = (224,)
    """Height and width of the data's images, or one number for a square; `--input.size` sets what the network reads."""
    channels: int = 3
    """Channels of the data's images."""
    members: int = 3
    """Members of a fusion head."""
