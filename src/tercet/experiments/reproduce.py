"""The reproduce command: run a recipe and list recipes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from tercet.config.experiments import REPRODUCE, ReproduceConfig
from tercet.config.parser import ParsedArguments
from tercet.config.recipe import Recipe, Scale, Setting, load_recipe, recipe_names, recipe_text
from tercet.core.errors import ConfigError, StorageError
from tercet.core.files import write_json, write_text
from tercet.core.progress import print_status
from tercet.core.result import CommandResult
from tercet.core.run_folder import RunFolder
from tercet.core.runtime import describe_environment
from tercet.core.streams import printable
from tercet.core.yaml_io import dump_yaml, read_mapping
from tercet.experiments.reproduce_results import (
    all_results,
    filled,
    pair_rows,
    pairs_text,
    read_measurements,
    table_csv,
    table_rows,
    table_text,
)
from tercet.experiments.reproduce_steps import Overrides, StepResult, works
from tercet.metrics.tables import as_text, plain_table

_RESUMED = {"resume", "parts", "json", "debug", "device", "threads"}


@dataclass(frozen=True)
class Reproduction:
    """A reproduction, as far as it has been run."""

    path: Path
    """Its folder."""
    metrics: Mapping[str, Any]
    """What `metrics.json` holds: the table, the tests, all that was measured, which parts are missing."""
    report: str
    """The table and the tests as text, and where the parts' own reports are."""

    @property
    def exit_code(self) -> int:
        """0, or that of the first training that failed beside others."""
        return self.metrics["failed"][0]["exit_code"] if self.metrics["failed"] else 0


def reproduce(
    recipe: str | Path | None = None,
    source: str | Path | None = None,
    /,
    *,
    resume: str | Path | None = None,
    console: Console | None = None,
    **options: Any,
) -> Reproduction:
    """Reproduce a published experiment, and compare published with measured numbers.

    Args:
        recipe: Name of a recipe (as `tercet reproduce` lists them), or a YAML file.
        source: Replacement images: folder, table, zip, or data set name.
        resume: Folder of a reproduction to continue, instead of a recipe.
        console: Where to report progress; silent by default.
        **options: Any option of `tercet reproduce`, such as `scale="paper"`, `replace=[{"resnet18": "resnet50"}]`,
            `data={"data_dir": "..."}`.

    Raises:
        TercetError: See `tercet.core.errors`; an interrupted reproduction can be continued with `resume`.
    """
    parsed = REPRODUCE.parse_object(options)
    return run_reproduction(recipe, source, parsed, resume=resume, console=console or Console(quiet=True))


def run_reproduction(
    recipe: str | Path | None,
    source: str | Path | None,
    parsed: ParsedArguments,
    *,
    resume: str | Path | None,
    console: Console,
) -> Reproduction:
    """Begin or continue a reproduction; run all parts, or those of `parts`."""
    config = parsed.of(ReproduceConfig)
    if resume is not None:
        other = sorted(parsed.given - _RESUMED) + [str(word) for word in (recipe, source) if word is not None]
        if other:
            raise ConfigError(f"--resume continues with the original options; it does not accept {', '.join(other)}")
        return _resume(Path(resume), config, console)
    if recipe is None:
        raise ConfigError(f"name a recipe ({', '.join(recipe_names())}), or --resume FOLDER")
    asked = load_recipe(str(recipe))
    if config.scale not in asked.scales:
        raise ConfigError(f"recipe {asked.name} has no scale {config.scale} ({', '.join(asked.scales)})")
    given = {key: value for key, value in parsed.to_dict().items() if key in parsed.given}
    data_options = {key.removeprefix("data."): value for key, value in given.items() if key.startswith("data.")}
    changes = Overrides.parse(source, data_options, config.replace, dry_run=config.dry_run)
    begun = _Begun(asked, config.scale, changes)
    begun.works(Path("."), config)  # finds what is wrong before anything is written
    run = RunFolder.create(config.output, asked.name)
    with run.lock():
        write_text(run.path / "recipe.yaml", recipe_text(str(recipe)))
        write_json(run.path / "environment.json", describe_environment())
        write_text(run.config, dump_yaml({"reproduction_of": asked.name, "scale": config.scale, **changes.to_dict()}))
        return begun.work(run, config, console)


def _resume(folder: Path, config: ReproduceConfig, console: Console) -> Reproduction:
    run = RunFolder.open(folder)
    stored = read_mapping(run.config)
    name = stored.pop("reproduction_of", None)
    if name is None:
        raise StorageError(f"{folder} is not a reproduction: it was not created by `tercet reproduce`")
    recipe = Recipe.from_mapping(str(name), read_mapping(run.path / "recipe.yaml"))
    scale = stored.pop("scale")
    with run.lock():
        return _Begun(recipe, scale, Overrides(**stored)).work(run, config, console)


@dataclass(frozen=True)
class _Begun:
    """A recipe at a scale, with what is done otherwise."""

    recipe: Recipe
    scale: Scale
    changes: Overrides

    @property
    def setting(self) -> Setting:
        return self.changes.apply(self.recipe.scales[self.scale])

    def works(self, folder: Path, config: ReproduceConfig, only: tuple[str, ...] = ()) -> list[StepResult]:
        shared = {"device": config.device, "threads": config.threads}
        return works(self.setting, folder, shared, only)

    def work(self, run: RunFolder, config: ReproduceConfig, console: Console) -> Reproduction:
        """Do what is asked for and not finished, and report all that is."""
        asked = self.works(run.path, config, config.parts)
        waiting = [work for work in asked if not work.finished()]
        for number, work in enumerate(waiting):
            print_status(
                console, f"{self.recipe.name}: {work.title} ({work.part.command}; {number + 1} of {len(waiting)})"
            )
            work.do(console)
            self.report(run, config)  # what is there can be read while the rest goes on
        return self.report(run, config)

    def report(self, run: RunFolder, config: ReproduceConfig) -> Reproduction:
        """Write and return what the finished parts say."""
        everyone = self.works(run.path, config)
        done = [work for work in everyone if work.run.metrics.is_file()]
        measurements = read_measurements(done)
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
            "parts": {
                work.title: {
                    "run": str(work.run.path.relative_to(run.path)),
                    "verb": work.part.command,
                    "note": work.part.note,
                }
                for work in done
            },
            "missing": [work.title for work in everyone if work not in done],
            "failed": [{"part": work.title, **failure} for work in done for failure in work.failures()],
            "versions": describe_environment()["packages"],
        }
        text = _text(metrics)
        write_text(run.path / "table.csv", table_csv(metrics["table"]))
        write_json(run.metrics, metrics)
        write_text(run.report, text)
        return Reproduction(run.path, metrics, text)

    def _changed(self) -> list[str]:
        """Return what the user changed, in sentences."""
        changes = self.changes
        said = [f"Images: {changes.data}."] if changes.data else []
        said += [f"Option data.{key} is {value}." for key, value in changes.data_options.items() if key != "data_dir"]
        for old, new in changes.replaced.items():
            name = new if isinstance(new, str) else new.get("model")
            said.append(f"{old} has other options." if name == old else f"In place of {old}: {name}.")
        if changes.dry_run:
            said.insert(0, "DRY RUN: every training is one step of a tiny network; the numbers are meaningless.")
        return said


def _part_line(name: str, part: Mapping[str, str]) -> str:
    note = f" ({part['note']})" if part["note"] else ""
    return filled(f"- {name}: {part['run']}/report.txt{note}") + "\n"


def _text(metrics: Mapping[str, Any]) -> str:
    parts = [f"{metrics['title']} ({metrics['recipe']}, scale {metrics['scale']})\nsource: {metrics['source']}\n"]
    parts.append(table_text("published and measured (± over seeds; of one run, the interval)", metrics["table"]))
    if metrics["tests"]:
        parts.append(pairs_text(metrics["tests"]) + "\n")
    if metrics["differs"]:
        parts.append("differs from the source:\n" + "".join(f"{filled(f'- {line}')}\n" for line in metrics["differs"]))
    if metrics["parts"]:
        parts.append("parts:\n" + "".join(_part_line(name, one) for name, one in metrics["parts"].items()))
    for one in metrics["failed"]:
        training = f"{one['part']}, {one['network']} seed {one['seed']}"
        parts.append(f"FAILED: {printable(training)}: {printable(one['message'])}\n")
    if metrics["missing"]:
        parts.append(f"not done yet: {', '.join(metrics['missing'])}\n")
    return "\n".join(parts)


def list_recipes() -> CommandResult:
    """Return the packaged recipes with their titles and the time that each scale takes."""
    recipes = [load_recipe(name) for name in recipe_names()]
    table = plain_table("recipes: tercet reproduce NAME --data-dir FOLDER; --show prints one")
    for header in ("name", "question", "scale small takes"):
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
    """Return a recipe as it is written.

    Raises:
        ConfigError: There is none of that name, or it is not sound.
    """
    load_recipe(name)
    text = recipe_text(name)
    return CommandResult(text, {"recipe": text})
