"""Label cells of a table: words for missing labels, and values of indicator columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from tercet.core.output import join_few

_IN_ANY_CASE = {"nan", "-nan", "1.#qnan", "-1.#qnan", "1.#ind", "-1.#ind", "null", "(null)", "\\n", "n/a", "<na>"}
_IN_ANY_CASE |= {"#n/a", "#na", "<none>", "?", "??", "-", "--", "---"}
_IN_THIS_CASE = ("None", "NA", "#N/A N/A", "NaT")
"""Words for missing values that pandas reads as such or writes; `none` and `na` in other cases are names of classes."""
_DOUBTFUL = frozenset(
    ["none", "na", "unknown", "unlabeled", "unlabelled", "missing", "undefined", "tbd", "todo", "blank", "empty"]
)
"""Names that may mean a class or a missing label; they are read as classes, and a note mentions them."""
_INDICATORS = {
    **dict.fromkeys(("true", "t", "yes", "y", "x"), 1),
    **dict.fromkeys(("false", "f", "no", "n"), 0),
}


class MissingLabels:
    """Decides which cells have no label, and counts the words that it finds.

    Args:
        words: Exact words for a missing label, in addition to blank cells; None: the usual ones.
    """

    def __init__(self, words: Sequence[str] | None = None) -> None:
        self.words = None if words is None else {word.strip() for word in words}
        self.counts: Counter[str] = Counter()

    def matches(self, cell: str) -> bool:
        """Return whether a stripped cell is blank or a word for a missing label."""
        if not cell:
            return True
        if self.words is not None:
            return cell in self.words
        return cell in _IN_THIS_CASE or cell.casefold() in _IN_ANY_CASE

    def text(self, cell: str) -> str:
        """Return a cell without surrounding blanks; empty, and counted, if it is a word for a missing label."""
        cell = cell.strip()
        if cell and self.matches(cell):
            self.counts[cell] += 1
            return ""
        return cell

    def keep_signs(self, cells: Iterable[str]) -> None:
        """Read `-` as a label if the cells are signs: `+` is among them."""
        if self.words is None and any(cell.strip() == "+" for cell in cells):
            self.words = {*_IN_THIS_CASE, *(word for word in _IN_ANY_CASE if word != "-")}

    def notes(self, labels: Iterable[str], meaning: str = "missing labels") -> tuple[str, ...]:
        """Return sentences about the words with that meaning, and about labels that may mean a missing one."""
        found_words = [f"'{word}' ({count})" for word, count in self.counts.most_common()]
        notes = []
        if found_words:
            notes.append(
                f"{self.counts.total()} label cells are read as {meaning}: {join_few(found_words, limit=10)}; "
                "other words: --data.missing-labels"
            )
        if self.words is None:
            counts = Counter(labels)
            numbers = bool(counts) and all(label.lstrip("-").isdecimal() for label in counts)
            doubtful = [label for label in counts if label.casefold() in _DOUBTFUL]
            doubtful += ["-1"] if numbers and {"-1", "0", "1"} <= set(counts) else []
            notes += [
                f"the label '{label}' ({counts[label]} rows) is read as a class; if it marks a missing label, add "
                f"--data.missing-labels {','.join([label, *self.counts])}"
                for label in sorted(doubtful)
            ]
        return tuple(notes)


def indicator_value(cell: str) -> int | None:
    """Return 1, 0 or -1 (uncertain) for the cell of an indicator column, or None if it is something else."""
    word = cell.casefold()
    if word in _INDICATORS:
        return _INDICATORS[word]
    number = as_number(word)
    return int(number) if number in (1, 0, -1) else None


def as_number(cell: str) -> float | None:
    """Return a cell as a number, or None if it is not a number."""
    try:
        return float(cell) if cell.isascii() and "_" not in cell else None
    except ValueError:
        return None


def is_category(cell: str) -> bool:
    """Return whether a cell may be the value of a categorical column: words and whole numbers from 2 on are."""
    number = as_number(cell)
    if number is not None:
        return number > 1 and number.is_integer() if number == number else False
    return len(cell) == 1 or cell.casefold() not in _INDICATORS
