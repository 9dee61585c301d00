"""Classes and groups in file names, by regular expressions; hints at names that look like them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath

from tercet.core.errors import ConfigError
from tercet.core.output import count

_MOST = 0.9
"""Minimum share of the file names that a hint applies to."""
_NUMBERED = re.compile(r"(.*[^\W\d_])[\W_]*\d+")
_GROUP_WORDS = (
    "subject|subj|sub|patient|pat|person|participant|donor|signer|speaker|user|actor|face|case|animal|mouse|plant|tree|"
    "leaf|hand|eye|slide|scene|video|clip|specimen|individual"
)
_GROUP = re.compile(rf"(?i)(?:.*[\W_])?({_GROUP_WORDS})([\W_]?)\d+(?=[\W_])")


def compile_pattern(pattern: str, option: str) -> re.Pattern[str]:
    """Return a regular expression with a group.

    Raises:
        ConfigError: It is invalid or has no group.
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"--data.{option} '{pattern}' is not a regular expression: {error}") from error
    if not expression.groups:
        raise ConfigError(f"--data.{option} '{pattern}' has no group: put parentheses around the name")
    return expression


def first_groups(expression: re.Pattern[str], paths: Sequence[str]) -> list[str | None]:
    """Return the first group of the match in each file name without folders; None without a match."""
    matches = [expression.search(PurePosixPath(path).name) for path in paths]
    return [match[1] if match else None for match in matches]


def class_hint(paths: Sequence[str]) -> str:
    """Return advice for names such as `cat.12.jpg` and `dog.7.jpg`; empty if the names differ in numbers only."""
    stems = [PurePosixPath(path).stem for path in paths]
    names = Counter(match[1] for stem in stems if (match := _NUMBERED.fullmatch(stem)))
    if not 2 <= len(names) <= len(stems) / 2 or names.total() < _MOST * len(stems):
        return ""
    example = next(PurePosixPath(path).name for path in paths if _NUMBERED.fullmatch(PurePosixPath(path).stem))
    return (
        f"; names such as {example} have {len(names)} beginnings: if these are the classes, give "
        r"--data.class-from '^(.*[^\W\d_])[\W_]*\d+\.'"
    )


def group_hint(paths: Sequence[str]) -> str:
    """Return a note on names of people, patients or plants such as `subject01_3.jpg`; empty for other names."""
    names = [PurePosixPath(path).name for path in paths]
    matches = [match for name in names if (match := _GROUP.match(name))]
    if not matches or len(matches) < _MOST * len(names):
        return ""
    word, separator = Counter((match[1], match[2]) for match in matches).most_common(1)[0][0]
    pattern = rf"({re.escape(word)}{re.escape(separator)}\d+)"
    groups = Counter(value for value in first_groups(re.compile(pattern), names) if value)
    if not 2 <= len(groups) <= len(names) / 2 or groups.total() < _MOST * len(names):
        return ""
    return (
        f"file names look like {count(len(groups), 'group')} such as '{min(groups)}': if the images of a group are "
        f"alike, keep them in one split with --data.group-from '{pattern}'"
    )
