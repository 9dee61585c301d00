"""Metrics, significance tests, and their text tables."""

from tercet.metrics.classification import score as score
from tercet.metrics.multilabel import score_multilabel as score_multilabel
