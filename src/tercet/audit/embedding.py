"""Network features of images in eight orientations, to find cropped, warped or relit duplicates.

N images, D features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from tercet.config.model import ModelConfig
from tercet.config.training import TrainingConfig
from tercet.core.errors import ConfigError
from tercet.core.runtime import choose_device
from tercet.data.feature_cache import BUCKETS, FeatureCache
from tercet.data.feature_table import Features
from tercet.data.loader import prepare
from tercet.data.perceptual_hashes import ORIENTATIONS, orient
from tercet.data.pixel_values import Pixels
from tercet.data.table import Ints, SampleTable
from tercet.inference.features import PLAIN, feature_key
from tercet.models.build import build, check_network
from tercet.models.classifier import Classifier
from tercet.models.encoder import Encoder
from tercet.models.members import resolve_member
from tercet.models.registry import registered_network
from tercet.models.weight_check import check_weights

_BATCH = 8  # images; times eight orientations
_CHUNK = 4096  # images whose features are in memory in single precision
_VIEWS = (PLAIN, *(f"orientation{way}" for way in range(1, len(ORIENTATIONS))))
_SMALLEST_NORM = 1e-12


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
    if config.recurrent != "none" or config.reads_map:
        raise ConfigError(
            f"--feature-network {name} would compare features of random weights: omit `recurrent` and head attention"
        )
    check_weights([member])


@dataclass(frozen=True)
class Embedder:
    """A network whose features are compared."""

    classifier: Classifier
    config: ModelConfig
    cache: FeatureCache = field(default_factory=FeatureCache)
    """Stored features, and the numbers of computed and reused ones."""


def build_embedder(network: object, *, channels: int, image_size: tuple[int, int] | None) -> Embedder:
    """Build a network (a name, a YAML file, or a mapping of `model` and its options) with its weights.

    Raises:
        ConfigError: The network or one of its options does not exist.
        ModelError: The weights are not available.
    """
    member = resolve_member(network, ModelConfig(), TrainingConfig())
    classifier = build(member.network, num_classes=2, config=member.model, channels=channels, image_size=image_size)
    return Embedder(classifier, member.model)


def embed_images(
    embedder: Embedder,
    table: SampleTable,
    rows: Ints,
    digests: Sequence[bytes],
    *,
    max_pixels: int,
    device: str = "auto",
) -> NDArray[np.float16]:
    """Return features of N rows of readable images with norm 1 (N, number of orientations, D).

    Args:
        embedder: The network.
        table: The images.
        rows: N rows of it.
        digests: N digests of the pixels; stored features of other commands are used.
        max_pixels: Largest number of pixels of an image.
        device: Where to compute.
    """
    classifier = embedder.classifier
    encoder = Encoder(classifier, device=choose_device(device))
    parts = []
    for start in range(0, len(rows), _CHUNK):
        chunk = rows[start : start + _CHUNK]

        def compute(positions: Ints, ways: Sequence[int], chunk: Ints = chunk) -> Iterator[Features]:
            batches = (
                torch.stack(
                    [
                        prepare(np.ascontiguousarray(orient(image, way)), classifier.spec)
                        for image in (_pixels(table, row, max_pixels) for row in batch.tolist())
                        for way in ways
                    ]
                )
                for batch in np.split(chunk[positions], range(_BATCH, len(positions), _BATCH))
            )
            for values in encoder.encode(batches, expected=BUCKETS * len(positions) * len(ways)):
                yield values.reshape(-1, len(ways), values.shape[1])

        features = embedder.cache.features(
            feature_key(classifier, embedder.config), _VIEWS, digests[start : start + _CHUNK], compute
        )[:]
        norms = np.linalg.norm(features, axis=2, keepdims=True)
        parts.append((features / np.maximum(norms, _SMALLEST_NORM)).astype(np.float16))  # does not overflow in float16
    return np.concatenate(parts)


def _pixels(table: SampleTable, row: int, max_pixels: int) -> Pixels:
    return table.source.pixels(table.locations[row], max_pixels=max_pixels)
