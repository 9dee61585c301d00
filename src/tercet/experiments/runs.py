"""One table of scores over all runs under a folder: trainings, ensembles, comparisons, cross-validations, searches."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.text import Text

from tercet.config.experiments import SORTS
from tercet.core.errors import ConfigError, ModelError, StorageError
from tercet.core.files import natural_key, read_json
from tercet.core.registry import did_you_mean
from tercet.core.run_folder import command_of
from tercet.core.streams import printable
from tercet.metrics.tables import as_text, plain_table

_METRICS, _BEGUN = ("metrics.json", "trials.json"), ("config.yaml", "study.yaml")
_UNSUITABLE = (KeyError, TypeError, AttributeError, IndexError, ValueError)
"""What another document than a run's raises when it is read as one."""


@dataclass(frozen=True)
class RunRow:
    """One finished run."""

    name: str
    """Its folder, seen from the one that was searched."""
    kind: str
    """train, ensemble, compare, crossval or tune."""
    data: str
    """What it was given."""
    chosen: str
    """What is shipped: a member, a way to fuse, the best network of a comparison, the best trial of a search."""
    validation: float | None
    """Accuracy on what chose: validation rows; of a cross-validation all held-out rows."""
    test: float | None
    """Accuracy on the test split, where it has labels; the mean over seeds of a comparison."""
    macro_f1: float | None
    """On the test split, else where validation is measured."""
    kappa: float | None
    """Likewise."""
    seconds: float | None
    """Seconds of all its trainings."""
    date: str
    """When it ended, as ISO 8601 in local time."""
    monitor_split: str = "validation"
    """What chose: validation, or test, whose scores are optimistic then."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


_DOWN = ("validation", "test", "macro_f1", "kappa", "date")


@dataclass(frozen=True)
class RunsTable:
    """The runs under a folder."""

    folder: str
    """What was searched."""
    rows: tuple[RunRow, ...]
    """Finished runs, sorted."""
    unreadable: tuple[tuple[str, str], ...]
    """Folders with metrics that are not understood, and why."""
    unfinished: tuple[str, ...]
    """Runs that were begun and have no metrics yet."""

    def to_text(self) -> str:
        """Return the table and the names of what is not in it."""
        parts = [as_text(self._table())] if self.rows else [f"no finished run under {printable(self.folder)}\n"]
        if any(row.monitor_split == "test" for row in self.rows):
            parts.append("! chosen on the images that were scored (monitor_split: test): optimistic\n")
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

    def _table(self) -> Any:
        table = plain_table(f"runs under {self.folder}")
        for header in ("run", "data", "chosen"):
            table.add_column(header, overflow="fold", min_width=5)
        for header in ("valid.\nacc.", "test\nacc.", "macro\nF1", "kappa", "time\n/ s"):
            table.add_column(header, justify="right", no_wrap=True)
        table.add_column("date", no_wrap=True)
        for row in self.rows:
            scores = (row.validation, row.test, row.macro_f1, row.kappa)
            mark = " !" if row.monitor_split == "test" else ""
            names = (Text(printable(name)) for name in (row.name, row.data, f"{row.chosen}{mark}"))
            shown = ("-" if value is None else f"{value:.4f}" for value in scores)
            seconds = "-" if row.seconds is None else f"{row.seconds:.0f}"
            table.add_row(*names, *shown, seconds, row.date[:10])
        return table


def runs(folder: str | Path = "runs", /, *, sort: str = "date") -> RunsTable:
    """Return the scores of all runs under a folder.

    Args:
        folder: Where to look, at any depth; or one run.
        sort: `name`, `data`, `chosen`, `validation`, `test`, `macro_f1`, `kappa`, `seconds` or `date`: scores from the
            best down, dates from the newest back, all else upwards; runs without a value come last.

    Raises:
        ConfigError: There is no such column.
        StorageError: There is no such folder.
    """
    if sort not in SORTS:
        raise ConfigError(f"cannot sort by '{sort}'{did_you_mean(sort, SORTS)}: choose one of {', '.join(SORTS)}")
    root = Path(folder)
    if not root.is_dir():
        raise StorageError(f"there is no folder {folder}")
    rows: list[RunRow] = []
    unreadable: list[tuple[str, str]] = []
    unfinished: list[Path] = []
    for place, finished in _find(root):
        name = _shown(place, root)
        if not finished:
            unfinished.append(place)
            continue
        try:
            rows.append(_read(place, name))
        except ModelError as error:
            unreadable.append((name, str(error)))
        except _UNSUITABLE as error:
            unreadable.append((name, f"its metrics are not those of a run with accuracies ({type(error).__name__})"))
    return RunsTable(
        str(folder), tuple(_sorted(rows, sort)), tuple(unreadable), tuple(_shown(p, root) for p in unfinished)
    )


def _shown(place: Path, root: Path) -> str:
    return root.name or str(root) if place == root else str(place.relative_to(root))


def _find(root: Path) -> Iterator[tuple[Path, bool]]:
    """Yield run folders in natural order, and whether they are finished; a finished run is not searched further."""
    for place, folders, files in os.walk(root):
        folders.sort(key=natural_key)
        if any(name in files for name in _METRICS):
            folders.clear()
            yield Path(place), True
        elif any(name in files for name in _BEGUN) and not any(any(Path(place).rglob(name)) for name in _METRICS):
            folders.clear()
            yield Path(place), False


def _sorted(rows: Sequence[RunRow], sort: str) -> list[RunRow]:
    def key(row: RunRow) -> Any:
        value = getattr(row, sort)
        return natural_key(value) if sort in ("name", "data", "chosen") else value

    valued = [row for row in rows if getattr(row, sort) is not None]
    return sorted(valued, key=key, reverse=sort in _DOWN) + [row for row in rows if getattr(row, sort) is None]


def _read(place: Path, name: str) -> RunRow:
    """Return a run's row.

    Raises:
        ModelError: The file cannot be read.
        Exception: One of `_UNSUITABLE`, where it is the document of something else.
    """
    path = next(place / name for name in _METRICS if (place / name).is_file())
    document = read_json(path)
    kind = command_of(document, place)
    chosen, *scores = _scores(document)
    validation, test = map(_of_classes, scores)
    judged = test or validation
    return RunRow(
        name=name,
        kind=kind,
        data=str(document["data"]["source"]),
        chosen=chosen,
        validation=validation.get("accuracy") if validation else None,
        test=test["accuracy"] if test else None,
        macro_f1=judged["macro_f1"],
        kappa=judged.get("kappa"),
        seconds=_seconds(document),
        date=datetime.fromtimestamp(path.stat().st_mtime).isoformat(timespec="seconds"),
        monitor_split=str(document.get("protocol", {}).get("monitor_split", "validation")),
    )


def _scores(document: Mapping[str, Any]) -> tuple[str, Mapping[str, float], Mapping[str, float]]:
    """Return the name of what was chosen, and its scores on validation and test rows; empty where there are none."""
    if "pooled" in document:  # a cross-validation: every fold has its own choice
        return f"{len(document['folds'])} folds", document["pooled"], document.get("test") or {}
    if "trials" in document:
        best = document["best"]
        return f"trial {best['number']}", best["scores"], {}
    chosen = document["chosen"]
    if "networks" in document:
        row = next(row for row in document["networks"] if row["name"] == chosen)
        return chosen, _means(row["validation"]), _means(row.get("test"))
    rows = [*document["members"], *document["ensembles"]]
    row = next(row for row in reversed(rows) if row["name"] == chosen)
    return chosen, row["validation"], row.get("test") or {}


def _of_classes(scores: Mapping[str, float]) -> Mapping[str, float]:
    """Return the scores; of label sets those that extend the others: exact match is accuracy, C-F1 macro-F1."""
    if "exact_match" not in scores:
        return scores
    return {"accuracy": scores["exact_match"], "macro_f1": scores["c_f1"]}


def _means(scores: Mapping[str, Any] | None) -> dict[str, float]:
    return {key: value["mean"] for key, value in (scores or {}).items()}


def _seconds(document: Mapping[str, Any]) -> float | None:
    """Return the seconds of all trainings, where they are told."""
    if "networks" in document:
        trainings = [one for row in document["networks"] for one in row.get("trainings", [])]
    else:
        trainings = document.get("trials", document.get("members", []))
    told = [one["seconds"] for one in trainings if one.get("seconds") is not None]
    return float(sum(told)) if told else None
