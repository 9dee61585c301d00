"""Combine prediction files from any toolkit; loads no PyTorch unless a head is trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tercet.config.commands import EnsembleConfig
from tercet.config.parser import ParsedArguments
from tercet.config.run import FusionConfig
from tercet.core.errors import ConfigError, raise_problems
from tercet.core.output import printable
from tercet.core.prediction_files import attach_labels, read_labels, read_predictions, write_csv
from tercet.core.predictions import Predictions, aligned
from tercet.ensemble.combine import Combiner, Ties, ensemble_method, is_fitted
from tercet.ensemble.cross_fit import cross_fitted
from tercet.ensemble.weights import fit_combiner
from tercet.metrics.classification import score
from tercet.metrics.significance import Comparison, compare
from tercet.metrics.tables import ResultRow, comparison_text, results_table

FitHead = Callable[[Sequence[Predictions]], tuple[Predictions, Predictions, Any]]
"""Takes members with labelled rows; returns the combination of all rows by a trained head, that of the labelled rows by
cross-fitting, and the head."""
_FILE_ONLY = {"labels", "ties", "keep"}
_FOR_BOTH = {"ensemble_methods", "output", "json", "debug"}
_FOR_HEADS = {"seed", "device", *(f"fusion.{name}" for name in FusionConfig.__dataclass_fields__)}
_SUFFIXES = (".npy", ".npz", ".csv", ".tsv")


@dataclass(frozen=True, repr=False)
class CombinedPredictions:
    """Combined prediction files and their scores."""

    predictions: Predictions
    """Combined probabilities; cross-fitted on labelled rows if the method was fitted on them."""
    method: str
    names: tuple[str, ...]
    """Names of the files."""
    combiner: Combiner | None
    """The method, with weights fitted on all labelled rows; None if it trains a head."""
    head: Any = None
    """The fusion head trained on all labelled rows, if the method trains one."""
    members: tuple[ResultRow, ...] = ()
    """Scores per file; empty without labels."""
    ensemble: ResultRow | None = None
    """Scores of the ensemble; None without labels."""
    comparison: Comparison | None = None
    """Paired comparison of the ensemble with the best file."""
    best: str | None = None
    """Name of the best file."""

    def __repr__(self) -> str:
        return f"<CombinedPredictions: {self.method} of {len(self.names)}, {self.predictions!r}>"

    @property
    def report(self) -> str:
        """The same as `to_text`, as for runs."""
        return self.to_text()

    @property
    def weights(self) -> tuple[float, ...] | None:
        """Weights of the files; None if the method fits none."""
        return None if self.combiner is None else self.combiner.weights

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "method": self.method,
            "weights": None if self.weights is None else list(self.weights),
            "cross_fitted": is_fitted(self.method),
            "samples": len(self.predictions),
            "members": [row.to_dict() for row in self.members] or [{"name": name} for name in self.names],
            "ensemble": self.ensemble.to_dict() if self.ensemble else None,
            "comparison": {"against": self.best, **self.comparison.to_dict()} if self.comparison else None,
        }

    def to_text(self) -> str:
        """Return scores, weights and comparison as text."""
        if self.ensemble is None:
            names = ", ".join(self.names)
            return f"{self.method} of {names}: {len(self.predictions)} samples, not scored (no labels)\n"
        fitting = "cross-fitted" if is_fitted(self.method) else "nothing fitted"
        rows = [*self.members, self.ensemble] if len(self.members) > 1 else [self.ensemble]
        text = results_table(rows, title=f"{self.method} ({fitting})").to_text()
        if self.weights is not None:
            weights = zip(self.names, self.weights, strict=True)
            text += "weights: " + ", ".join(f"{printable(name)} {weight:.3f}" for name, weight in weights) + "\n"
        if self.comparison is not None and self.best is not None:
            text += comparison_text(self.comparison, self.method, self.best) + "\n"
        return text

    def save(self, path: Path) -> None:
        """Write the combined predictions as `.npz` or `.csv`.

        Raises:
            ConfigError: Another file extension.
        """
        if path.suffix == ".npz":
            self.predictions.save(path)
        elif path.suffix == ".csv":
            write_csv(self.predictions, path)
        else:
            raise ConfigError(f"cannot write {path}: the file name must end in .npz or .csv")


def are_files(inputs: Sequence[str | Path | Predictions]) -> bool:
    """Whether the inputs of `ensemble` are prediction files (or `Predictions`) rather than run folders.

    Raises:
        ConfigError: No inputs, or a mixture.
    """
    if not inputs:
        raise ConfigError("give at least one run folder or prediction file")
    files = [_is_file(item) for item in inputs]
    if any(files) and not all(files):
        file, run = inputs[files.index(True)], inputs[files.index(False)]
        raise ConfigError(
            f"give run folders or prediction files, not both: {_title(file)} is a file, {run} is a run folder"
        )
    return files[0]


def require_applicable(parsed: ParsedArguments, *, files: bool) -> None:
    """Raise if an option was given that applies only to the other kind of inputs.

    Raises:
        ConfigError: Such an option, or for files a method that needs runs.
    """
    config, fusion = parsed.of(EnsembleConfig), parsed.of(FusionConfig)
    methods, output = config.ensemble_methods or (), config.output
    for_heads = _FOR_HEADS if trains_head(parsed) else set()
    inapplicable = parsed.given - _FILE_ONLY - _FOR_BOTH - for_heads if files else parsed.given & _FILE_ONLY
    cached = fusion.regime == "cached" and fusion.data == "validation"
    applies, inputs = ("runs", "prediction files") if files else ("prediction files", "run folders")
    raise_problems(
        [
            bool(inapplicable)
            and f"{', '.join(sorted(inapplicable))}: only for {applies}, but the inputs are {inputs}",
            files
            and not cached
            and "fusion: heads are trained on prediction files with regime cached, data validation",
            files and len(methods) > 1 and "ensemble_methods: prediction files take one method",
            files
            and output is not None
            and not output.endswith((".npz", ".csv"))
            and f"output {output}: the file name must end in .npz or .csv",
        ]
    )


def trains_head(parsed: ParsedArguments) -> bool:
    """Whether one of the methods trains a head, which needs PyTorch."""
    methods = parsed.of(EnsembleConfig).ensemble_methods or ()
    return any(ensemble_method(method).operation == "head" for method in methods)


def combine_files(
    files: Sequence[str | Path | Predictions], parsed: ParsedArguments, *, fit_head: FitHead | None = None
) -> CombinedPredictions:
    """Combine prediction files, score them if labels are known, and write the result if `output` is given.

    Args:
        files: `.npy` (N K), `.npz` or CSV files, or `Predictions`; a single one is only scored.
        parsed: Options of `ensemble`.
        fit_head: Trains the head of a method that has one.

    Raises:
        DataError: A damaged file, or files with different samples or classes.
        ConfigError: An option for runs, or a method that learns from labels without labels.
    """
    require_applicable(parsed, files=True)
    config = parsed.of(EnsembleConfig)
    members = [item if isinstance(item, Predictions) else read_predictions(item) for item in files]
    if config.labels is not None:
        members[0] = attach_labels(members[0], read_labels(config.labels))
    members, names = aligned(members), _names(files)  # all in the order of the first, with its labels
    method = (config.ensemble_methods or ("average",))[0]
    result = combine_predictions(members, names, method=method, ties=config.ties, keep=config.keep, fit_head=fit_head)
    if config.output is not None:
        result.save(Path(config.output))
    return result


def combine_predictions(
    members: Sequence[Predictions],
    names: Sequence[str],
    *,
    method: str = "average",
    ties: Ties = "lowest",
    keep: int = 1,
    fit_head: FitHead | None = None,
) -> CombinedPredictions:
    """Combine aligned predictions, with the options of `combine_files`, and score them if labels are known."""
    labelled = bool(members[0].known.any())
    if is_fitted(method) and not labelled:
        raise ConfigError(f"method {method} learns from labels: give --labels FILE, or use average")
    combiner, head, scored = None, None, None
    if ensemble_method(method).operation == "head":
        assert fit_head is not None
        combined, scored, head = fit_head(members)
    else:
        combiner = replace(fit_combiner(method, members, names=names), ties=ties, keep=keep)
        combined = combiner.apply(members)
        scored = cross_fitted(method, members) if is_fitted(method) else None
    if scored is not None:
        combined.probabilities[combined.known] = scored.probabilities
    result = CombinedPredictions(combined, method, tuple(names), combiner, head)
    if not labelled:
        return result
    rows = tuple(ResultRow(name, "member", score(member)) for name, member in zip(names, members, strict=True))
    row = ResultRow(method, "ensemble", score(combined))
    best = max(range(len(members)), key=lambda index: (rows[index].scores["accuracy"], -index))
    comparison = compare(combined, members[best]) if len(members) > 1 else None
    return replace(result, members=rows, ensemble=row, comparison=comparison, best=names[best])


def _is_file(item: str | Path | Predictions) -> bool:
    if isinstance(item, Predictions):
        return True
    path = Path(item)
    return path.is_file() or (path.suffix.lower() in _SUFFIXES and not path.is_dir())


def _title(item: str | Path | Predictions) -> str:
    return "a Predictions object" if isinstance(item, Predictions) else str(item)


def _names(files: Sequence[str | Path | Predictions]) -> list[str]:
    """Name each file by its stem, or by its path if several have the same stem."""
    stems = [
        f"predictions-{index + 1}" if isinstance(file, Predictions) else Path(file).stem
        for index, file in enumerate(files)
    ]
    paths = [stem if isinstance(file, Predictions) else str(file) for stem, file in zip(stems, files, strict=True)]
    names = [path if stems.count(stem) > 1 else stem for stem, path in zip(stems, paths, strict=True)]
    return [name if names.count(name) == 1 else f"{name}-{index + 1}" for index, name in enumerate(names)]
