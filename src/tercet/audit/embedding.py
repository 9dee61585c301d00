"""Network features of images in eight orientations, to find cropped, warped or relit duplicates.

N images, D features.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from tercet.audit.inspect import ORIENTATIONS, orient
from tercet.config.model import ModelConfig
from tercet.config.training import TrainingConfig
from tercet.core.errors import ConfigError
from tercet.core.runtime import choose_device
from tercet.data.decode import Pixels
from tercet.data.loader import prepare
from tercet.data.table import Ints, SampleTable
from tercet.models.build import build, check_network
from tercet.models.classifier import Classifier
from tercet.models.forward import evaluation_mode
from tercet.models.members import resolve_member
from tercet.models.registry import registered_network
from tercet.models.weight_check import check_weights

_BATCH = 8  # images; times eight orientations


def check_embedder(network: object) -> None:
    """Check that the features of a network come from trained weights only.

    Raises:
        ConfigError: The network does not exist, or has random weights.
        ModelError: The weights are not available.
    """
    member = resolve_member(network, ModelConfig(), TrainingConfig())
    name, config = member.network, member.model
    check_network(name, config)
    if config.weights is None and (not config.pretrained or registered_network(name) is not None):
        raise ConfigError(
            f"--feature-network {name} would compare features of random weights: use a timm backbone with published "
            "weights, or give `weights`, a file with the backbone's"
        )
    if config.recurrent != "none":
        raise ConfigError(
            f"--feature-network {name} would compare features of random recurrent weights: omit `recurrent`"
        )
    check_weights([member])


def build_embedder(network: object, *, channels: int, image_size: tuple[int, int] | None) -> Classifier:
    """Build a network (a name, a YAML file, or a mapping of `model` and its options) with its weights.

    Raises:
        ConfigError: The network or one of its options does not exist.
        ModelError: The weights are not available.
    """
    member = resolve_member(network, ModelConfig(), TrainingConfig())
    return build(member.network, num_classes=2, config=member.model, channels=channels, image_size=image_size)


def embed_images(
    network: Classifier,
    table: SampleTable,
    rows: Ints,
    *,
    max_pixels: int,
    device: str = "auto",
    orientations: Sequence[int] = range(len(ORIENTATIONS)),
) -> NDArray[np.float16]:
    """Return features of N rows of readable images with norm 1 (N, number of orientations, D)."""
    target = choose_device(device)
    parts = []
    with evaluation_mode(network, target):
        for start in range(0, len(rows), _BATCH):
            images = [_pixels(table, int(row), max_pixels) for row in rows[start : start + _BATCH]]
            inputs = [
                prepare(np.ascontiguousarray(orient(image, way)), network.spec)
                for image in images
                for way in orientations
            ]
            with torch.inference_mode():
                features = network.embed(torch.stack(inputs).to(target)).float().cpu()
            unit = functional.normalize(features, dim=1)  # avoids overflow in float16
            parts.append(unit.reshape(len(images), len(orientations), -1).numpy().astype(np.float16))
    return np.concatenate(parts)


def _pixels(table: SampleTable, row: int, max_pixels: int) -> Pixels:
    return table.source.pixels(table.locations[row], max_pixels=max_pixels)
