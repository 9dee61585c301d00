"""Compare networks fairly: a grid of them, several seeds each, one data set, one split, one table.

A comparison is one run folder whose members are the networks with each seed: they share the decoded images, train side
by side, resume and leave bundles as the members of `tercet train` do. Beside what a run leaves there are
comparison.json (the grid), networks.csv, pairs.csv and images.csv.
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
from tercet.experiments.jobs import raise_failures
from tercet.experiments.plan import Plan
from tercet.experiments.pool import FailedJob
from tercet.experiments.train import make_plan, train_waiting, write_run
from tercet.metrics.significance import Comparison
from tercet.metrics.significance import compare as compare_predictions
from tercet.models.build import check_weights

_DATA = "comparison_of"  # how config.yaml names the data, beside the options
_CONFIGS = (CompareConfig, DataConfig, ModelConfig, TrainingConfig)
_MAY_DIFFER = {"resume", "json", "debug", "output"}


@dataclass(frozen=True)
class ComparisonRun:
    """A finished comparison."""

    path: Path
    """Its folder."""
    metrics: Mapping[str, Any]
    """What `metrics.json` holds: networks, pairs, easy and hard images, what failed."""
    report: str
    """The tables as text."""
    exit_code: int = 0
    """0, or that of the first training that failed."""


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
    """Compare networks on images by training them, or two sets of predictions that exist.

    Args:
        source: Folder of images by class, table, zip, or the name of a data set; or predictions.
        other: Where `source` is predictions, those to compare them with: McNemar's exact test, and the paired
            bootstrap interval of the difference in accuracy.
        resume: Folder of a comparison to go on with: only what is missing, or failed, is trained.
        console: Where to report progress; silent by default.
        **options: Any option of `tercet compare`, such as `backbones=["small-cnn", "row-lstm"]`, `seeds=5`, `epochs=3`.

    Raises:
        TercetError: Nothing could be trained, or the predictions are not of the same samples. A network that fails
            beside others that do not is told in the answer.
    """
    if isinstance(source, Predictions) or isinstance(other, Predictions):
        if not (isinstance(source, Predictions) and isinstance(other, Predictions)) or options:
            raise ConfigError("two predictions are compared with each other, without options")
        return compare_predictions(source, other)
    parsed = COMPARE.parse_object(options)
    return run_comparison(source, parsed, resume=resume, console=console or Console(quiet=True))


def run_comparison(
    data: str | Path | None, parsed: ParsedArguments, *, resume: str | Path | None, console: Console
) -> ComparisonRun:
    """Begin or continue a comparison and see it to its end."""
    if resume is not None:
        run, source, begun = _begun(resume, data, parsed)
        with run.lock():
            run.remove_unfinished()
            if not run.plan.is_file():
                plan, prepared = _begin(run, source, begun)
            else:
                plan = Plan.load(run)
                prepared = plan.open_data(run)
            return _work(run, plan, prepared, begun, console)
    if data is None:
        raise ConfigError("give a folder of images, a table, a zip or the name of a data set, or --resume FOLDER")
    cells = _grid(parsed)
    for cell in cells:
        check_weights(cell.network, cell.model)
    run = RunFolder.create(parsed.of(CompareConfig).output, f"{Path(str(data)).stem}-compare")
    with run.lock():
        write_text(run.config, dump_yaml({_DATA: str(data), **parsed.to_dict(*_CONFIGS)}))
        with run.delete_if_invalid():
            plan, prepared = _begin(run, str(data), parsed)
        return _work(run, plan, prepared, parsed, console)


def _begun(
    resume: str | Path, data: str | Path | None, parsed: ParsedArguments
) -> tuple[RunFolder, str, ParsedArguments]:
    """Return the comparison to go on with; the command that began it may be given again, but not another one."""
    run = RunFolder.open(resume)
    stored = read_mapping(run.config)
    if _DATA not in stored:
        raise StorageError(f"{run.path} holds no comparison: it was not begun by `tercet compare`")
    source = str(stored.pop(_DATA))
    begun = COMPARE.parse_object(stored, source=str(run.config))
    before, now = begun.to_dict(*_CONFIGS), parsed.to_dict(*_CONFIGS)
    other = sorted(key for key in parsed.given - _MAY_DIFFER if now[key] != before[key])
    if data is not None and str(data) != source:
        other.insert(0, "data")
    if other:
        names = ", ".join(other)
        raise ConfigError(f"--resume goes on as the comparison was begun: {names} differ(s) from {run.config}")
    return run, source, begun


def _grid(parsed: ParsedArguments) -> tuple[MemberConfig, ...]:
    """Return the networks; find what is wrong with them before any data is touched."""
    config = parsed.of(CompareConfig)
    choose_device(config.device)
    cells = expand_grid(config, parsed.of(ModelConfig), parsed.of(TrainingConfig))
    check_fairness(config, cells)
    return cells


def _begin(run: RunFolder, data: str, parsed: ParsedArguments) -> tuple[Plan, DataModule]:
    config, data_config = parsed.of(CompareConfig), parsed.of(DataConfig)
    write_json(run.path / "environment.json", describe_environment())
    cells = _grid(parsed)
    baseline = baseline_of(config, cells)
    prepared = prepare_data(data, data_config)
    settled = fix_budget(cells, config, baseline=baseline, prepared=prepared, data=data_config)
    seeds = config.all_seeds()
    run_config = RunConfig(
        ensemble_methods=(),
        seed=config.seed,
        device=config.device,
        threads=config.threads,
        tensorboard=config.tensorboard,
    )
    members = with_seeds([cell.member for cell in settled], seeds)
    plan = replace(make_plan(data, prepared, data_config, FusionConfig(), run_config, members), compared=True)
    networks = [{"name": cell.member.name, "network": cell.member.network, **cell.notes} for cell in settled]
    write_json(_grid_file(run), {"baseline": baseline, "seeds": list(seeds), "networks": networks})
    write_run(run, plan, prepared)
    return plan, prepared


def _grid_file(run: RunFolder) -> Path:
    return run.path / "comparison.json"


def _work(run: RunFolder, plan: Plan, prepared: DataModule, parsed: ParsedArguments, console: Console) -> ComparisonRun:
    """Train what is not trained yet, compare, report."""
    failures = train_waiting(run, plan, prepared, console)
    if len(failures) == len(plan.members):
        raise_failures(failures, run)
    grid = read_json(_grid_file(run))
    names = [network["name"] for network in grid["networks"]]
    contenders = read_networks(run, names, grid["seeds"])
    found = compare_networks(contenders, baseline=grid["baseline"], monitor=plan.monitor)
    for row, network in zip(found["networks"], grid["networks"], strict=True):
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
        **found,
        "failed": _failed(failures, names, grid["seeds"]),
        "versions": describe_environment()["packages"],
    }
    report = report_text(metrics)
    write_tables(run, metrics, contenders)
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
    owners = {member_name(name, seed): (name, seed) for name in names for seed in seeds}
    rows = []
    for failure in failures:
        name, seed = owners[failure.job.title]
        rows.append({"network": name, "seed": seed, "message": failure.message, "exit_code": failure.exit_code})
    return rows
