"""What a run and its bundles record of the data they were trained on."""

from __future__ import annotations

from typing import Any

from tercet.data.data_module import training_digests
from tercet.data.table import SampleTable
from tercet.experiments.plan import Plan

_DATA_OPTIONS = (
    "image_column",
    "label_columns",
    "label_separator",
    "task",
    "group_column",
    "group_from",
    "image_pattern",
    "val_fraction",
    "test_fraction",
    "split_seed",
    "max_bad_fraction",
    "limit",
)
"""Options that decide which rows are held out: with them `evaluate` finds the same ones again."""


def data_card(plan: Plan) -> dict[str, Any]:
    """Return what a bundle says of the data it was trained on."""
    return {
        "source": plan.data,
        "classes": list(plan.classes),
        "fingerprint": plan.fingerprint,
        "options": {key: getattr(plan.data_config, key) for key in _DATA_OPTIONS},
        "held_out": plan.held_out,
        "notes": list(plan.notes),
    }


def trained_on(plan: Plan, table: SampleTable) -> dict[str, Any]:
    """Return the card with the digests of the images that train and validate: `evaluate` must not score these.

    Args:
        plan: The plan of the run.
        table: Its samples, divided.
    """
    seen = training_digests(table)
    return data_card(plan) | ({} if seen is None else {"seen": seen})
