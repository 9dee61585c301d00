"""The reproduce command: run a recipe and list recipes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Unpack

from rich.console import Console

from tercet.config.experiments import REPRODUCE, ReproduceConfig
from tercet.config.option_types import ReproduceOptions
from tercet.config.parser import ParsedArguments
from tercet.config.recipe import Recipe, Scale, load_recipe, recipe_names, recipe_text
from tercet.core.errors import ConfigError
from tercet.core.files import write_text
from tercet.core.output import CommandResult, printable
from tercet.core.progress import as_console, print_status
from tercet.core.run_folder import RunFolder
from tercet.core.runtime import describe_environment
from tercet.core.yaml_io import read_mapping
from tercet.experiments.experiment import Experiment, run_experiment
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
from tercet.metrics.table import Table


class Reproduction(RunResult):
    """Result of `reproduce`: table, tests, all measured results, missing steps."""


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
    data = None if source is None else str(source)
    return run_experiment(RecipeRun, recipe, parsed, resume=resume, console=console, data=data)


@dataclass(frozen=True)
class RecipeRun(Experiment[Recipe, Reproduction]):
    """A recipe at a scale, with the user's overrides."""

    data: str | None = None
    """Replacement images."""

    command = "reproduce"
    options = REPRODUCE
    source_name = "recipe"
    missing_source = f"name a recipe ({', '.join(recipe_names())})"
    changeable = frozenset({"steps", "device", "threads"})

    @property
    def scale(self) -> Scale:
        """The scale."""
        return self.parsed.of(ReproduceConfig).scale

    @cached_property
    def overrides(self) -> Overrides:
        """Changes to the recipe."""
        values, config = self.parsed.to_dict(), self.parsed.of(ReproduceConfig)
        given = {key.removeprefix("data."): values[key] for key in self.parsed.given if key.startswith("data.")}
        return Overrides.parse(self.data, given, config.replace, dry_run=config.dry_run)

    def stored_options(self) -> dict[str, Any]:
        """Return the given options; files that replace networks are stored with their content."""
        given = {key: value for key, value in super().stored_options().items() if key in self.parsed.given - {"steps"}}
        replaced = [{old: new} for old, new in self.overrides.replaced.items()]
        return {**given, "scale": self.scale, "dry_run": self.overrides.dry_run, "replace": replaced, "data": self.data}

    def check(self) -> None:
        """Check that the recipe has the scale, and the options of all steps."""
        recipe = load_recipe(str(self.source))
        if self.scale not in recipe.scales:
            raise ConfigError(f"recipe {recipe.name} has no scale {self.scale} ({', '.join(recipe.scales)})")
        self.runs(recipe, Path("."))

    def prepare(self, run: RunFolder) -> Recipe:
        """Copy the recipe."""
        write_text(_copy(run), recipe_text(str(self.source)))
        return load_recipe(str(self.source))

    def reopen(self, run: RunFolder) -> Recipe | None:
        """Read the copy of the recipe."""
        name = str(self.source) if self.source in recipe_names() else Path(str(self.source)).stem
        return Recipe.from_mapping(name, read_mapping(_copy(run))) if _copy(run).is_file() else None

    def runs(self, recipe: Recipe, folder: Path, only: tuple[str, ...] = ()) -> list[StepRun]:
        """Return the runs of all steps, or of some."""
        config = self.parsed.of(ReproduceConfig)
        setting = self.overrides.apply(recipe.scales[self.scale])
        return step_runs(setting, folder, {"device": config.device, "threads": config.threads}, only)

    def work(self, run: RunFolder, state: Recipe, console: Console) -> Reproduction:
        """Execute the selected steps that are not finished, then report all finished ones."""
        runs = self.runs(state, run.path, self.parsed.of(ReproduceConfig).steps)
        pending = [step_run for step_run in runs if not step_run.finished()]
        for number, step_run in enumerate(pending, 1):
            progress = f"{step_run.step.command}; {number} of {len(pending)}"
            print_status(console, f"{state.name}: {step_run.title} ({progress})")
            step_run.execute(console)
            result = self.report(run, state)
            run.write_results(result.metrics, result.report)  # so that results can be read while later steps run
        return self.report(run, state)

    def report(self, run: RunFolder, recipe: Recipe) -> Reproduction:
        """Return the results of the finished steps, and write their table."""
        all_runs = self.runs(recipe, run.path)
        finished = [step_run for step_run in all_runs if step_run.run.metrics.is_file()]
        measurements = read_measurements(finished)
        setting = recipe.scales[self.scale]
        metrics: dict[str, Any] = {
            "recipe": recipe.name,
            "title": recipe.title,
            "source": recipe.source,
            "scale": self.scale,
            "differs": [*recipe.differs, *setting.differs, *self._changed()],
            "table": table_rows(recipe, self.scale, measurements, replaced=self.overrides.data),
            "tests": pair_rows(recipe, self.scale, measurements),
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
        write_text(run.path / "table.csv", table_csv(metrics["table"]))
        exit_code = metrics["failed"][0]["exit_code"] if metrics["failed"] else 0
        return Reproduction(run.path, metrics, _text(metrics), exit_code)

    def _changed(self) -> list[str]:
        """Return the user's overrides as sentences."""
        overrides = self.overrides
        lines = [f"Images: {overrides.data}; published numbers are of other images."] if overrides.data else []
        lines += [
            f"Option data.{key} is {value}." for key, value in overrides.data_options.items() if key != "data_dir"
        ]
        for old, new in overrides.replaced.items():
            name = new if isinstance(new, str) else new.get("model")
            lines.append(f"{old} has other options." if name == old else f"In place of {old}: {name}.")
        if overrides.dry_run:
            lines.insert(0, "DRY RUN: every training is one step of a tiny network; the numbers are meaningless.")
        return lines


def _copy(run: RunFolder) -> Path:
    return run.path / "recipe.yaml"


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
    rows = [
        (recipe.name, recipe.title, recipe.scales["small"].takes if "small" in recipe.scales else "-")
        for recipe in recipes
    ]
    title = "recipes: tercet reproduce NAME --data-dir FOLDER; --show prints one"
    table = Table(("name", "question", "time (scale small)"), rows, caption=title)
    document = [
        {
            "name": recipe.name,
            "title": recipe.title,
            "source": recipe.source,
            "takes": {scale: setting.takes for scale, setting in recipe.scales.items()},
        }
        for recipe in recipes
    ]
    return CommandResult(table.to_text(), {"recipes": document})


def show_recipe(name: str) -> CommandResult:
    """Return the YAML text of a recipe.

    Raises:
        ConfigError: Unknown or invalid recipe.
    """
    load_recipe(name)
    text = recipe_text(name)
    return CommandResult(text, {"recipe": text})
