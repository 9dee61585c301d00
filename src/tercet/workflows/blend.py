"""Blend prediction files from anywhere: ours, another toolkit's, a competition's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from tercet.evaluation.combining import Combiner
from tercet.evaluation.cross_fitting import cross_fitted
from tercet.evaluation.fitting import fit_combiner, is_fitted
from tercet.evaluation.metrics import score
from tercet.evaluation.report import ResultRow, as_text, comparison_text, results_table
from tercet.evaluation.significance import Comparison, compare
from tercet.ground.errors import ConfigError
from tercet.ground.streams import printable
from tercet.records.prediction_files import attach_labels, read_labels, read_predictions, write_csv
from tercet.records.predictions import Predictions, aligned

BlendMethod = Literal["average", "pruned", "vote", "weighted", "greedy"]


@dataclass(frozen=True)
class Blend:
    """What came of blending."""

    predictions: Predictions
    """The blend; on labelled rows cross-fitted where the method learned from these very labels."""
    combiner: Combiner
    """The method, with weights fitted on all labelled rows."""
    members: tuple[ResultRow, ...]
    """Each file's scores; none without labels."""
    blend: ResultRow | None
    """The blend's scores."""
    comparison: Comparison | None
    """The blend against the best file."""
    best: str | None
    """The best file's name."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "method": self.combiner.method,
            "weights": None if self.combiner.weights is None else list(self.combiner.weights),
            "cross_fitted": is_fitted(self.combiner.method),
            "samples": len(self.predictions),
            "members": [row.to_dict() for row in self.members] or [{"name": name} for name in self.combiner.names],
            "blend": self.blend.to_dict() if self.blend else None,
            "comparison": {"against": self.best, **self.comparison.to_dict()} if self.comparison else None,
        }

    def to_text(self) -> str:
        """Return what people read."""
        if self.blend is None:
            names = ", ".join(self.combiner.names)
            return f"{self.combiner.method} of {names}: {len(self.predictions)} samples, no labels to score with\n"
        honest = "cross-fitted" if is_fitted(self.combiner.method) else "nothing fitted"
        rows = [*self.members, self.blend] if len(self.members) > 1 else [self.blend]
        text = as_text(results_table(rows, title=f"{self.combiner.method} ({honest})"))
        if self.combiner.weights is not None:
            shares = zip(self.combiner.names, self.combiner.weights, strict=True)
            text += "weights: " + ", ".join(f"{printable(name)} {weight:.3f}" for name, weight in shares) + "\n"
        if self.comparison is not None and self.best is not None:
            text += comparison_text(self.comparison, self.combiner.method, self.best) + "\n"
        return text

    def save(self, path: Path) -> None:
        """Write the blend as `.npz` or `.csv`.

        Raises:
            ConfigError: Another ending.
        """
        if path.suffix == ".npz":
            self.predictions.save(path)
        elif path.suffix == ".csv":
            write_csv(self.predictions, path)
        else:
            raise ConfigError(f"cannot write {path}: the name must end in .npz or .csv")


def blend(
    files: Sequence[str | Path | Predictions],
    *,
    method: BlendMethod = "average",
    labels: str | Path | None = None,
    ties: Literal["lowest", "mean"] = "lowest",
    keep: int = 1,
) -> Blend:
    """Fuse prediction files and score them, where the labels are known.

    Args:
        files: `.npy` (N K), `.npz` or CSV files, or `Predictions`; one alone is only scored.
        method: average, pruned, vote, weighted or greedy.
        labels: File with the true labels: `.npy`, IDX, CSV (id, label) or one label a line; without ids they are in
            the order of the first file.
        ties: vote: who wins a tie, the lowest class index or the highest mean probability.
        keep: pruned: classes that each member keeps a row.

    Raises:
        DataError: A file is damaged, or the files do not hold the same samples and classes.
        ConfigError: The method learns from labels and there are none.
    """
    if not files:
        raise ConfigError("there is nothing to blend: name at least one prediction file")
    given = [one if isinstance(one, Predictions) else read_predictions(one) for one in files]
    if labels is not None:
        given[0] = attach_labels(given[0], read_labels(labels))
    given, names = aligned(given), _names(files)  # from here on every one has the first one's order and all labels
    if is_fitted(method) and not given[0].known.any():
        raise ConfigError(f"method {method} learns its weights from labels: give --labels FILE, or use average")
    combiner = fit_combiner(method, given, names=names)
    if method in ("vote", "pruned"):
        combiner = Combiner(method, combiner.names, ties=ties, keep=keep)
    fused = combiner.apply(given)
    if is_fitted(method):
        fused = _with_rows(fused, cross_fitted(method, given))
    if not given[0].known.any():
        return Blend(fused, combiner, (), None, None, None)
    members = tuple(ResultRow(name, "member", score(one)) for name, one in zip(names, given, strict=True))
    row = ResultRow(method, "ensemble", score(fused))
    best = max(range(len(given)), key=lambda index: (members[index].scores.accuracy, -index))
    comparison = compare(fused, given[best]) if len(given) > 1 else None
    return Blend(fused, combiner, members, row, comparison, names[best])


def _with_rows(predictions: Predictions, scored: Predictions) -> Predictions:
    """Return predictions whose labelled rows are the ones fit to be scored."""
    probabilities = predictions.probabilities.copy()
    probabilities[predictions.known] = scored.probabilities
    return replace(predictions, probabilities=probabilities)


def _names(files: Sequence[str | Path | Predictions]) -> list[str]:
    """Name each file by its stem, or by its path where stems repeat."""
    stems = [
        f"predictions-{index + 1}" if isinstance(one, Predictions) else Path(one).stem
        for index, one in enumerate(files)
    ]
    paths = [stem if isinstance(one, Predictions) else str(one) for stem, one in zip(stems, files, strict=True)]
    names = [path if stems.count(stem) > 1 else stem for stem, path in zip(stems, paths, strict=True)]
    return [name if names.count(name) == 1 else f"{name}-{index + 1}" for index, name in enumerate(names)]
