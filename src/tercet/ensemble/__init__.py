"""Combining predictions, calibration, and the bundle of an ensemble on disk."""

from tercet.ensemble.combine import average as average
from tercet.ensemble.combine import pruned as pruned
from tercet.ensemble.combine import vote as vote
from tercet.ensemble.combine import weighted as weighted
