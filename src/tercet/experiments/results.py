"""The result of a command that writes a run folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tercet.core.registry import PARTS
from tercet.ensemble.bundle import Bundle, load_bundle


@dataclass(frozen=True, repr=False)
class RunResult:
    """Base of the results of commands that write a run folder."""

    path: Path
    """The run folder."""
    metrics: Mapping[str, Any]
    """Content of `metrics.json`."""
    report: str
    """Content of `report.txt`."""
    exit_code: int = 0
    """0, or the exit code of the first failed training if the command reports failures in its results."""

    modules: Mapping[str, Any] = field(default_factory=PARTS["network"].custom, compare=False)
    """Networks of the caller's that it was trained with, by name."""

    def bundle(self) -> Bundle:
        """Load the selected model.

        Raises:
            ModelError: The command writes no bundle.
        """
        return load_bundle(self.path / "bundle", modules=self.modules)

    def __repr__(self) -> str:
        chosen = self.metrics.get("chosen")
        return f"{type(self).__name__}({str(self.path)!r}{'' if chosen is None else f', chosen={chosen!r}'})"
