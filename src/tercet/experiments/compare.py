"""Compare a grid of networks with several seeds on the same data and splits.

A comparison is one run folder with one member per network and seed: they share the decoded images, train in parallel,
resume and write bundles as the members of `tercet train` do. The folder also contains comparison.json (the grid),
networks.csv, pairs.csv and images.csv.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Unpack, overload

from rich.console import Console

from tercet.config.experiments import COMPARE, CompareConfig
from tercet.config.model import ModelConfig
from tercet.config.option_types import CompareOptions
from tercet.config.presets import PresetConfig
from tercet.config.run import DataConfig, FusionConfig, MemberConfig, RunConfig
from tercet.config.training import TrainingConfig
from tercet.core.errors import ConfigError
from tercet.core.files import read_json, write_json
from tercet.core.predictions import Predictions
from tercet.core.progress import as_console
from tercet.core.run_folder import RunFolder
from tercet.core.runtime import choose_device, describe_environment
from tercet.data.copies import torn_copies
from tercet.data.data_module import DataModule, prepare_data
from tercet.data.in_memory import DataLike
from tercet.ensemble.bundle import Bundle, load_bundle
from tercet.experiments.compare_grid import (
    baseline_of,
    check_fairness,
    expand_grid,
    fix_budget,
    member_name,
    with_seeds,
)
from tercet.experiments.compare_results import compare_networks, read_networks, report_text, write_tables
from tercet.experiments.copy_scores import copy_scores
from tercet.experiments.custom_parts import custom_parts
from tercet.experiments.experiment import run_experiment
from tercet.experiments.frozen import counts_of, sum_counts
from tercet.experiments.jobs import raise_failures, train_waiting
from tercet.experiments.ladder_plan import with_preset_head
from tercet.experiments.plan import Plan
from tercet.experiments.pool import FailedJob
from tercet.experiments.results import RunResult
from tercet.experiments.train import PlannedExperiment, make_plan, write_run
from tercet.metrics.significance import Comparison
from tercet.metrics.significance import compare as compare_predictions
from tercet.models.members import Recipe
from tercet.models.weight_check import check_weights


class ComparisonRun(RunResult):
    """Result of `compare`: networks, pairs, easy and hard images, failed trainings."""

    def bundle(self) -> Bundle:
        """Load the first training of the network that is best on validation."""
        chosen = next(row for row in self.metrics["networks"] if row["name"] == self.metrics["chosen"])
        return load_bundle(RunFolder(self.path).member(chosen["trainings"][0]["member"]).bundle)


@overload
def compare(source: Predictions, other: Predictions, /) -> Comparison: ...


@overload
def compare(
    source: DataLike = None,
    /,
    *,
    resume: str | Path | None = None,
    console: Console | bool | None = None,
    **options: Unpack[CompareOptions],
) -> ComparisonRun: ...


def compare(
    source: DataLike = None,
    other: Predictions | None = None,
    /,
    *,
    resume: str | Path | None = None,
    console: Console | bool | None = None,
    **options: Unpack[CompareOptions],
) -> Comparison | ComparisonRun:
    """Train and compare networks, or compare two existing predictions.

    Args:
        source: Images, as for `train`; or predictions.
        other: Predictions to compare `source` with, by McNemar's exact test and the paired bootstrap interval of the
            difference in accuracy.
        resume: Folder of a comparison to continue; missing and failed trainings are run.
        console: Console for progress, `False` for none (default: standard error, or the notebook).
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
        return run_comparison(source, parsed, resume=resume, console=as_console(console))


class NetworkComparison(PlannedExperiment[ComparisonRun]):
    """Training of a grid of networks with several seeds, and their comparison."""

    command = "compare"
    options = COMPARE
    suffix = "-compare"

    def check(self) -> None:
        """Check the grid and the weights of its networks."""
        check_weights(self.grid())

    def grid(self) -> tuple[MemberConfig, ...]:
        """Return the networks of the grid, checked without data."""
        parsed, config = with_preset_head(self.parsed), self.parsed.of(CompareConfig)
        choose_device(config.device)
        recipe = Recipe(parsed.of(PresetConfig).preset, parsed.given)
        cells = expand_grid(config, parsed.of(ModelConfig), parsed.of(TrainingConfig), recipe)
        check_fairness(config, cells)
        return cells

    def prepare(self, run: RunFolder) -> tuple[Plan, DataModule]:
        """Read the data, and plan one member per network and seed."""
        config, data_config = self.parsed.of(CompareConfig), self.parsed.of(DataConfig)
        members = self.grid()
        baseline = baseline_of(config, members)
        prepared = prepare_data(self.source, data_config)
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
        plan = make_plan(str(self.source), prepared, data_config, FusionConfig(), run_config, seeded)
        plan = replace(plan, compared=True)
        networks = [{"name": cell.member.name, "network": cell.member.network, **cell.notes} for cell in cells]
        write_json(_grid_file(run), {"baseline": baseline, "seeds": list(seeds), "networks": networks})
        write_run(run, plan, prepared)
        return plan, prepared

    def work(self, run: RunFolder, state: tuple[Plan, DataModule], console: Console) -> ComparisonRun:
        """Run the missing trainings, and compare the networks; failed trainings are listed."""
        plan, prepared = state
        failures = train_waiting(run, plan, prepared, console)
        if len(failures) == len(plan.members):
            raise_failures(failures, run)
        grid = read_json(_grid_file(run))
        names = [network["name"] for network in grid["networks"]]
        networks = read_networks(run, names, grid["seeds"])
        comparison = compare_networks(networks, baseline=grid["baseline"], monitor=plan.monitor)
        for row, network in zip(comparison["networks"], grid["networks"], strict=True):
            row.update(network)
        chosen = [network for network in networks if network.name == comparison["chosen"]]
        split = comparison["tested_on"]
        scored = {split: chosen[0].predictions(split)} if chosen and chosen[0].has_labels(split) else {}
        metrics = {
            "run": str(run.path),
            "data": plan.data_card(),
            "copies": copy_scores(torn_copies(prepared.table), scored),
            "protocol": _protocol(plan, self.parsed.of(CompareConfig)),
            "baseline": grid["baseline"],
            **comparison,
            "failed": _failed(failures, names, grid["seeds"]),
            "features": sum_counts(counts_of(run.member(member.name) for member in plan.members)),
            "versions": describe_environment()["packages"],
        }
        write_tables(run, metrics, networks)
        exit_code = failures[0].exit_code if failures else 0
        return ComparisonRun(run.path, metrics, report_text(metrics), exit_code)


run_comparison = partial(run_experiment, NetworkComparison)
"""Starts or resumes a comparison, as `compare` does, from parsed options."""


def _grid_file(run: RunFolder) -> Path:
    return run.path / "comparison.json"


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
