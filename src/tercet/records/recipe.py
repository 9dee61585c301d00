"""A recipe: a published experiment as parts that ordinary verbs run, and the published numbers beside them.

A recipe is a YAML file. It says where the numbers are from (`title`, `source`), what it does differently from there
(`differs`), its `scales` (`paper` is the published setting, `small` one that two cores finish), each with `parts`, and
`rows`: one line of the final table each, a published number and, by scale, the reading that stands beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Literal, TypeVar, get_args

from tercet.ground.errors import ConfigError, require
from tercet.ground.registry import nearest

Scale = Literal["small", "paper"]
SCALES: tuple[Scale, ...] = get_args(Scale)
"""The two sizes of a recipe."""
Verb = Literal["train", "compare", "crossval", "ensemble"]
VERBS: tuple[Verb, ...] = get_args(Verb)
"""What a part can do."""
METRICS = ("accuracy", "macro_f1", "kappa", "log_loss", "ece", "parameters", "flops", "seconds", "seconds_per_epoch")
"""What a row can be about."""
Kind = TypeVar("Kind")


@dataclass(frozen=True)
class Reading:
    """Where a measured number is found: a part, and the name of a member, network, way to fuse or fold in it."""

    part: str
    name: str

    @classmethod
    def parse(cls, text: Any) -> Reading:
        """Read `PART/NAME`.

        Raises:
            ConfigError: Another form.
        """
        part, slash, name = str(text).partition("/")
        if not (part and slash and name):
            raise ConfigError(f"'{text}' is not of the form PART/NAME")
        return cls(part, name)

    def __str__(self) -> str:
        return f"{self.part}/{self.name}"


@dataclass(frozen=True)
class Part:
    """One run of a verb."""

    verb: Verb
    """What is done."""
    data: str | None = None
    """Name of a data set, folder, table or zip (default: the scale's)."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of the verb, as its own configuration file has them."""
    of: tuple[str, ...] = ()
    """ensemble: the parts whose members are fused."""
    files: tuple[str, ...] = ()
    """ensemble: prediction files, relative to `data`, a folder (in `data.data_dir` if given)."""
    runs_of_classes: tuple[int, ...] = ()
    """files: rows per class, if the files are sorted by class and have no labels."""
    seeds: tuple[int, ...] = ()
    """Repeat the part with each of these seeds (a comparison has seeds of its own)."""
    note: str = ""
    """What a reader should know of it."""


@dataclass(frozen=True)
class Pair:
    """Two readings that a test compares on the images they were measured on."""

    what: str
    a: Reading
    b: Reading


@dataclass(frozen=True)
class Setting:
    """A recipe at one scale."""

    parts: Mapping[str, Part]
    """By name, in the order to run."""
    data: str | None = None
    """Name of a data set, folder, table or zip, for parts that name none."""
    takes: str = ""
    """How long, on what."""
    differs: tuple[str, ...] = ()
    """What this scale does differently from the source, beside what the recipe says."""
    pairs: tuple[Pair, ...] = ()
    """Tests to make."""


@dataclass(frozen=True)
class Row:
    """One line of the final table."""

    what: str
    """What was measured, in the source's words."""
    metric: str = "accuracy"
    """Which number."""
    published: float | str | None = None
    """The source's, or None where it has none."""
    source: str = ""
    """Where it stands there."""
    small: Reading | None = None
    """What is measured beside it at this scale."""
    paper: Reading | None = None
    """The same at the published scale."""
    per: str | None = None
    """Name in the same part that the number is divided by (how many times as slow)."""

    def reading(self, scale: Scale) -> Reading | None:
        """Return where the measured number is found at a scale."""
        return self.small if scale == "small" else self.paper


@dataclass(frozen=True)
class Recipe:
    """A published experiment."""

    name: str
    title: str
    source: str
    scales: Mapping[Scale, Setting]
    differs: tuple[str, ...] = ()
    rows: tuple[Row, ...] = ()

    @classmethod
    def from_mapping(cls, name: str, document: Mapping[str, Any]) -> Recipe:
        """Read what a recipe's file holds.

        Raises:
            ConfigError: Unknown or missing keys, or parts, scales and readings that do not fit together; all are told.
        """
        head = _take(cls, {**document, "name": name}, name)
        require([not isinstance(head["scales"], Mapping) and f"{name}: scales must be a mapping"])
        scales = {scale: _setting(value, f"{name}, scale {scale}") for scale, value in head["scales"].items()}
        rows = tuple(_row(row, f"{name}, row {number + 1}") for number, row in enumerate(head.get("rows") or ()))
        head |= {"scales": scales, "rows": rows, "differs": tuple(head.get("differs") or ())}
        recipe = cls(**head)
        require(_problems(recipe))
        return recipe


def _setting(value: Any, where: str) -> Setting:
    found = _take(Setting, value, where)
    require([not isinstance(found["parts"], Mapping) and f"{where}: parts must be a mapping"])
    parts = {}
    for name, part in found["parts"].items():
        taken = _take(Part, part, f"{where}, part {name}")
        listed = {key: tuple(taken.get(key) or ()) for key in ("of", "files", "runs_of_classes", "seeds")}
        parts[str(name)] = Part(**{**taken, **listed, "options": dict(taken.get("options") or {})})
    pairs = []
    for number, pair in enumerate(found.get("pairs") or ()):
        taken = _take(Pair, pair, f"{where}, pair {number + 1}")
        pairs.append(Pair(str(taken["what"]), Reading.parse(taken["a"]), Reading.parse(taken["b"])))
    return Setting(**{**found, "parts": parts, "pairs": tuple(pairs), "differs": tuple(found.get("differs") or ())})


def _row(value: Any, where: str) -> Row:
    found = _take(Row, value, where)
    readings: dict[str, Reading] = {
        scale: Reading.parse(found[scale]) for scale in SCALES if found.get(scale) is not None
    }
    return Row(**(found | readings))


def _take(kind: type[Any], value: Any, where: str) -> dict[str, Any]:
    """Return a mapping whose keys are fields of a class, and hold all those without a default."""
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where}: expected a mapping, got {value!r}")
    known = {item.name: item for item in fields(kind)}
    needed = [name for name, item in known.items() if item.default is MISSING and item.default_factory is MISSING]
    require(
        [
            *(f"{where}: unknown key '{key}'{nearest(str(key), known)}" for key in value if key not in known),
            *(f"{where}: '{key}' is missing" for key in needed if key not in value),
        ]
    )
    return dict(value)


def _problems(recipe: Recipe) -> Iterator[str]:
    for scale, setting in recipe.scales.items():
        where = f"{recipe.name}, scale {scale}"
        if scale not in SCALES:
            yield f"{where}: the scales are {', '.join(SCALES)}"
        for name, part in setting.parts.items():
            yield from _part_problems(
                f"{where}, part {name}", part, list(setting.parts)[: list(setting.parts).index(name)]
            )
            if part.verb != "ensemble" and part.data is None and setting.data is None:
                yield f"{where}, part {name}: no data"
        readings = [reading for pair in setting.pairs for reading in (pair.a, pair.b)]
        for reading in [*readings, *(found for row in recipe.rows if (found := row.reading(scale)))]:
            if reading.part not in setting.parts:
                yield f"{where}: '{reading}' names no part{nearest(reading.part, setting.parts)}"
    for number, row in enumerate(recipe.rows):
        where = f"{recipe.name}, row {number + 1}"
        if row.metric not in METRICS:
            yield f"{where}: unknown metric '{row.metric}'{nearest(row.metric, METRICS)} ({', '.join(METRICS)})"
        for scale in SCALES:
            if row.reading(scale) is not None and scale not in recipe.scales:
                yield f"{where}: there is no scale {scale}"


def _part_problems(where: str, part: Part, earlier: list[str]) -> Iterator[str]:
    if part.verb not in VERBS:
        yield f"{where}: unknown verb '{part.verb}'{nearest(part.verb, VERBS)} ({', '.join(VERBS)})"
    if (part.verb == "ensemble") != (bool(part.of) != bool(part.files)):
        yield f"{where}: an ensemble, and no other part, needs either of (parts) or files"
    for name in part.of:
        if name not in earlier:
            yield f"{where}: '{name}' is no part before it"
    if part.seeds and (part.verb == "compare" or part.files):
        yield f"{where}: {part.verb} does not take seeds here; compare has a seeds option"
