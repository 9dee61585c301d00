"""What a network makes of images in their eight orientations, for finding copies that are cropped, warped or relit.

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
from tercet.models.build import build, check_network, check_weights
from tercet.models.classifier import Classifier
from tercet.models.forward import evaluation_mode
from tercet.models.members import resolve_member
from tercet.models.registry import registered_network

_BATCH = 8  # images at a time, eight orientations each


def check_embedder(network: object) -> None:
    """Refuse a network whose features would tell nothing, before any work.

    Raises:
        ConfigError: There is no such network, or not all of what makes its features has learnt.
        ModelError: Its weights are not there.
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
    check_weights(name, config)


def build_embedder(network: object, *, channels: int, image_size: tuple[int, int] | None) -> Classifier:
    """Build the network whose features are compared, with its weights.

    Args:
        network: A name, a YAML file, or a mapping of `model` and its options.
        channels: Channels of the data's images.
        image_size: Their height and width, where they have one size.

    Raises:
        ConfigError: There is no such network, or options that do not fit it.
        ModelError: Its weights are not there.
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
    ways: Sequence[int] = range(len(ORIENTATIONS)),
) -> NDArray[np.float16]:
    """Return the features of some images in some orientations, of length 1 (N ways D).

    Args:
        network: Maps images to features.
        table: The samples.
        rows: N positions in it, of images that can be read.
        max_pixels: Largest image that is decoded.
        device: Where to compute.
        ways: Indices of `ORIENTATIONS`.
    """
    place = choose_device(device)
    parts = []
    with evaluation_mode(network, place):
        for start in range(0, len(rows), _BATCH):
            some = [_pixels(table, int(row), max_pixels) for row in rows[start : start + _BATCH]]
            views = [prepare(np.ascontiguousarray(orient(one, way)), network.spec) for one in some for way in ways]
            with torch.inference_mode():
                features = network.embed(torch.stack(views).to(place)).float().cpu()
            unit = functional.normalize(features, dim=1)  # the largest features would overflow halves
            parts.append(unit.reshape(len(some), len(ways), -1).numpy().astype(np.float16))
    return np.concatenate(parts)


def _pixels(table: SampleTable, row: int, max_pixels: int) -> Pixels:
    return table.source.pixels(table.locations[row], max_pixels=max_pixels)
