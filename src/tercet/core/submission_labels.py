"""Texts of a sample submission that stand for classes: names, also in another form, and numbers. K classes."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Literal

from tercet.core.errors import DataError
from tercet.core.output import join_few

Numbering = Literal["0", "1", "names"]
"""Numbers of classes: positions counted from 0 or from 1, or the numbers at the ends of their names."""
_CASES: tuple[tuple[int, Callable[[str], str]], ...] = (
    (0, str),
    (1, str.lower),
    (1, str.upper),
    (1, str.capitalize),
    (1, str.title),
)
_SEPARATORS = (None, "_", " ", "-", "")


def class_texts(
    texts: Collection[str], classes: Sequence[str], *, where: str, numbers: Numbering | None = None
) -> tuple[str, ...]:
    """Return the K texts for the classes that a sample uses, of which it contains `texts`.

    Args:
        texts: Labels or column names of the sample, not blank.
        classes: Names of the classes.
        where: Beginning of messages: "FILE has the label".
        numbers: Meaning of numbers, if they are not names.

    Raises:
        DataError: A text stands for none of the classes, or it is unclear what numbers or other forms of names mean.
    """
    unknown = sorted(set(texts) - set(classes))
    if not unknown and numbers is None:
        return tuple(classes)
    is_numeric = all(text.isdecimal() for text in texts)
    if numbers is not None or (is_numeric and not any(name.isdecimal() for name in classes)):
        candidates = _numberings(set(texts), classes, [numbers] if numbers else ["0", "1", "names"])
    else:
        candidates = _other_forms(texts, classes)
    if len(candidates) == 1:
        return candidates.pop()
    if not candidates:
        unknown = unknown or sorted(texts)
        raise DataError(
            f"{where} '{unknown[0]}', which is none of the {len(classes)} classes ({join_few(classes)}); "
            f"{len(unknown)} unknown in total"
        )
    if is_numeric:
        raise DataError(
            f"{where} '{min(texts)}', which may count the classes from 0, from 1, or be a number in their names: give "
            "--submission-numbers 0, 1 or names"
        )
    raise DataError(
        f"{where} '{unknown[0]}', a class in another form, and the forms of the other classes are unclear: write each "
        "class at least once into the sample"
    )


def _numberings(texts: set[str], classes: Sequence[str], kinds: Iterable[Numbering]) -> set[tuple[str, ...]]:
    """Return the numberings of the classes that contain all texts; those of exactly the texts take precedence."""
    in_names = [match[0] if (match := re.search(r"[0-9]+$", name)) else "" for name in classes]
    numberings: dict[Numbering, list[tuple[str, ...]]] = {
        "0": [tuple(str(index) for index in range(len(classes)))],
        "1": [tuple(str(index + 1) for index in range(len(classes)))],
        "names": [tuple(in_names), tuple(number.lstrip("0") or "0" for number in in_names)] if all(in_names) else [],
    }
    fitting = set()
    for kind in kinds:
        unique = (candidate for candidate in numberings[kind] if len(set(candidate)) == len(candidate))
        fitting |= set(itertools.islice((candidate for candidate in unique if texts <= set(candidate)), 1))
    return {candidate for candidate in fitting if set(candidate) == texts} or fitting


def _other_forms(texts: Collection[str], classes: Sequence[str]) -> set[tuple[str, ...]]:
    """Return the forms of the class names that contain all texts, which differ in case and separators."""
    index_of = {text_key(name): index for index, name in enumerate(classes)}
    texts_by_class = {index_of[key]: text for text in texts if (key := text_key(text)) in index_of}
    if len(index_of) < len(classes) or "" in index_of or len(texts_by_class) < len(set(texts)):
        return set()
    if len(texts_by_class) == len(classes):
        return {tuple(texts_by_class[index] for index in range(len(classes)))}
    forms: dict[int, set[tuple[str, ...]]] = {}
    for cost, convert in _CASES:
        for separator in _SEPARATORS:
            form = tuple(
                convert(name if separator is None else re.sub(r"[\s_-]+", separator, name)) for name in classes
            )
            if all(form[index] == text for index, text in texts_by_class.items()):
                forms.setdefault(cost + (separator is not None), set()).add(form)
    # the form with the fewest changes; without a common form, the texts themselves show that it is unclear
    return forms[min(forms)] if forms else {tuple(classes), tuple(texts_by_class.values())}


def text_key(text: str) -> str:
    """Return a text without case and separators."""
    return re.sub(r"[\s_-]+", "", text).casefold()
