"""Tercet: from a folder of images to one fused, measured, deployable classifier.

Public names are found on first use, so that `import tercet` costs nothing: the numerical libraries are imported by
the first name that needs them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tercet.deploy.bundle import Bundle as Bundle
    from tercet.deploy.bundle import load_bundle as load_bundle
    from tercet.deploy.exported import ExportedModel as ExportedModel
    from tercet.evaluation.combining import average as average
    from tercet.evaluation.combining import pruned as pruned
    from tercet.evaluation.combining import vote as vote
    from tercet.evaluation.combining import weighted as weighted
    from tercet.evaluation.metrics import score as score
    from tercet.evaluation.set_metrics import score_sets as score_sets
    from tercet.ground.errors import TercetError as TercetError
    from tercet.models.build import build as build
    from tercet.records.label_sets import SetPredictions as SetPredictions
    from tercet.records.predictions import Predictions as Predictions
    from tercet.records.submissions import write_submission as write_submission
    from tercet.workflows.audit.run import audit as audit
    from tercet.workflows.blend import blend as blend
    from tercet.workflows.compare.run import compare as compare
    from tercet.workflows.crossval.run import crossval as crossval
    from tercet.workflows.explain.run import explain as explain
    from tercet.workflows.infer.run import evaluate as evaluate
    from tercet.workflows.infer.run import predict as predict
    from tercet.workflows.inspect import describe_dataset as describe_dataset
    from tercet.workflows.inspect import describe_model as describe_model
    from tercet.workflows.inspect import list_datasets as list_datasets
    from tercet.workflows.inspect import list_models as list_models
    from tercet.workflows.report.run import report as report
    from tercet.workflows.runs import runs as runs
    from tercet.workflows.ship.benchmark_model import benchmark_model as benchmark_model
    from tercet.workflows.ship.export import export as export
    from tercet.workflows.ship.verify import verify as verify
    from tercet.workflows.study.run import study as study
    from tercet.workflows.train.demo import demo as demo
    from tercet.workflows.train.ensemble import ensemble as ensemble
    from tercet.workflows.train.run import train as train
    from tercet.workflows.tune.run import tune as tune

__version__ = "0.1.0"

_HOMES = {
    "Bundle": "deploy.bundle",
    "ExportedModel": "deploy.exported",
    "Predictions": "records.predictions",
    "SetPredictions": "records.label_sets",
    "TercetError": "ground.errors",
    "audit": "workflows.audit.run",
    "average": "evaluation.combining",
    "benchmark_model": "workflows.ship.benchmark_model",
    "blend": "workflows.blend",
    "build": "models.build",
    "compare": "workflows.compare.run",
    "crossval": "workflows.crossval.run",
    "demo": "workflows.train.demo",
    "describe_dataset": "workflows.inspect",
    "describe_model": "workflows.inspect",
    "ensemble": "workflows.train.ensemble",
    "evaluate": "workflows.infer.run",
    "explain": "workflows.explain.run",
    "export": "workflows.ship.export",
    "list_datasets": "workflows.inspect",
    "list_models": "workflows.inspect",
    "load_bundle": "deploy.bundle",
    "predict": "workflows.infer.run",
    "pruned": "evaluation.combining",
    "report": "workflows.report.run",
    "runs": "workflows.runs",
    "score": "evaluation.metrics",
    "score_sets": "evaluation.set_metrics",
    "study": "workflows.study.run",
    "train": "workflows.train.run",
    "tune": "workflows.tune.run",
    "verify": "workflows.ship.verify",
    "vote": "evaluation.combining",
    "weighted": "evaluation.combining",
    "write_submission": "records.submissions",
}

__all__ = sorted(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'tercet' has no attribute '{name}'")
    return getattr(importlib.import_module(f"tercet.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
