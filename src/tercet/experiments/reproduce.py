"""The reproduce command: run a recipe and list recipes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

from rich.console import Console
from rich.text import Text

from tercet.config.experiments import REPRODUCE, ReproduceConfig
from tercet.config.option_types import ReproduceOptions
from tercet.config.parser import ParsedArguments
from tercet.config.recipe import Recipe, Scale, Setting, load_recipe, recipe_names, recipe_text
from tercet.core.errors import ConfigError, StorageError
from tercet.core.files import write_json, write_text
from tercet.core.output import CommandResult, printable
from tercet.core.progress import as_console, print_status
from tercet.core.run_folder import RunFolder
from tercet.core.runtime import describe_environment
from tercet.core.yaml_io import dump_yaml, read_mapping
from tercet.experiments.reproduce_results import (
    all_results,
    pair_rows,
    pairs_text,
    read_measurements,
    table_csv,
    table_rows,
    table_text,
    wrap,
)
from tercet.experiments.reproduce_steps import Overrides, StepRun, step_runs
from tercet.experiments.results import RunResult
from tercet.metrics.tables import as_text, plain_table

_RESUMED = {"resume", "steps", "json", "debug", "device", "threads"}


@dataclass(frozen=True, repr=False)
class Reproduction(RunResult):
    """Result of `reproduce`; steps may still be missing."""

    path: Path
    metrics: Mapping[str, Any]
    """Content of `metrics.json`: table, tests, all measured results, missing steps."""
    report: str
    """Table and tests as text, and the paths of the steps' reports."""

    @property
    def exit_code(self) -> int:
        """0, or the exit code of the first failed training."""
        return self.metrics["failed"][0]["exit_code"] if self.metrics["failed"] else 0


def reproduce(
    recipe: str | Path | None = None,
    source: str | Path | None = None,
    /,
    *,
    resume: str | Path | None = None,
    console: Console | bool | None = None,
    **options: Unpack[ReproduceOptions],
) -> Reproduction:
    """Reproduce a published experiment and compare published with measured numbers.

    Args:
        recipe: Name of a recipe (as `tercet reproduce` lists them), or a YAML file.
        source: Replacement images: folder, table, zip, or data set name.
        resume: Folder of a reproduction to continue, instead of a recipe.
        console: Console for progress, `False` for none (default: standard error, or the notebook).
        **options: Any option of `tercet reproduce`, such as `scale="paper"`, `replace=[{"resnet18": "resnet50"}]`,
            `data={"data_dir": "..."}`.

    Raises:
        TercetError: See `tercet.core.errors`; an interrupted reproduction can be continued with `resume`.
    """
    parsed = REPRODUCE.parse_object(options)
    return run_reproduction(recipe, source, parsed, resume=resume, console=as_console(console))


def run_reproduction(
    recipe: str | Path | None,
    source: str | Path | None,
    parsed: ParsedArguments,
    *,
    resume: str | Path | None,
    console: Console,
) -> Reproduction:
    """Start or resume a reproduction; run all steps, or those of `steps`."""
    config = parsed.of(ReproduceConfig)
    if resume is not None:
        extra = sorted(parsed.given - _RESUMED) + [
            str(argument) for argument in (recipe, source) if argument is not None
        ]
        if extra:
            raise ConfigError(f"--resume continues with the original options; it does not accept {', '.join(extra)}")
        return _resume(Path(resume), config, console)
    if recipe is None:
        raise ConfigError(f"name a recipe ({', '.join(recipe_names())}), or --resume FOLDER")
    loaded = load_recipe(str(recipe))
    if config.scale not in loaded.scales:
        raise ConfigError(f"recipe {loaded.name} has no scale {config.scale} ({', '.join(loaded.scales)})")
    options = {key: value for key, value in parsed.to_dict().items() if key in parsed.given}
    data_options = {key.removeprefix("data."): value for key, value in options.items() if key.startswith("data.")}
    overrides = Overrides.parse(source, data_options, config.replace, dry_run=config.dry_run)
    experiment = _Experiment(loaded, config.scale, overrides)
    experiment.runs(Path("."), config)  # raises on invalid options before anything is written
    run = RunFolder.create(config.output, loaded.name)
    document = {"reproduction_of": loaded.name, "scale": config.scale, **overrides.to_dict()}
    with run.lock():
        write_text(run.path / "recipe.yaml", recipe_text(str(recipe)))
        write_json(run.path / "environment.json", describe_environment())
        write_text(run.config, dump_yaml(document))
        return experiment.execute(run, config, console)


def _resume(folder: Path, config: ReproduceConfig, console: Console) -> Reproduction:
    run = RunFolder.open(folder)
    stored = read_mapping(run.config)
    name = stored.pop("reproduction_of", None)
    if name is None:
        raise StorageError(f"{folder} is not a reproduction: it was not created by `tercet reproduce`")
    recipe = Recipe.from_mapping(str(name), read_mapping(run.path / "recipe.yaml"))
    scale = stored.pop("scale")
    with run.lock():
        return _Experiment(recipe, scale, Overrides(**stored)).execute(run, config, console)


@dataclass(frozen=True)
class _Experiment:
    """A recipe at a scale, with the user's overrides."""

    recipe: Recipe
    scale: Scale
    overrides: Overrides

    @property
    def setting(self) -> Setting:
        return self.overrides.apply(self.recipe.scales[self.scale])

    def runs(self, folder: Path, config: ReproduceConfig, only: tuple[str, ...] = ()) -> list[StepRun]:
        shared = {"device": config.device, "threads": config.threads}
        return step_runs(self.setting, folder, shared, only)

    def execute(self, run: RunFolder, config: ReproduceConfig, console: Console) -> Reproduction:
        """Execute the selected steps that are not finished, then report all finished ones."""
        pending = [step_run for step_run in self.runs(run.path, config, config.steps) if not step_run.finished()]
        for number, step_run in enumerate(pending, 1):
            progress = f"{step_run.step.command}; {number} of {len(pending)}"
            print_status(console, f"{self.recipe.name}: {step_run.title} ({progress})")
            step_run.execute(console)
            self.report(run, config)  # so that results can be read while later steps run
        return self.report(run, config)

    def report(self, run: RunFolder, config: ReproduceConfig) -> Reproduction:
        """Write metrics, table and report of the finished steps."""
        all_runs = self.runs(run.path, config)
        finished = [step_run for step_run in all_runs if step_run.run.metrics.is_file()]
        measurements = read_measurements(finished)
        setting = self.recipe.scales[self.scale]
        metrics = {
            "recipe": self.recipe.name,
            "title": self.recipe.title,
            "source": self.recipe.source,
            "scale": self.scale,
            "differs": [*self.recipe.differs, *setting.differs, *self._changed()],
            "table": table_rows(self.recipe, self.scale, measurements),
            "tests": pair_rows(self.recipe, self.scale, measurements),
            "measured": all_results(measurements),
            "steps": {
                step_run.title: {
                    "run": str(step_run.run.path.relative_to(run.path)),
                    "command": step_run.step.command,
                    "note": step_run.step.note,
                }
                for step_run in finished
            },
            "missing": [step_run.title for step_run in all_runs if step_run not in finished],
            "failed": [{"step": step_run.title, **failure} for step_run in finished for failure in step_run.failures()],
            "versions": describe_environment()["packages"],
        }
        text = _text(metrics)
        write_text(run.path / "table.csv", table_csv(metrics["table"]))
        write_json(run.metrics, metrics)
        write_text(run.report, text)
        return Reproduction(run.path, metrics, text)

    def _changed(self) -> list[str]:
        """Return the user's overrides as sentences."""
        overrides = self.overrides
        lines = [f"Images: {overrides.data}."] if overrides.data else []
        lines += [
            f"Option data.{key} is {value}." for key, value in overrides.data_options.items() if key != "data_dir"
        ]
        for old, new in overrides.replaced.items():
            name = new if isinstance(new, str) else new.get("model")
            lines.append(f"{old} has other options." if name == old else f"In place of {old}: {name}.")
        if overrides.dry_run:
            lines.insert(0, "DRY RUN: every training is one step of a tiny network; the numbers are meaningless.")
        return lines


def _step_line(name: str, step: Mapping[str, str]) -> str:
    note = f" ({step['note']})" if step["note"] else ""
    return wrap(f"- {name}: {step['run']}/report.txt{note}") + "\n"


def _text(metrics: Mapping[str, Any]) -> str:
    parts = [f"{metrics['title']} ({metrics['recipe']}, scale {metrics['scale']})\nsource: {metrics['source']}\n"]
    parts.append(table_text("published and measured (± over seeds; of one run, the interval)", metrics["table"]))
    if metrics["tests"]:
        parts.append(pairs_text(metrics["tests"]) + "\n")
    if metrics["differs"]:
        parts.append(
            "differences from the source:\n" + "".join(f"{wrap(f'- {line}')}\n" for line in metrics["differs"])
        )
    if metrics["steps"]:
        parts.append("steps:\n" + "".join(_step_line(name, step) for name, step in metrics["steps"].items()))
    for failure in metrics["failed"]:
        training = f"{failure['step']}, {failure['network']} seed {failure['seed']}"
        parts.append(f"FAILED: {printable(training)}: {printable(failure['message'])}\n")
    if metrics["missing"]:
        parts.append(f"not done yet: {', '.join(metrics['missing'])}\n")
    return "\n".join(parts)


def list_recipes() -> CommandResult:
    """List the packaged recipes with their titles and running times."""
    recipes = [load_recipe(name) for name in recipe_names()]
    table = plain_table("recipes: tercet reproduce NAME --data-dir FOLDER; --show prints one")
    for header in ("name", "question", "time (scale small)"):
        table.add_column(header, overflow="fold")
    for recipe in recipes:
        setting = recipe.scales.get("small")
        table.add_row(recipe.name, Text(recipe.title), Text(setting.takes if setting else "-"))
    document = [
        {
            "name": recipe.name,
            "title": recipe.title,
            "source": recipe.source,
            "takes": {scale: setting.takes for scale, setting in recipe.scales.items()},
        }
        for recipe in recipes
    ]
    return CommandResult(as_text(table), {"recipes": document})


def show_recipe(name: str) -> CommandResult:
    """Return the YAML text of a recipe.

    Raises:
        ConfigError: Unknown or invalid recipe.
    """
    load_recipe(name)
    text = recipe_text(name)
    return CommandResult(text, {"recipe": text})
