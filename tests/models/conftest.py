"""Tests import timm themselves; `tercet.models` must be imported first to make it importable."""

import tercet.models  # noqa: F401
