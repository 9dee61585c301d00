"""Trainings whose backbone is frozen: its features are computed once and take the place of the images.

Shapes: N rows of the table, F features.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from tercet.config.run import MemberConfig
from tercet.config.training import TrainingConfig
from tercet.core.history import EpochRow
from tercet.core.types import BatchSource
from tercet.data.data_module import DataModule, Rows
from tercet.data.feature_cache import FeatureCache, Features, pixel_digests
from tercet.data.loader import ImageLoader
from tercet.experiments.plan import Plan
from tercet.metrics.classification import Scorer
from tercet.models.classifier import Classifier
from tercet.models.encoder import AfterBackbone, Encoder, encoder_key
from tercet.models.forward import predict_logits
from tercet.models.registry import fitted_head, has_fitted_head
from tercet.training.fitted_heads import Fitter, TrainingFeatures
from tercet.training.linear_heads import fit_logistic, fit_ridge
from tercet.training.losses import sample_weights
from tercet.training.similarity_heads import fit_knn, fit_prototype

FITTERS: dict[str, Fitter] = {
    "logistic": fit_logistic,
    "ridge": fit_ridge,
    "prototype": fit_prototype,
    "knn": fit_knn,
}
"""Functions that fit a head, by its name."""
_BATCH = 1024


@dataclass(frozen=True)
class FrozenBackbone:
    """A classifier with a frozen backbone, and the backbone's features of all images of a run."""

    classifier: Classifier
    """The whole network; its other parts are those of `module`."""
    module: nn.Module
    """Maps features to logits."""
    features: Features
    """N F; rows in no split are zero."""
    computed: int
    """Features that this training computed."""
    reused: int
    """Features that were stored."""
    head: str
    """Name of the head."""


def without_backbone(
    classifier: Classifier, loader: ImageLoader, frozen: FrozenBackbone | None
) -> tuple[nn.Module, ImageLoader]:
    """Return what maps the batches of a loader to logits, and that loader; if there are features, they are its batches.

    Args:
        classifier: The network.
        loader: Loads images of `classifier.spec`, without random changes.
        frozen: The features of the images.
    """
    return (classifier, loader) if frozen is None else (frozen.module, loader.with_features(frozen.features))


def frozen_backbone(
    classifier: Classifier, member: MemberConfig, plan: Plan, prepared: DataModule
) -> FrozenBackbone | None:
    """Return the features of a frozen backbone; None if a part of it is trained, or images change at random.

    The features of networks of the caller's are not stored, since their code may change without their weights.
    """
    config = member.training
    random = config.augment != "none" or config.random_erasing or config.mixup or config.cutmix
    if has_fitted_head(member.network, member.model):
        random = False  # fitted on the images as they are
    if plan.multilabel or classifier.custom or random or not classifier.frozen_backbone:
        return None
    rows = np.sort(np.concatenate([prepared.rows(split) for split in ("train", "validation", "test")]))
    first = prepared.loader(rows[:1], (classifier.spec,))
    with torch.inference_mode():
        images = next(iter(first.epoch(0))).images
        assert isinstance(images, torch.Tensor)  # one spec
        if classifier.eval().features(classifier.preprocess(images)).ndim != 2:
            return None  # a feature map for a scan: larger than the images
    arguments, workers = sorted(member.model.backbone.args.items()), plan.data_config.num_workers
    cache = FeatureCache()
    values = cached_features(classifier, prepared, rows, cache, arguments, device=plan.device, num_workers=workers)
    features: Features = np.zeros((len(prepared.table), values.shape[1]), dtype=np.float32)
    features[rows] = values
    head = fitted_head(member.network, member.model) or member.model.head
    return FrozenBackbone(classifier, AfterBackbone(classifier), features, cache.computed, cache.reused, head)


def cached_features(
    classifier: Classifier,
    prepared: DataModule,
    rows: Rows,
    cache: FeatureCache,
    arguments: object,
    *,
    device: str,
    num_workers: int = 0,
) -> Features:
    """Return the features of a network's backbone for some rows; those that are not stored are computed.

    Args:
        classifier: The network.
        prepared: The data.
        rows: N rows.
        cache: Stores the features, and counts them.
        arguments: Options of the backbone that change the computation but not the weights.
        device: Where to compute.
        num_workers: Decoding processes, if images are decoded on demand.
    """
    encoder = Encoder(classifier, device=device, expected=len(rows))
    return cache.features(
        encoder_key(classifier, arguments),
        pixel_digests(prepared.images, rows),
        lambda positions: encoder.encode(prepared.loader(rows[positions], (classifier.spec,), num_workers=num_workers)),
    )


def fit_head(
    frozen: FrozenBackbone,
    prepared: DataModule,
    rows: Rows,
    validation: BatchSource,
    *,
    config: TrainingConfig,
    scorer: Scorer,
    seed: int,
) -> EpochRow:
    """Fit the head on training rows and set it in the classifier.

    Args:
        frozen: The features.
        prepared: The data.
        rows: Training rows.
        validation: Batches of features of the monitored rows.
        config: Class weights.
        scorer: Scores the monitored rows.
        seed: Seed of the cross-validation that chooses settings such as the penalty.

    Returns:
        The only row of the training's history.
    """
    start = time.monotonic()
    table = prepared.table.take(rows)
    fitted = FITTERS[frozen.head](
        TrainingFeatures(
            frozen.features[rows],
            table.labels,
            frozen.classifier.num_classes,
            groups=table.groups,
            weights=sample_weights(config, table),
            seed=seed,
        )
    )
    head = frozen.classifier.head
    head.load_state_dict({name: torch.from_numpy(value) for name, value in fitted.tensors.items()})
    features, labels = torch.from_numpy(frozen.features[rows]), torch.from_numpy(table.labels)
    with torch.inference_mode():
        logits = torch.cat([head(part) for part in torch.split(features, _BATCH)])
    monitored = predict_logits(frozen.module, validation)
    scores = scorer(torch.from_numpy(monitored.values), torch.from_numpy(monitored.labels))
    return EpochRow(
        stage=0,
        epoch=0,
        step=0,
        rate=0.0,
        train_loss=float(nn.functional.cross_entropy(logits, labels)),
        train_accuracy=float((logits.argmax(dim=1) == labels).float().mean()),
        validation=scores,
        seconds=time.monotonic() - start,
        best=True,
        note=fitted.note,
    )
