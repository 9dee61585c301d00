"""Tests here import timm themselves: the package that makes it importable comes first."""

import tercet.models  # noqa: F401
