"""Table of scores of all runs under a folder: trainings, ensembles, comparisons, cross-validations, searches."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from tercet.config.experiments import SORTS
from tercet.core.errors import ConfigError, ModelError, StorageError
from tercet.core.files import natural_key
from tercet.core.frames import data_frame
from tercet.core.output import printable
from tercet.core.registry import did_you_mean
from tercet.core.run_folder import RECORD
from tercet.data.run_reader import RunReader
from tercet.metrics.table import Table, number

_METRICS = "metrics.json"
_SCHEMA_ERRORS = (KeyError, TypeError, AttributeError, IndexError, ValueError)
"""Raised by `_read` for JSON files that do not have the structure of a run's metrics."""


@dataclass(frozen=True)
class RunRow:
    """One finished run."""

    name: str
    """Path relative to the searched folder."""
    kind: str
    """train, ensemble, compare, crossval or tune."""
    data: str
    """Data source."""
    chosen: str
    """Selected member, ensemble method, network or trial."""
    validation: float | None
    """Accuracy on validation; for a cross-validation on all held-out images."""
    test: float | None
    """Accuracy on the test split, if it has labels; for a comparison the mean over seeds."""
    macro_f1: float | None
    """On the test split if possible, else like `validation`."""
    kappa: float | None
    """On the test split if possible, else like `validation`."""
    seconds: float | None
    """Total training time."""
    date: str
    """End of the run, ISO 8601, local time."""
    monitor_split: str = "validation"
    """Split used for selection; with test, the test scores are optimistic."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


_DESCENDING = ("validation", "test", "macro_f1", "kappa", "date")


@dataclass(frozen=True, repr=False)
class RunsTable:
    """The runs under a folder."""

    folder: str
    """Searched folder."""
    rows: tuple[RunRow, ...]
    """Finished runs, sorted."""
    unreadable: tuple[tuple[str, str], ...]
    """Folders with unreadable metrics, and the reason."""
    unfinished: tuple[str, ...]
    """Runs without metrics."""

    def __repr__(self) -> str:
        return self.to_text().rstrip()

    def to_frame(self) -> Any:
        """Return one row per run as a pandas DataFrame."""
        return data_frame([row.to_dict() for row in self.rows])

    def to_text(self) -> str:
        """Return the table, followed by unreadable and unfinished runs."""
        table = self._table().to_text()
        parts = [table] if self.rows else [f"no finished run under {printable(self.folder)}\n"]
        if any(row.monitor_split == "test" for row in self.rows):
            parts.append("! selected on the test split (monitor_split: test): test scores are optimistic\n")
        parts += [f"unreadable: {printable(name)}: {printable(reason)}\n" for name, reason in self.unreadable]
        parts += [f"not finished: {printable(name)}\n" for name in self.unfinished]
        return "".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "folder": self.folder,
            "runs": [row.to_dict() for row in self.rows],
            "unreadable": [{"name": name, "reason": reason} for name, reason in self.unreadable],
            "unfinished": list(self.unfinished),
        }

    def _table(self) -> Table:
        header = ("run", "data", "chosen", "valid.\nacc.", "test\nacc.", "macro\nF1", "kappa", "time\n/ s", "date")
        rows = [
            (
                row.name,
                row.data,
                f"{row.chosen}{' !' if row.monitor_split == 'test' else ''}",
                *map(number, (row.validation, row.test, row.macro_f1, row.kappa)),
                number(row.seconds, ".0f"),
                row.date[:10],
            )
            for row in self.rows
        ]
        return Table(header, rows, "lllrrrrrr", f"runs under {self.folder}")


def runs(folder: str | Path = "runs", /, *, sort: str = "date") -> RunsTable:
    """Return the scores of all runs under a folder.

    Args:
        folder: Searched recursively; may be a run.
        sort: `name`, `data`, `chosen`, `validation`, `test`, `macro_f1`, `kappa`, `seconds` or `date`. Scores and dates
            are sorted in descending order, others ascending; runs without a value come last.

    Raises:
        ConfigError: Unknown column.
        StorageError: The folder does not exist.
    """
    if sort not in SORTS:
        raise ConfigError(f"cannot sort by '{sort}'{did_you_mean(sort, SORTS)}: choose one of {', '.join(SORTS)}")
    root = Path(folder)
    if not root.is_dir():
        raise StorageError(f"there is no folder {folder}")
    rows: list[RunRow] = []
    unreadable: list[tuple[str, str]] = []
    unfinished: list[str] = []
    for path, finished in _find(root):
        name = root.name or str(root) if path == root else str(path.relative_to(root))
        if not finished:
            unfinished.append(name)
            continue
        try:
            rows.append(_read(path, name))
        except (ModelError, StorageError) as error:
            unreadable.append((name, str(error)))
        except _SCHEMA_ERRORS as error:
            unreadable.append((name, f"its metrics are not those of a run with accuracies ({type(error).__name__})"))
    return RunsTable(str(folder), tuple(_sorted(rows, sort)), tuple(unreadable), tuple(unfinished))


def _find(root: Path) -> Iterator[tuple[Path, bool]]:
    """Yield run folders in natural order, and whether they are finished; a finished run is not searched further."""
    for directory, folders, files in os.walk(root):
        folders.sort(key=natural_key)
        path = Path(directory)
        if _METRICS in files:
            folders.clear()
            yield path, True
        elif RECORD in files and not any(path.rglob(_METRICS)):
            folders.clear()
            yield path, False


def _sorted(rows: Sequence[RunRow], sort: str) -> list[RunRow]:
    def key(row: RunRow) -> Any:
        value = getattr(row, sort)
        return natural_key(value) if sort in ("name", "data", "chosen") else value

    with_value = [row for row in rows if getattr(row, sort) is not None]
    without = [row for row in rows if getattr(row, sort) is None]
    return sorted(with_value, key=key, reverse=sort in _DESCENDING) + without


def _read(folder: Path, name: str) -> RunRow:
    """Return the row of a run.

    Raises:
        ModelError: A file cannot be read.
        StorageError: There is no `run.json`.
        Exception: One of `_SCHEMA_ERRORS` if the file does not have the structure of a run's metrics.
    """
    reader = RunReader.open(folder)
    if reader.selected is None:
        raise ModelError(f"tercet {reader.kind} has no scores of its own: list the runs inside, such as {folder}/steps")
    chosen, *scores = reader.selected
    validation, test = map(_single_label_names, scores)
    final = test or validation
    return RunRow(
        name=name,
        kind=reader.kind,
        data=reader.source,
        chosen=chosen,
        validation=validation.get("accuracy") if validation else None,
        test=test["accuracy"] if test else None,
        macro_f1=final["macro_f1"],
        kappa=final.get("kappa"),
        seconds=_seconds(reader),
        date=datetime.fromtimestamp(reader.finished_at).isoformat(timespec="seconds"),
        monitor_split=reader.monitor_split,
    )


def _single_label_names(scores: Mapping[str, float]) -> Mapping[str, float]:
    """Rename multi-label scores to their single-label counterparts: exact match is accuracy, C-F1 macro-F1."""
    if "exact_match" not in scores:
        return scores
    return {"accuracy": scores["exact_match"], "macro_f1": scores["c_f1"]}


def _seconds(reader: RunReader) -> float | None:
    """Return the total training time, if recorded."""
    if reader.kind == "compare":
        trainings = [training for row in reader.metrics["networks"] for training in row.get("trainings", [])]
    else:
        trainings = reader.metrics["trials" if reader.kind == "tune" else "members"]
    seconds = [training["seconds"] for training in trainings if training.get("seconds") is not None]
    return float(sum(seconds)) if seconds else None
