"""Compare a grid of networks with several seeds on the same data and splits.

A comparison is one run folder with one member per network and seed: they share the decoded images, train in parallel,
resume and write bundles as the members of `tercet train` do. The folder also contains comparison.json (the grid),
networks.csv, pairs.csv and images.csv.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

from rich.console import Console

from tercet.config.experiments import COMPARE, CompareConfig
from tercet.config.model import ModelConfig
from tercet.config.parser import ParsedArguments
from tercet.config.run import DataConfig, FusionConfig, MemberConfig, RunConfig
from tercet.config.training import TrainingConfig
from tercet.core.errors import ConfigError, StorageError
from tercet.core.files import read_json, write_json, write_text
from tercet.core.predictions import Predictions
from tercet.core.run_folder import RunFolder
from tercet.core.runtime import choose_device, describe_environment
from tercet.core.yaml_io import dump_yaml, read_mapping
from tercet.data.data_module import DataModule, prepare_data
from tercet.experiments.compare_grid import (
    baseline_of,
    check_fairness,
    expand_grid,
    fix_budget,
    member_name,
    with_seeds,
)
from tercet.experiments.compare_results import compare_networks, read_networks, report_text, write_tables
from tercet.experiments.custom_parts import custom_parts
from tercet.experiments.jobs import raise_failures
from tercet.experiments.plan import Plan
from tercet.experiments.pool import FailedJob
from tercet.experiments.train import make_plan, train_waiting, write_run
from tercet.metrics.significance import Comparison
from tercet.metrics.significance import compare as compare_predictions
from tercet.models.build import check_weights

_DATA = "comparison_of"  # key of the data source in config.yaml
_CONFIGS = (CompareConfig, DataConfig, ModelConfig, TrainingConfig)
_RESUME_OPTIONS = {"resume", "json", "debug", "output"}


@dataclass(frozen=True)
class ComparisonRun:
    """Result of `compare`."""

    path: Path
    metrics: Mapping[str, Any]
    """Content of `metrics.json`: networks, pairs, easy and hard images, failed trainings."""
    report: str
    """Tables as text."""
    exit_code: int = 0
    """0, or the exit code of the first failed training."""


@overload
def compare(source: Predictions, other: Predictions, /) -> Comparison: ...


@overload
def compare(
    source: str | Path | None = None,
    /,
    *,
    resume: str | Path | None = None,
    console: Console | None = None,
    **options: Any,
) -> ComparisonRun: ...


def compare(
    source: Predictions | str | Path | None = None,
    other: Predictions | None = None,
    /,
    *,
    resume: str | Path | None = None,
    console: Console | None = None,
    **options: Any,
) -> Comparison | ComparisonRun:
    """Train and compare networks, or compare two existing predictions.

    Args:
        source: Image folder with one sub-folder per class, table, zip, or data set name; or predictions.
        other: Predictions to compare `source` with, by McNemar's exact test and the paired bootstrap interval of the
            difference in accuracy.
        resume: Folder of a comparison to continue; missing and failed trainings are run.
        console: Where to report progress; silent by default.
        **options: Any option of `tercet compare`, such as `backbones=["small-cnn", "row-lstm"]`, `seeds=5`, `epochs=3`.

    Raises:
        TercetError: All trainings failed, or the predictions are of different samples. Single failed trainings are
            listed in the result.
    """
    if isinstance(source, Predictions) or isinstance(other, Predictions):
        if not (isinstance(source, Predictions) and isinstance(other, Predictions)) or options:
            raise ConfigError("give two predictions and no options, or a data source")
        return compare_predictions(source, other)
    with custom_parts(options, resume=resume) as named:
        parsed = COMPARE.parse_object(named)
        return run_comparison(source, parsed, resume=resume, console=console or Console(quiet=True))


def run_comparison(
    data: str | Path | None, parsed: ParsedArguments, *, resume: str | Path | None, console: Console
) -> ComparisonRun:
    """Start or resume a comparison and run it to the end."""
    if resume is not None:
        run, source, stored = _stored_options(resume, data, parsed)
        with run.lock():
            run.remove_unfinished()
            if not run.plan.is_file():
                plan, prepared = _prepare(run, source, stored)
            else:
                plan = Plan.load(run)
                prepared = plan.open_data(run)
            return _train_and_compare(run, plan, prepared, stored, console)
    if data is None:
        raise ConfigError("give an image folder, a table, a zip or a data set name, or --resume FOLDER")
    cells = _checked_grid(parsed)
    for cell in cells:
        check_weights(cell.network, cell.model)
    run = RunFolder.create(parsed.of(CompareConfig).output, f"{Path(str(data)).stem}-compare")
    with run.lock():
        write_text(run.config, dump_yaml({_DATA: str(data), **parsed.to_dict(*_CONFIGS)}))
        with run.delete_if_invalid():
            plan, prepared = _prepare(run, str(data), parsed)
        return _train_and_compare(run, plan, prepared, parsed, console)


def _stored_options(
    resume: str | Path, data: str | Path | None, parsed: ParsedArguments
) -> tuple[RunFolder, str, ParsedArguments]:
    """Return run, data source and options of the comparison to resume; repeated options must be unchanged."""
    run = RunFolder.open(resume)
    config = read_mapping(run.config)
    if _DATA not in config:
        raise StorageError(f"{run.path} is not a comparison: it was not created by `tercet compare`")
    source = str(config.pop(_DATA))
    stored = COMPARE.parse_object(config, source=str(run.config))
    before, now = stored.to_dict(*_CONFIGS), parsed.to_dict(*_CONFIGS)
    changed = sorted(key for key in parsed.given - _RESUME_OPTIONS if now[key] != before[key])
    if data is not None and str(data) != source:
        changed.insert(0, "data")
    if changed:
        raise ConfigError(
            f"--resume continues with the original options: {', '.join(changed)} differ(s) from {run.config}"
        )
    return run, source, stored


def _checked_grid(parsed: ParsedArguments) -> tuple[MemberConfig, ...]:
    """Return the networks of the grid, checked before any data is read."""
    config = parsed.of(CompareConfig)
    choose_device(config.device)
    cells = expand_grid(config, parsed.of(ModelConfig), parsed.of(TrainingConfig))
    check_fairness(config, cells)
    return cells


def _prepare(run: RunFolder, data: str, parsed: ParsedArguments) -> tuple[Plan, DataModule]:
    config, data_config = parsed.of(CompareConfig), parsed.of(DataConfig)
    write_json(run.path / "environment.json", describe_environment())
    members = _checked_grid(parsed)
    baseline = baseline_of(config, members)
    prepared = prepare_data(data, data_config)
    cells = fix_budget(members, config, baseline=baseline, prepared=prepared, data=data_config)
    seeds = config.all_seeds()
    run_config = RunConfig(
        ensemble_methods=(),
        seed=config.seed,
        device=config.device,
        threads=config.threads,
        tensorboard=config.tensorboard,
    )
    seeded = with_seeds([cell.member for cell in cells], seeds)
    plan = replace(make_plan(data, prepared, data_config, FusionConfig(), run_config, seeded), compared=True)
    networks = [{"name": cell.member.name, "network": cell.member.network, **cell.notes} for cell in cells]
    write_json(_grid_file(run), {"baseline": baseline, "seeds": list(seeds), "networks": networks})
    write_run(run, plan, prepared)
    return plan, prepared


def _grid_file(run: RunFolder) -> Path:
    return run.path / "comparison.json"


def _train_and_compare(
    run: RunFolder, plan: Plan, prepared: DataModule, parsed: ParsedArguments, console: Console
) -> ComparisonRun:
    """Run the missing trainings, compare the networks, and write the report."""
    failures = train_waiting(run, plan, prepared, console)
    if len(failures) == len(plan.members):
        raise_failures(failures, run)
    grid = read_json(_grid_file(run))
    names = [network["name"] for network in grid["networks"]]
    networks = read_networks(run, names, grid["seeds"])
    comparison = compare_networks(networks, baseline=grid["baseline"], monitor=plan.monitor)
    for row, network in zip(comparison["networks"], grid["networks"], strict=True):
        row.update(network)
    metrics = {
        "kind": "compare",
        "run": str(run.path),
        "data": {
            "source": plan.data,
            "classes": list(plan.classes),
            "fingerprint": plan.fingerprint,
            "held_out": plan.held_out,
            "notes": list(plan.notes),
        },
        "protocol": _protocol(plan, parsed.of(CompareConfig)),
        "baseline": grid["baseline"],
        **comparison,
        "failed": _failed(failures, names, grid["seeds"]),
        "versions": describe_environment()["packages"],
    }
    report = report_text(metrics)
    write_tables(run, metrics, networks)
    write_json(run.metrics, metrics)
    write_text(run.report, report)
    return ComparisonRun(run.path, metrics, report, failures[0].exit_code if failures else 0)


def _protocol(plan: Plan, config: CompareConfig) -> dict[str, Any]:
    kind, amount = config.budget_limit()
    return {
        "monitor": plan.monitor,
        "monitor_split": plan.monitor_split,
        "seeds": list(config.all_seeds()),
        "equal": kind,
        "budget": amount or None,
        "device": plan.device,
    }


def _failed(failures: Sequence[FailedJob], names: Sequence[str], seeds: Sequence[int]) -> list[dict[str, Any]]:
    cells = {member_name(name, seed): (name, seed) for name in names for seed in seeds}
    rows = []
    for failure in failures:
        name, seed = cells[failure.job.title]
        rows.append({"network": name, "seed": seed, "message": failure.message, "exit_code": failure.exit_code})
    return rows
