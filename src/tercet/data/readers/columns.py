"""Which column of a table is the image, the label, the group: told by the user or by the usual names."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tercet.ground.errors import ConfigError, DataError
from tercet.ground.registry import nearest
from tercet.records.config import DataConfig

IMAGE_COLUMNS = ("image", "file", "path", "filename", "id")
LABEL_COLUMNS = ("label", "class", "target")


@dataclass(frozen=True)
class Columns:
    """Positions of the columns that mean something; None where there is none."""

    image: int
    labels: tuple[int, ...]
    id: int | None
    group: int | None
    split: int | None
    fold: int | None
    weight: int | None


def find_columns(header: Sequence[str], config: DataConfig, *, name: str) -> Columns:
    """Tell which column is which: by the configuration first, else by the usual names (case ignored).

    Raises:
        DataError: There is no column for the image or the label.
        ConfigError: A column that was asked for is not there, or the label's column is not clear.
    """
    doubled = sorted({column for column in header if column and header.count(column) > 1})
    if doubled:
        raise DataError(f"{name} has two columns named '{doubled[0]}': rename one")
    known = {column.casefold(): position for position, column in enumerate(header)}

    def asked(option: str, column: str) -> int:
        if column not in header:
            raise ConfigError(
                f"data.{option}: {name} has no column '{column}'{nearest(column, header)} (it has: {', '.join(header)})"
            )
        return header.index(column)

    def usual(names: Sequence[str]) -> int | None:
        return next((known[alias] for alias in names if alias in known), None)

    image = asked("image_column", config.image_column) if config.image_column else usual(IMAGE_COLUMNS)
    if image is None:
        raise DataError(
            f"{name} has no column {', '.join(IMAGE_COLUMNS)}: name the one with the file with --data.image-column "
            f"(it has: {', '.join(header)})"
        )
    return Columns(
        image=image,
        labels=_label_columns(header, known, config, name, asked),
        id=known.get("id"),
        group=asked("group_column", config.group_column) if config.group_column else None,
        split=known.get("split"),
        fold=known.get("fold"),
        weight=known.get("weight"),
    )


def _label_columns(
    header: Sequence[str], known: dict[str, int], config: DataConfig, name: str, asked: Callable[[str, str], int]
) -> tuple[int, ...]:
    named = config.label_columns or ()
    if len(set(named)) < len(named):
        raise ConfigError(f"data.label_columns names a column twice: {', '.join(named)}")
    if named:
        return tuple(asked("label_columns", column) for column in named)
    found = [known[alias] for alias in LABEL_COLUMNS if alias in known]
    if len(found) == 1:
        return (found[0],)
    if found:
        several = ", ".join(header[position] for position in found)
        raise ConfigError(f"{name}: the columns {several} could all be the label: choose with --data.label-columns")
    raise DataError(
        f"{name} has no column {', '.join(LABEL_COLUMNS)}: name the one with the class with --data.label-columns "
        f"(it has: {', '.join(header)})"
    )


def file_name(pattern: str | None, fields: Sequence[str], *, header: Sequence[str], image: int) -> str:
    """Return the file that a row names: the image column, put into the pattern where there is one.

    Raises:
        ConfigError: The pattern names no column, or one that is not there.
    """
    if pattern is None:
        return fields[image]

    def value(match: re.Match[str]) -> str:
        if match[1] in header:
            return fields[header.index(match[1])]
        if match[1] in ("id", "image"):
            return fields[image]
        raise ConfigError(f"data.image_pattern: no column '{match[1]}' (there are: {', '.join(header)})")

    name, used = re.subn(r"\{([^{}]*)\}", value, pattern)
    if not used:
        raise ConfigError(f"data.image_pattern '{pattern}' names no column: write it like '{{id}}.jpg'")
    return name
