"""Write src/tercet/config/option_types.py: the options of the Python functions as types.

Run it and `ruff format` after a change of an option; a test fails if the file is not up to date.
"""

from __future__ import annotations

import dataclasses
import typing
from pathlib import Path
from typing import Any, Literal

from tercet.config.commands import AUDIT, EMBED, ENSEMBLE, TRAIN, OutputConfig, ResumeConfig
from tercet.config.experiments import COMPARE, CROSSVAL, REPRODUCE, TUNE
from tercet.config.fields import Field, list_fields, nested_classes, prefix_of
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
    "EmbedOptions": EMBED,
    "EnsembleOptions": ENSEMBLE,
    "ReproduceOptions": REPRODUCE,
    "TrainOptions": TRAIN,
    "TuneOptions": TUNE,
}
TRAININGS = {"CompareOptions", "CrossvalOptions", "TrainOptions", "TuneOptions"}
"""Functions that also accept networks and callbacks of the caller's."""
PARAMETERS = {"space"}
"""Options that the functions have as parameters of their own."""


def type_of(field: Field) -> str:
    """Return the values that the option accepts from Python, as source text."""
    if field.registry:
        text = "Part"
    elif typing.get_origin(field.kind) is Literal:
        text = f"Literal[{', '.join(map(repr, typing.get_args(field.kind)))}]".replace("'", '"')
    elif field.kind is Any or dataclasses.is_dataclass(field.kind):
        text = "Any"
    elif typing.get_origin(field.kind) is dict:
        text = "Mapping[str, Any]"
    else:
        text = "Text" if field.kind is str else field.kind.__name__
    if field.many:  # one value is a list of one, and lists may also be written with commas
        text = f"Sequence[{text}]{f' | {text}' * (field.kind in (int, float, bool))} | Text"
    return text + " | None" * field.optional


class Writer:
    """Writes one class per configuration class and command."""

    def __init__(self) -> None:
        self.classes: dict[str, str] = {}

    def section(self, kind: type[Any], without: frozenset[str] = frozenset(), prefix: str = "") -> str:
        """Return the name of the class for a configuration class."""
        name = f"_{prefix if without else ''}{kind.__name__}Dict"
        if name not in self.classes:
            nested = nested_classes(kind)
            lines = [f"    {key}: {self.section(inner)} | Mapping[str, Any]" for key, inner in nested.items()]
            lines += [
                f"    {field.key}: {type_of(field)}"
                for field in list_fields(kind, "", {kind: without})
                if "." not in field.key
            ]
            self.classes[name] = f"class {name}(TypedDict, total=False):\n" + "\n".join(lines) + "\n"
        return name

    def command(self, name: str, options: CommandOptions) -> None:
        """Add the class of a command."""
        bases, lines = [], []
        for kind in options.kinds:
            if kind in (OutputConfig, ResumeConfig):
                continue
            taken = PARAMETERS & {field.name for field in dataclasses.fields(kind)}
            section = self.section(kind, options.without.get(kind, frozenset()) | taken, name.removesuffix("Options"))
            if prefix := prefix_of(kind):
                lines.append(f"    {prefix.removesuffix('.')}: {section} | Mapping[str, Any]\n")
            else:
                bases.append(section)
        if name in TRAININGS:
            lines += ["    modules: Mapping[str, Callable[..., Any]] | None\n", "    callbacks: Sequence[Any] | Any\n"]
        heading = f"class {name}({', '.join(bases)}, total=False):\n"
        command = name.removesuffix("Options").lower()
        text = f'    """Options of `tercet {command}`."""\n'
        self.classes[name] = heading + text + ("\n" if lines else "") + "".join(lines)


def source() -> str:
    """Return the text of the file."""
    writer = Writer()
    for name, options in COMMANDS.items():
        writer.command(name, options)
    return "\n\n".join([HEADER, *writer.classes.values()])


if __name__ == "__main__":
    TARGET.write_text(source(), "utf-8")
