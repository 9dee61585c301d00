"""Results of commands that write a run folder: their display in notebooks, and data frames."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tercet.core.errors import TercetError
from tercet.core.frames import data_frame
from tercet.core.registry import PARTS
from tercet.data.run_reader import RunReader
from tercet.ensemble.bundle import Bundle, load_bundle

_LISTS = ("members", "ensembles", "networks", "trials")  # of scored rows in metrics.json


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

    def history(self) -> Any:
        """Return one row per training and epoch as a pandas DataFrame, with columns such as `validation.accuracy`."""
        return data_frame(history_rows(self.path))

    def results(self) -> Any:
        """Return one row per member, ensemble, network or trial as a DataFrame, with columns like `test.accuracy`."""
        return data_frame(result_rows(self.metrics))

    def __repr__(self) -> str:
        chosen = self.metrics.get("chosen")
        return f"{type(self).__name__}({str(self.path)!r}{'' if chosen is None else f', chosen={chosen!r}'})"

    def _repr_html_(self) -> str:
        return results_html(self.path, self.report)


def history_rows(folder: Path) -> list[dict[str, Any]]:
    """Return the epochs of all trainings of a run."""
    histories = RunReader.open(folder).histories
    return [{"training": name, **row} for name, history in histories.items() for row in history.to_list()]


def result_rows(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the scored rows of `metrics.json`; `kind` is member, ensemble, network or trial."""
    return [{"kind": key.removesuffix("s"), **row} for key in _LISTS for row in metrics.get(key, ())]


def results_html(folder: Path, report: str) -> str:
    """Return the results of the HTML report; the text report without matplotlib or after the folder was deleted."""
    try:
        from tercet.report.pages import notebook_html  # imports matplotlib, which is optional and slow

        return notebook_html(folder)
    except (ImportError, TercetError):
        return f"<pre>{html.escape(report)}</pre>"
