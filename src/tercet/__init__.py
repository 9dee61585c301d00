"""Tercet: train an ensemble of image classifiers from a folder of images, and deploy it.

Public names are imported on first use, so that `import tercet` is fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tercet.deploy.bundle import Bundle as Bundle
    from tercet.deploy.bundle import load_bundle as load_bundle
    from tercet.deploy.exported import ExportedModel as ExportedModel
    from tercet.ground.errors import TercetError as TercetError
    from tercet.models.build import build as build
    from tercet.records.label_sets import SetPredictions as SetPredictions
    from tercet.records.predictions import Predictions as Predictions
    from tercet.records.submissions import write_submission as write_submission
    from tercet.workflows.audit.run import audit_data as audit_data
    from tercet.workflows.compare.run import compare as compare
    from tercet.workflows.crossval.run import crossval as crossval
    from tercet.workflows.explain.run import explain_images as explain_images
    from tercet.workflows.infer.run import evaluate as evaluate
    from tercet.workflows.infer.run import predict as predict
    from tercet.workflows.inspect import describe_dataset as describe_dataset
    from tercet.workflows.inspect import describe_model as describe_model
    from tercet.workflows.inspect import list_datasets as list_datasets
    from tercet.workflows.inspect import list_models as list_models
    from tercet.workflows.report.run import write_report as write_report
    from tercet.workflows.runs import runs as runs
    from tercet.workflows.ship.benchmark_model import benchmark as benchmark
    from tercet.workflows.ship.export import export_model as export_model
    from tercet.workflows.ship.verify import verify as verify
    from tercet.workflows.study.run import reproduce as reproduce
    from tercet.workflows.train.demo import demo as demo
    from tercet.workflows.train.ensemble import combine as combine
    from tercet.workflows.train.run import train as train
    from tercet.workflows.tune.run import tune as tune

__version__ = "0.1.0"

_HOMES = {
    "Bundle": "deploy.bundle",
    "ExportedModel": "deploy.exported",
    "Predictions": "records.predictions",
    "SetPredictions": "records.label_sets",
    "TercetError": "ground.errors",
    "audit_data": "workflows.audit.run",
    "benchmark": "workflows.ship.benchmark_model",
    "build": "models.build",
    "combine": "workflows.train.ensemble",
    "compare": "workflows.compare.run",
    "crossval": "workflows.crossval.run",
    "demo": "workflows.train.demo",
    "describe_dataset": "workflows.inspect",
    "describe_model": "workflows.inspect",
    "evaluate": "workflows.infer.run",
    "explain_images": "workflows.explain.run",
    "export_model": "workflows.ship.export",
    "list_datasets": "workflows.inspect",
    "list_models": "workflows.inspect",
    "load_bundle": "deploy.bundle",
    "predict": "workflows.infer.run",
    "reproduce": "workflows.study.run",
    "runs": "workflows.runs",
    "train": "workflows.train.run",
    "tune": "workflows.tune.run",
    "verify": "workflows.ship.verify",
    "write_report": "workflows.report.run",
    "write_submission": "records.submissions",
}

__all__ = sorted(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'tercet' has no attribute '{name}'")
    return getattr(importlib.import_module(f"tercet.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
