"""Recipes of published experiments: schema, and the packaged YAML files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from tercet.core.errors import ConfigError, raise_problems
from tercet.core.registry import PARTS, did_you_mean
from tercet.core.yaml_io import parse_yaml, read_mapping

Scale = Literal["small", "paper"]
SCALES: tuple[Scale, ...] = get_args(Scale)
StepCommand = Literal["train", "compare", "crossval", "ensemble"]
STEP_COMMANDS: tuple[StepCommand, ...] = get_args(StepCommand)
"""Commands of steps."""
COSTS = ("parameters", "flops", "seconds", "seconds_per_epoch")
"""Published results that are not metrics."""
Kind = TypeVar("Kind")


@dataclass(frozen=True)
class ResultSource:
    """Location of a measured number: a step, and the name of a member, network, ensemble method or fold in it."""

    step: str
    name: str

    @classmethod
    def parse(cls, text: Any) -> ResultSource:
        """Read `STEP/NAME`.

        Raises:
            ConfigError: The text has another form.
        """
        step, slash, name = str(text).partition("/")
        if not (step and slash and name):
            raise ConfigError(f"'{text}' is not of the form STEP/NAME")
        return cls(step, name)

    def __str__(self) -> str:
        return f"{self.step}/{self.name}"


@dataclass(frozen=True)
class RecipeStep:
    """One part of a recipe: a run of a command."""

    command: StepCommand
    data: str | None = None
    """Data set name, folder, table or zip (default: that of the scale)."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of the command, as in its configuration file."""
    of: tuple[str, ...] = ()
    """ensemble: the steps whose members are combined."""
    files: tuple[str, ...] = ()
    """ensemble: prediction files, relative to `data`, a folder (in `data.data_dir` if given)."""
    runs_of_classes: tuple[int, ...] = ()
    """files: rows per class, if the files are sorted by class and have no labels."""
    seeds: tuple[int, ...] = ()
    """Repeat the step with each of these seeds (compare has its own option)."""
    note: str = ""
    """Remark for the report."""


@dataclass(frozen=True)
class PublishedPair:
    """Two results to compare with a paired significance test."""

    what: str
    a: ResultSource
    b: ResultSource


@dataclass(frozen=True)
class Setting:
    """A recipe at one scale."""

    steps: Mapping[str, RecipeStep]
    """By name, in execution order."""
    data: str | None = None
    """Name of a data set, folder, table or zip, for steps that name none."""
    takes: str = ""
    """Duration and hardware."""
    differs: tuple[str, ...] = ()
    """Further differences from the source at this scale."""
    pairs: tuple[PublishedPair, ...] = ()


@dataclass(frozen=True)
class PublishedResult:
    """One row of the final table."""

    what: str
    """Description in the terms of the source."""
    metric: str = "accuracy"
    """A registered metric, or one of `COSTS`."""
    published: float | str | None = None
    """Value in the source, if any."""
    source: str = ""
    """Page, table or cell of the source."""
    small: ResultSource | None = None
    """Measured counterpart at scale `small`."""
    paper: ResultSource | None = None
    """Measured counterpart at scale `paper`."""
    per: str | None = None
    """Name in the same step whose value divides the number, for ratios such as relative duration."""

    def result_source(self, scale: Scale) -> ResultSource | None:
        """Return the location of the measured number at a scale, if any."""
        return self.small if scale == "small" else self.paper


@dataclass(frozen=True)
class Recipe:
    """A published experiment."""

    name: str
    title: str
    source: str
    scales: Mapping[Scale, Setting]
    differs: tuple[str, ...] = ()
    rows: tuple[PublishedResult, ...] = ()

    @classmethod
    def from_mapping(cls, name: str, document: Mapping[str, Any]) -> Recipe:
        """Read the content of a recipe file.

        Raises:
            ConfigError: Unknown or missing keys, or inconsistent steps, scales and results; lists all problems.
        """
        head = _check_keys(cls, {**document, "name": name}, name)
        raise_problems([not isinstance(head["scales"], Mapping) and f"{name}: scales must be a mapping"])
        scales = {scale: _setting(value, f"{name}, scale {scale}") for scale, value in head["scales"].items()}
        rows = tuple(_row(row, f"{name}, row {number + 1}") for number, row in enumerate(head.get("rows") or ()))
        head |= {"scales": scales, "rows": rows, "differs": tuple(head.get("differs") or ())}
        recipe = cls(**head)
        raise_problems(_problems(recipe))
        return recipe


def _setting(value: Any, where: str) -> Setting:
    setting = _check_keys(Setting, value, where)
    raise_problems([not isinstance(setting["steps"], Mapping) and f"{where}: steps must be a mapping"])
    steps = {}
    for name, step in setting["steps"].items():
        step = _check_keys(RecipeStep, step, f"{where}, step {name}")
        lists = {key: tuple(step.get(key) or ()) for key in ("of", "files", "runs_of_classes", "seeds")}
        steps[str(name)] = RecipeStep(**{**step, **lists, "options": dict(step.get("options") or {})})
    pairs = []
    for number, item in enumerate(setting.get("pairs") or ()):
        pair = _check_keys(PublishedPair, item, f"{where}, pair {number + 1}")
        pairs.append(PublishedPair(str(pair["what"]), ResultSource.parse(pair["a"]), ResultSource.parse(pair["b"])))
    differs = tuple(setting.get("differs") or ())
    return Setting(**{**setting, "steps": steps, "pairs": tuple(pairs), "differs": differs})


def _row(value: Any, where: str) -> PublishedResult:
    row = _check_keys(PublishedResult, value, where)
    sources: dict[str, ResultSource] = {
        scale: ResultSource.parse(row[scale]) for scale in SCALES if row.get(scale) is not None
    }
    return PublishedResult(**(row | sources))


def _check_keys(kind: type[Any], value: Any, where: str) -> dict[str, Any]:
    """Return a mapping after checking its keys: fields of a class, and all fields without a default."""
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where}: expected a mapping, got {value!r}")
    known = {item.name: item for item in fields(kind)}
    required = [name for name, item in known.items() if item.default is MISSING and item.default_factory is MISSING]
    raise_problems(
        [
            *(f"{where}: unknown key '{key}'{did_you_mean(str(key), known)}" for key in value if key not in known),
            *(f"{where}: '{key}' is missing" for key in required if key not in value),
        ]
    )
    return dict(value)


def _problems(recipe: Recipe) -> Iterator[str]:
    for scale, setting in recipe.scales.items():
        where = f"{recipe.name}, scale {scale}"
        if scale not in SCALES:
            yield f"{where}: the scales are {', '.join(SCALES)}"
        for name, step in setting.steps.items():
            yield from _step_problems(
                f"{where}, step {name}", step, list(setting.steps)[: list(setting.steps).index(name)]
            )
            if step.command != "ensemble" and step.data is None and setting.data is None:
                yield f"{where}, step {name}: no data"
        sources = [source for pair in setting.pairs for source in (pair.a, pair.b)]
        for source in [*sources, *(source for row in recipe.rows if (source := row.result_source(scale)))]:
            if source.step not in setting.steps:
                yield f"{where}: '{source}' is not a result of a step{did_you_mean(source.step, setting.steps)}"
    for number, row in enumerate(recipe.rows):
        where = f"{recipe.name}, row {number + 1}"
        if row.metric not in (known := [*PARTS["metric"], *COSTS]):
            yield f"{where}: unknown metric '{row.metric}'{did_you_mean(row.metric, known)} ({', '.join(known)})"
        for scale in SCALES:
            if row.result_source(scale) is not None and scale not in recipe.scales:
                yield f"{where}: the recipe has no scale {scale}"


def _step_problems(where: str, step: RecipeStep, earlier: list[str]) -> Iterator[str]:
    if step.command not in STEP_COMMANDS:
        guess = did_you_mean(step.command, STEP_COMMANDS)
        yield f"{where}: unknown command '{step.command}'{guess} ({', '.join(STEP_COMMANDS)})"
    if (step.command == "ensemble") != (bool(step.of) != bool(step.files)):
        yield f"{where}: an ensemble, and no other step, needs either of (steps) or files"
    for name in step.of:
        if name not in earlier:
            yield f"{where}: '{name}' is not an earlier step"
    if step.seeds and (step.command == "compare" or step.files):
        yield f"{where}: {step.command} does not take seeds here; compare has a seeds option"


_SUFFIX = ".yaml"


def recipe_names() -> list[str]:
    """Return the names of the packaged recipes."""
    return sorted(entry.name.removesuffix(_SUFFIX) for entry in _folder().iterdir() if entry.name.endswith(_SUFFIX))


def recipe_text(name: str) -> str:
    """Return the text of a packaged recipe, or of a YAML file.

    Raises:
        ConfigError: The recipe does not exist, or the file cannot be read.
    """
    if Path(name).suffix in (_SUFFIX, ".yml"):
        try:
            return Path(name).read_text("utf-8-sig")
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "not UTF-8 text"
            raise ConfigError(f"cannot read {name}: {reason}") from error
    if name not in recipe_names():
        known = ", ".join(recipe_names())
        raise ConfigError(
            f"unknown recipe '{name}'{did_you_mean(name, recipe_names())} (known: {known}; or a YAML file)"
        )
    return (_folder() / f"{name}{_SUFFIX}").read_text("utf-8")


def load_recipe(name: str) -> Recipe:
    """Return a packaged recipe, or one from a YAML file.

    Raises:
        ConfigError: The recipe does not exist or is invalid.
    """
    is_file = Path(name).suffix in (_SUFFIX, ".yml")
    document = read_mapping(name) if is_file else parse_yaml(recipe_text(name), source=f"recipe {name}")
    return Recipe.from_mapping(Path(name).stem if is_file else name, document)


def _folder() -> Traversable:
    return files("tercet") / "recipes"
