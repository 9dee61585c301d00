"""Tercet: train an ensemble of image classifiers from a folder of images, and deploy it.

Public names are imported on first use, so that `import tercet` is fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tercet.audit.run import audit_data as audit_data
    from tercet.core.errors import TercetError as TercetError
    from tercet.core.multilabel import MultilabelPredictions as MultilabelPredictions
    from tercet.core.predictions import Predictions as Predictions
    from tercet.core.registry import register as register
    from tercet.core.submissions import write_submission as write_submission
    from tercet.core.types import InputSpec as InputSpec
    from tercet.ensemble.bundle import Bundle as Bundle
    from tercet.ensemble.bundle import load_bundle as load_bundle
    from tercet.estimator.classifier import TercetClassifier as TercetClassifier
    from tercet.experiments.catalog import describe_dataset as describe_dataset
    from tercet.experiments.catalog import describe_model as describe_model
    from tercet.experiments.catalog import list_datasets as list_datasets
    from tercet.experiments.catalog import list_models as list_models
    from tercet.experiments.compare import compare as compare
    from tercet.experiments.crossval import crossval as crossval
    from tercet.experiments.embed import embed as embed
    from tercet.experiments.embed import search as search
    from tercet.experiments.ensemble import combine as combine
    from tercet.experiments.reproduce import reproduce as reproduce
    from tercet.experiments.runs import runs as runs
    from tercet.experiments.train import demo as demo
    from tercet.experiments.train import probe as probe
    from tercet.experiments.train import train as train
    from tercet.experiments.tune import tune as tune
    from tercet.explain.explain import explain_images as explain_images
    from tercet.export.benchmark import benchmark as benchmark
    from tercet.export.export import export_model as export_model
    from tercet.export.verify import verify as verify
    from tercet.inference.evaluate import evaluate as evaluate
    from tercet.inference.onnx_model import OnnxModel as OnnxModel
    from tercet.inference.predict import predict as predict
    from tercet.models.build import build as build
    from tercet.report.run import write_report as write_report

__version__ = "0.1.0"

# name -> module below `tercet`
_MODULES = {
    "Bundle": "ensemble.bundle",
    "InputSpec": "core.types",
    "MultilabelPredictions": "core.multilabel",
    "OnnxModel": "inference.onnx_model",
    "Predictions": "core.predictions",
    "TercetClassifier": "estimator.classifier",
    "TercetError": "core.errors",
    "audit_data": "audit.run",
    "benchmark": "export.benchmark",
    "build": "models.build",
    "combine": "experiments.ensemble",
    "compare": "experiments.compare",
    "crossval": "experiments.crossval",
    "demo": "experiments.train",
    "describe_dataset": "experiments.catalog",
    "describe_model": "experiments.catalog",
    "embed": "experiments.embed",
    "evaluate": "inference.evaluate",
    "explain_images": "explain.explain",
    "export_model": "export.export",
    "list_datasets": "experiments.catalog",
    "list_models": "experiments.catalog",
    "load_bundle": "ensemble.bundle",
    "predict": "inference.predict",
    "probe": "experiments.train",
    "register": "core.registry",
    "reproduce": "experiments.reproduce",
    "runs": "experiments.runs",
    "search": "experiments.embed",
    "train": "experiments.train",
    "tune": "experiments.tune",
    "verify": "export.verify",
    "write_report": "report.run",
    "write_submission": "core.submissions",
}

__all__ = sorted(_MODULES)  # pyright: ignore[reportUnsupportedDunderAll]

_PACKAGES = ("ensemble", "metrics")
"""Sub-packages imported on first access: `tercet.ensemble.average`, `tercet.metrics.score`."""


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return importlib.import_module(f"tercet.{name}")
    if name not in _MODULES:
        raise AttributeError(f"module 'tercet' has no attribute '{name}'")
    return getattr(importlib.import_module(f"tercet.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
