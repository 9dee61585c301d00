"""Trainings whose backbone is frozen: its features are computed once and take the place of the images.

Shapes: N rows of the table, V views, F features, h x w cells of D features.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from tercet.config.model import ModelConfig
from tercet.config.run import MemberConfig
from tercet.config.training import TrainingConfig
from tercet.config.tta import TTAConfig
from tercet.core.history import EpochRow
from tercet.core.predictions import Predictions
from tercet.core.run_folder import MemberFolder, RunFolder
from tercet.core.types import BatchSource
from tercet.data.data_module import DataModule, Rows
from tercet.data.feature_cache import MAX_BYTES
from tercet.data.feature_table import FeatureTable
from tercet.data.loader import ImageLoader
from tercet.ensemble.member import Member, predict_together
from tercet.experiments.plan import Plan
from tercet.inference.features import ImageFeatures, features_fit, has_stored_features
from tercet.metrics.classification import Scorer
from tercet.models.classifier import Classifier
from tercet.models.encoder import AfterBackbone
from tercet.models.forward import predict, predict_logits
from tercet.models.registry import fitted_head, has_fitted_head
from tercet.models.tta import FeatureTTAModel, View, enlarged_input_spec, views_of
from tercet.training.callbacks import Callback, PhaseProgress, notify
from tercet.training.fitted_heads import Fitter, TrainingFeatures
from tercet.training.linear_heads import fit_logistic, fit_ridge
from tercet.training.losses import sample_weights
from tercet.training.multilabel_heads import MULTILABEL_FITTERS, TrainingLabelSets
from tercet.training.signals import StopSignal
from tercet.training.similarity_heads import fit_knn, fit_prototype

FITTERS: dict[str, Fitter] = {
    "logistic": fit_logistic,
    "ridge": fit_ridge,
    "prototype": fit_prototype,
    "knn": fit_knn,
}
"""Functions that fit a head to one class per image, by its name."""
_BATCH = 1024
INTERRUPTED = "the features that were computed are stored; continue with --resume"


@dataclass(frozen=True)
class FrozenBackbone:
    """A classifier with a frozen backbone, and the backbone's features of all images of a run."""

    classifier: Classifier
    """The whole network; its other parts are those of `module`."""
    config: ModelConfig
    """Options of the network."""
    head: str
    """Name of the head."""
    module: nn.Module
    """Maps features to logits."""
    features: FeatureTable
    """N F or N h w D; rows in no split are zero."""
    reader: RunFeatures

    @property
    def counts(self) -> dict[str, int]:
        """Numbers of features that this training computed, and of those that were stored."""
        return self.reader.images.cache.counts

    def of_views(self, rows: Rows, views: TTAConfig) -> FeatureTable | None:
        """Return the features of all views of some rows (N V F or N V h w D); other rows are zero.

        They are None if they are too large to be stored.
        """
        chosen = views_of(views, self.classifier.spec)
        if not features_fit(self.classifier, len(rows), len(chosen)):
            return None
        return self.reader.compute(self.classifier, self.config, rows, chosen)


@dataclass(frozen=True)
class RunFeatures:
    """The features of the images of a run by any network, with progress and an early stop.

    Args:
        images: The images.
        num_rows: N, number of rows of the table.
        observers: Their `on_phase` gets a `PhaseProgress` after each batch.
    """

    images: ImageFeatures
    num_rows: int
    observers: Sequence[Callback] = ()

    @classmethod
    def of(
        cls, plan: Plan, prepared: DataModule, run: RunFolder | None = None, observers: Sequence[Callback] = ()
    ) -> RunFeatures:
        """Return the features of the images of a run, whose digests are stored beside the decoded images."""
        workers, folder = plan.data_config.num_workers, None if run is None else run.path / plan.images
        return cls(ImageFeatures(prepared.images, plan.device, workers, folder), len(prepared.table), observers)

    def compute(
        self, classifier: Classifier, config: ModelConfig, rows: Rows, views: Sequence[View] | None = None
    ) -> FeatureTable:
        """Return the features of the backbone with its current weights (N V F or N V h w D); other rows are zero.

        Args:
            classifier: The network.
            config: Its options.
            rows: Rows of the table.
            views: V views (default: the whole image).

        Raises:
            Interrupted: A signal arrived; what was computed is stored.
        """
        with StopSignal() as stop:

            def on_batch(done: int, total: int) -> None:
                notify(self.observers, "on_phase", PhaseProgress("features", done, total))
                stop.raise_if_requested(INTERRUPTED)

            values = replace(self.images, on_batch=on_batch).compute(classifier, config, rows, views)
        return values.at(rows, self.num_rows)


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
    classifier: Classifier,
    member: MemberConfig,
    plan: Plan,
    prepared: DataModule,
    run: RunFolder | None = None,
    observers: Sequence[Callback] = (),
) -> FrozenBackbone | None:
    """Return the features of a frozen backbone; None if a part of it is trained, or images change at random.

    Args:
        classifier: The network.
        member: Its configuration.
        plan: The plan of the run.
        prepared: The data.
        run: The run, whose folder keeps the digests of the images.
        observers: Callbacks, which get the progress.

    Raises:
        Interrupted: A signal arrived; what was computed is stored.
    """
    if not has_fixed_images(member) or not has_stored_features(classifier):
        return None
    rows = np.sort(np.concatenate([prepared.rows(split) for split in ("train", "validation", "test")]))
    if not features_fit(classifier, len(rows)):
        warnings.warn(
            f"the feature maps of {len(rows):,} images are larger than the {MAX_BYTES / 1e9:g} GB of stored features: "
            f"{member.name} computes them in every epoch",
            stacklevel=2,
        )
        return None
    reader = RunFeatures.of(plan, prepared, run, observers)
    features = reader.compute(classifier, member.model, rows).view(0)
    head = fitted_head(member.network, member.model) or member.model.head
    return FrozenBackbone(classifier, member.model, head, AfterBackbone(classifier), features, reader)


def has_fixed_images(member: MemberConfig) -> bool:
    """Whether a member is trained on images that are not changed at random, as those of a fitted head are."""
    config = member.training
    random = config.augment != "none" or config.random_erasing or config.mixup or config.cutmix
    return not random or has_fitted_head(member.network, member.model)


def predict_members(
    members: Sequence[Member], plan: Plan, prepared: DataModule, rows: Rows, features: RunFeatures
) -> list[Predictions]:
    """Return the predictions of members for some rows, from features where the backbone is frozen."""
    classes, device, workers = plan.classes, plan.device, plan.data_config.num_workers
    others = [member for member in members if not _has_stored_views(member, len(rows))]
    predictions: dict[str, Predictions] = {}
    if others:
        specs = [enlarged_input_spec(member.classifier.spec, member.views) for member in others]
        source = prepared.loader(rows, specs, num_workers=workers)
        results = predict_together(others, source, classes=classes, device=device)
        predictions = dict(zip((member.name for member in others), results, strict=True))
    for member in members:
        if member.name not in predictions:
            classifier = member.classifier
            values = features.compute(classifier, member.config, rows, views_of(member.views, classifier.spec))
            source = prepared.loader(rows, (classifier.spec,)).with_features(values)
            model = FeatureTTAModel(AfterBackbone(classifier), member.views)
            predictions[member.name] = predict(model, source, classes=classes, device=device)
    return [predictions[member.name] for member in members]


def _has_stored_views(member: Member, num_images: int) -> bool:
    """Whether the features of all views of so many images are stored."""
    views = views_of(member.views, member.classifier.spec)
    return has_stored_features(member.classifier) and features_fit(member.classifier, num_images, len(views))


def counts_of(folders: Iterable[MemberFolder]) -> list[dict[str, int]]:
    """Return the numbers of features of finished members and their folds."""
    finished = (part for folder in folders for part in (folder, *folder.folds()) if part.finished())
    return [part.summary().get("features", {}) for part in finished]


def sum_counts(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Return the total numbers of computed and reused features."""
    parts = list(counts)
    return {key: sum(part.get(key, 0) for part in parts) for key in ("computed", "reused")}


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
    multilabel = table.membership is not None
    kind, fitters = (TrainingLabelSets, MULTILABEL_FITTERS) if multilabel else (TrainingFeatures, FITTERS)
    data = kind(
        frozen.features[rows],
        prepared.table.targets(rows),
        frozen.classifier.num_classes,
        groups=table.groups,
        weights=sample_weights(config, table),
        seed=seed,
    )
    fitted = fitters[frozen.head](data)
    head = frozen.classifier.head
    head.load_state_dict({name: torch.from_numpy(value) for name, value in fitted.tensors.items()})
    with torch.inference_mode():
        logits = torch.cat([head(part) for part in torch.split(torch.from_numpy(data.features), _BATCH)])
    monitored = predict_logits(frozen.module, validation)
    scores = scorer(torch.from_numpy(monitored.values), torch.from_numpy(monitored.labels))
    return EpochRow(
        stage=0,
        epoch=0,
        step=0,
        rate=0.0,
        train_loss=float(data.row_losses(logits.numpy(), np.arange(len(rows))).mean()),
        train_accuracy=float(data.correct(logits.numpy()).mean()),
        validation=scores,
        seconds=time.monotonic() - start,
        best=True,
        note=fitted.note,
    )
