"""What a comparison asks of a finished member beside its predictions: training accuracy, and how fast it predicts."""

from __future__ import annotations

from typing import Any

from tercet.evaluation.metrics import score
from tercet.evaluation.predict import predict
from tercet.evaluation.speed import images_per_second
from tercet.models.classifier import Classifier
from tercet.workflows.train.plan import Plan
from tercet.workflows.train.prepared import PreparedData

SPEED_BATCH = 64
"""Images a forward pass, at most, where prediction is timed."""


def measure_member(classifier: Classifier, plan: Plan, prepared: PreparedData) -> dict[str, Any]:
    """Return `train_accuracy` (best weights, evaluation mode, images as they are) and `images_per_second`."""
    workers, specs = plan.data_config.num_workers, (classifier.spec,)
    learned = prepared.loader(prepared.rows("train"), specs, num_workers=workers)
    said = predict(classifier, learned, classes=plan.classes, device=plan.device)
    some = prepared.loader(prepared.rows("validation")[:SPEED_BATCH], specs)
    return {
        "train_accuracy": score(said).accuracy,
        "images_per_second": images_per_second(classifier, next(iter(some.epoch(0))), device=plan.device),
    }
