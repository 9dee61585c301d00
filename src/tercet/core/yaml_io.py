"""YAML files with the scalars of YAML 1.2, unique keys, and one-line error messages.

YAML 1.1 (PyYAML) would read `no` as false, `1:30` as 90, `010` as 8 and `1e-4` as text.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from tercet.core.errors import ConfigError

_PREFIX = "tag:yaml.org,2002:"
_SCALARS = (  # tag, pattern, first characters
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ("~", "n", "N", "")),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)", "-+0123456789"),
    (
        "float",
        r"[-+]?(?:(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+|\.(?:inf|Inf|INF))"
        r"|\.(?:nan|NaN|NAN)",
        "-+0123456789.",
    ),
    ("merge", r"<<", "<"),
)


class _Loader(yaml.SafeLoader):
    """Safe YAML with the scalars above; a key given twice in one mapping is an error."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - name and type of PyYAML

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for index, (key, _) in enumerate(node.value):
            if isinstance(key, yaml.ScalarNode) and key.value in keys[:index] and key.value != "<<":
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key '{key.value}' is given twice", key.start_mark
                )
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Safe YAML that quotes all texts that YAML 1.1 or `_Loader` would read as another type."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _tag, _pattern, _first in _SCALARS:
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(_PREFIX + _tag, re.compile(f"^(?:{_pattern})$"), list(_first))


def parse_yaml(text: str, *, source: str = "the text") -> Any:
    """Parse one YAML document (JSON is also YAML).

    Args:
        text: The document.
        source: Name for messages.

    Raises:
        ConfigError: The text is not YAML, has a repeated key, or is nested too deeply.
    """
    try:
        return _Loader(text).get_single_data()
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        expected = f"{error.context}, " if str(error.context).startswith("expected") else ""
        raise ConfigError(f"{source}{line}: {expected}{error.problem or 'not YAML'}") from error
    except (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        first = (
            str(error).splitlines()[0] if str(error) else type(error).__name__
        )  # also raised for invalid explicit tags
        raise ConfigError(f"{source} is not YAML: {first}") from error


def read_yaml(path: str | Path) -> Any:
    """Return the value of a YAML file.

    Raises:
        ConfigError: The file cannot be read or is not YAML.
    """
    try:
        text = Path(path).read_text("utf-8-sig")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise ConfigError(f"cannot read {path}: {reason}") from error
    return parse_yaml(text, source=str(path))


def read_mapping(path: str | Path) -> dict[str, Any]:
    """Return the mapping in a YAML file.

    Raises:
        ConfigError: The file cannot be read, is not YAML, or is not a mapping.
    """
    value = read_yaml(path)
    if value is None:
        raise ConfigError(f"{path} is empty: add options such as 'batch_size: 64'")
    if not isinstance(value, dict):
        raise ConfigError(f"{path} is not a mapping: write options such as 'batch_size: 64', one per line")
    return {str(key): item for key, item in value.items()}


def dump_yaml(document: Any) -> str:
    """Return plain values as block YAML in their order; `parse_yaml` reads them back equal."""
    text = yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    if "\x85" in text:  # PyYAML writes it unescaped but reads it as a line break
        text = yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=120)
    return text
