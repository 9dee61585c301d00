"""Write src/tercet/config/option_types.py: the options of the Python functions as types.

Run it and `ruff format` after a change of an option; a test fails if the file is not up to date.
"""

from __future__ import annotations

import dataclasses
import typing
from pathlib import Path
from typing import Any, Literal

from tercet.config.analysis import AUDIT
from tercet.config.commands import ENSEMBLE, TRAIN, OutputConfig, ResumeConfig
from tercet.config.experiments import COMPARE, CROSSVAL, REPRODUCE, TUNE
from tercet.config.fields import Field
from tercet.config.parser import CommandOptions

TARGET = Path(__file__).resolve().parents[1] / "src" / "tercet" / "config" / "option_types.py"
HEADER = '''"""The keywords of the Python functions as types, for editors and type checkers.

Written by scripts/write_option_types.py from the configuration classes, which describe each option.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import Any, Literal, TypeAlias, TypedDict

Text: TypeAlias = str | PathLike[str]
Part: TypeAlias = str | Callable[..., Any]
"""The name of a registered part, or a part of the caller's."""
'''
COMMANDS = {
    "AuditOptions": AUDIT,
    "CompareOptions": COMPARE,
    "CrossvalOptions": CROSSVAL,
    "EnsembleOptions": ENSEMBLE,
    "ReproduceOptions": REPRODUCE,
    "TrainOptions": TRAIN,
    "TuneOptions": TUNE,
}
PARAMETERS = {"space"}
"""Options that the functions have as parameters of their own."""


def type_of(owner: type[Any], field: dataclasses.Field[Any], hint: Any) -> str:
    """Return the values that the option accepts from Python, as source text."""
    described = Field(field.name, hint, None, owner)
    element = described.element
    kind = described.inner if element is None else element
    if field.metadata.get("registry"):
        text = "Part"
    elif typing.get_origin(kind) is Literal:
        text = f"Literal[{', '.join(map(repr, typing.get_args(kind)))}]".replace("'", '"')
    elif kind is Any or dataclasses.is_dataclass(kind):
        text = "Any"
    elif typing.get_origin(kind) is dict:
        text = "Mapping[str, Any]"
    else:
        text = "Text" if kind is str else kind.__name__
    if element is not None:  # one value is a list of one, and lists may also be written with commas
        text = f"Sequence[{text}]{f' | {text}' * (kind in (int, float, bool))} | Text"
    return text + " | None" * described.optional


class Writer:
    """Writes one class per configuration class and command."""

    def __init__(self) -> None:
        self.classes: dict[str, str] = {}

    def section(self, kind: type[Any], without: frozenset[str] = frozenset(), prefix: str = "") -> str:
        """Return the name of the class for a configuration class."""
        name = f"_{prefix if without else ''}{kind.__name__}Dict"
        if name not in self.classes:
            hints, lines = typing.get_type_hints(kind), []
            for field in dataclasses.fields(kind):
                hint = hints[field.name]
                if field.name not in without:
                    nested = dataclasses.is_dataclass(hint)
                    text = self.mapping(hint) if nested else type_of(kind, field, hint)
                    lines.append(f"    {field.name}: {text}")
            self.classes[name] = f"class {name}(TypedDict, total=False):\n" + "\n".join(lines) + "\n"
        return name

    def mapping(self, kind: type[Any]) -> str:
        """Return the type of a section: its class completes the keys, and a `dict` in a variable is accepted too."""
        return f"{self.section(kind)} | Mapping[str, Any]"

    def command(self, name: str, options: CommandOptions) -> None:
        """Add the class of a command."""
        bases, lines = [], []
        for prefix, kind in options.schema.groups:
            if kind in (OutputConfig, ResumeConfig):
                continue
            taken = PARAMETERS & {field.name for field in dataclasses.fields(kind)}
            without = frozenset(options.schema.without.get(kind, frozenset()) | taken)
            section = self.section(kind, without, name.removesuffix("Options"))
            if prefix:
                lines.append(f"    {prefix.removesuffix('.')}: {section} | Mapping[str, Any]\n")
            else:
                bases.append(section)
        heading = f"class {name}({', '.join(bases)}, total=False):\n"
        text = f'    """Options of `tercet {options.command}`."""\n'
        self.classes[name] = heading + text + ("\n" if lines else "") + "".join(lines)


def source() -> str:
    """Return the text of the file."""
    writer = Writer()
    for name, options in COMMANDS.items():
        writer.command(name, options)
    return "\n\n".join([HEADER, *writer.classes.values()])


if __name__ == "__main__":
    TARGET.write_text(source(), "utf-8")
