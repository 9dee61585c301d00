"""Metrics, significance tests, and tables of results.

`score` and `score_multilabel` are imported on first access: the table of metrics must load no numerical library.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tercet.metrics.metric import Metric as Metric

if TYPE_CHECKING:
    from tercet.metrics.classification import score as score
    from tercet.metrics.multilabel import score_multilabel as score_multilabel

_MODULES = {"score": "classification", "score_multilabel": "multilabel"}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'tercet.metrics' has no attribute '{name}'")
    return getattr(importlib.import_module(f"tercet.metrics.{_MODULES[name]}"), name)
