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
    from tercet.workflows.audit import audit as audit
    from tercet.workflows.benchmark_model import benchmark_model as benchmark_model
    from tercet.workflows.blend import blend as blend
    from tercet.workflows.compare import compare as compare
    from tercet.workflows.crossval import crossval as crossval
    from tercet.workflows.demo import demo as demo
    from tercet.workflows.ensemble import ensemble as ensemble
    from tercet.workflows.explain import explain as explain
    from tercet.workflows.export import export as export
    from tercet.workflows.infer import evaluate as evaluate
    from tercet.workflows.infer import predict as predict
    from tercet.workflows.inspect import describe_dataset as describe_dataset
    from tercet.workflows.inspect import describe_model as describe_model
    from tercet.workflows.inspect import list_datasets as list_datasets
    from tercet.workflows.inspect import list_models as list_models
    from tercet.workflows.report.run import report as report
    from tercet.workflows.runs import runs as runs
    from tercet.workflows.study.run import study as study
    from tercet.workflows.train import train as train
    from tercet.workflows.tune import tune as tune
    from tercet.workflows.verify import verify as verify

__version__ = "0.1.0"

_HOMES = {
    "Bundle": "deploy.bundle",
    "ExportedModel": "deploy.exported",
    "Predictions": "records.predictions",
    "SetPredictions": "records.label_sets",
    "TercetError": "ground.errors",
    "audit": "workflows.audit",
    "average": "evaluation.combining",
    "benchmark_model": "workflows.benchmark_model",
    "blend": "workflows.blend",
    "build": "models.build",
    "compare": "workflows.compare",
    "crossval": "workflows.crossval",
    "demo": "workflows.demo",
    "describe_dataset": "workflows.inspect",
    "describe_model": "workflows.inspect",
    "ensemble": "workflows.ensemble",
    "evaluate": "workflows.infer",
    "explain": "workflows.explain",
    "export": "workflows.export",
    "list_datasets": "workflows.inspect",
    "list_models": "workflows.inspect",
    "load_bundle": "deploy.bundle",
    "predict": "workflows.infer",
    "pruned": "evaluation.combining",
    "report": "workflows.report.run",
    "runs": "workflows.runs",
    "score": "evaluation.metrics",
    "score_sets": "evaluation.set_metrics",
    "study": "workflows.study.run",
    "train": "workflows.train",
    "tune": "workflows.tune",
    "verify": "workflows.verify",
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
