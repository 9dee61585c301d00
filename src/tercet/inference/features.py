"""Features of images by frozen networks: each image and view is computed once for all commands.

Shapes: N images, B images of a batch, V views, F features, h x w cells of D features.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tercet.config.model import ModelConfig
from tercet.core.types import InputSpec
from tercet.data.feature_cache import BUCKETS, Compute, FeatureCache, can_hold
from tercet.data.feature_table import Features, FeatureTable
from tercet.data.image_cache import DIGESTS, CachedImages
from tercet.data.loader import ImageLoader
from tercet.data.pixel_digests import pixel_digests
from tercet.data.table import Ints
from tercet.models.backbone import Backbone, backbone_origin
from tercet.models.classifier import Classifier
from tercet.models.encoder import Encoder, encoder_key, has_map
from tercet.models.forward import evaluation_mode
from tercet.models.tta import View, extract, plain_view

BATCH = 64
"""Images of a batch, all views together: a signal stops after a batch."""
PLAIN = "plain"
"""Name of the view that is the whole image."""
_HALF_BYTES = 2


def _ignore(done: int, total: int) -> None:
    """Do nothing after a batch."""


@dataclass(frozen=True)
class ImageFeatures:
    """The features of some images, by any network."""

    images: CachedImages
    device: str = "cpu"
    num_workers: int = 0
    """Processes that decode images on demand."""
    folder: Path | None = None
    """Folder of the decoded images, where their digests are stored for further processes."""
    cache: FeatureCache = field(default_factory=FeatureCache)
    on_batch: Callable[[int, int], None] = _ignore
    """Called with the number of finished images and their total; it may raise an exception to stop."""

    def compute(
        self, classifier: Classifier, config: ModelConfig, rows: Ints, views: Sequence[View] | None = None
    ) -> FeatureTable:
        """Return the features of a network's backbone with its current weights (N V F, or N V h w D).

        Those of a feature map are in half precision, and read when they are used; vectors are in memory.

        Args:
            classifier: The network.
            config: Its options.
            rows: N rows of the images.
            views: V views, all of the same image size (default: the whole image).
        """
        views = [plain_view(classifier.spec)] if views is None else views
        encoder = Encoder(classifier, device=self.device)

        def compute(positions: Ints, missing: Sequence[int]) -> Iterator[Features]:
            chosen = [views[index] for index in missing]
            expected = BUCKETS * len(positions) * len(chosen)
            for values in encoder.encode(self._batches(rows[positions], chosen, classifier), expected=expected):
                yield values.reshape(-1, len(chosen), *values.shape[1:])

        if not classifier.features.state_dict():  # pixels, which are as fast to compute as to read
            return self._recompute(compute, len(rows), len(views))
        digests = pixel_digests(
            self.images,
            rows,
            file=None if self.folder is None else self.folder / DIGESTS,
            poll=lambda: self.on_batch(0, len(rows)),
        )
        names = [PLAIN if view == plain_view(classifier.spec) else str(view) for view in views]
        key, half = feature_key(classifier, config), has_map(classifier)
        features = self.cache.features(key, names, digests, compute, self.on_batch, half=half)
        return features if half else features.loaded()

    def _recompute(self, compute: Compute, num_images: int, num_views: int) -> FeatureTable:
        """Return features N V F that are not stored."""
        parts: list[Features] = []
        done = 0
        for part in compute(np.arange(num_images), range(num_views)):
            parts.append(part)
            done += len(part)
            self.on_batch(done, num_images)
        self.cache.computed += num_images * num_views
        return FeatureTable.of(np.concatenate(parts), axes=2)

    def _batches(self, rows: Ints, views: Sequence[View], classifier: Classifier) -> Iterator[Tensor]:
        """Yield all views of some images, image by image (B V, C h w)."""
        loader = ImageLoader(
            self.images,
            rows,
            ids=list(map(str, rows.tolist())),
            labels=None,
            num_classes=classifier.num_classes,
            specs=(replace(classifier.spec, size=views[0].image_size),),
            batch_size=max(1, BATCH // len(views)),
            num_workers=self.num_workers,
        )
        for batch in loader.epoch(0):
            assert isinstance(batch.images, Tensor)  # of one spec
            yield _extract_all(batch.images, views, classifier.spec)


def _extract_all(images: Tensor, views: Sequence[View], spec: InputSpec) -> Tensor:
    """Return all views of a batch of images, image by image (B V, C h w)."""
    if list(views) == [plain_view(spec)]:
        return images  # the network resizes them
    return torch.stack(list(extract(images, views, spec)), dim=1).flatten(0, 1)


def feature_key(classifier: Classifier, config: ModelConfig) -> str:
    """Return the key of a network's features: equal for equal weights, input and options of the backbone."""
    options = repr(config) if backbone_origin(classifier) is None else sorted(config.backbone.args.items())
    return encoder_key(classifier, options)


def has_stored_features(classifier: Classifier) -> bool:
    """Whether the features of an image never change and are stored.

    Those of a network of the caller's are not stored, since its code may change without its weights; nor are images
    that a network without a backbone reads row by row.
    """
    if not classifier.frozen_backbone or classifier.custom:
        return False
    return has_map(classifier) or _is_pooled(classifier)


def features_fit(classifier: Classifier, num_images: int, num_views: int = 1) -> bool:
    """Whether the features of so many images and views can be stored together; vectors can."""
    backbone = classifier.features
    if not isinstance(backbone, Backbone) or not has_map(classifier):
        return True
    return can_hold(num_images * num_views, _HALF_BYTES * math.prod(backbone.grid) * backbone.num_features)


def _is_pooled(classifier: Classifier) -> bool:
    """Whether the backbone maps an image to features F."""
    spec = classifier.spec
    with evaluation_mode(classifier, "cpu"), torch.inference_mode():
        images = classifier.preprocess(torch.zeros(1, spec.channels, *spec.size))
        return bool(classifier.features(images).ndim == 2)
