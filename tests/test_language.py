"""Guard for the language of code and documents: plain technical English with the terms of the field.

The list is short on purpose: it keeps out the patterns that were once frequent here, and is not a grammar.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PATTERNS = {
    "'is not a X' instead of 'is no X'": r"(?<!there )\b(?:is|are|was|were) no (?!longer|more\b|less\b|need\b)\w",
    "'reports', 'shows', 'detects' instead of 'tells'": r"(?<![.\w])(?:told|tells?)\b(?!\()",
    "'cannot be' needs a verb": r"\bcannot (?:be|be had)\b(?=[.,;:)\"'`]|$)",
    "'invalid' instead of 'what cannot be'": r"\bwhat cannot\b|\bthat cannot be\b(?=[.,;:)\"'`]|$)",
    "subject before verb": r"\b(?:Told|Scored|Shown|Measured|Reported|Listed|Written|Left) (?:is|are)\b",
    "'per' instead of 'a'": r"\b(?:images|seconds|bytes|steps|points|updates|threads|labels|parameters|operations|"
    r"predictions|requests|epochs|classes|value|values|row|rows) an? (?:second|epoch|image|update|class|step|run|fold|"
    r"member|request|file|row|process|direction|gate|channel|batch|sample|minute|network|training)\b",
    "files and models do not speak": r"\b(?:file|bundle|model|network|table|folder|test|graph|program|manifest|page)s?"
    r" (?:says?|said|sees?|saw|knows?|asks?|asked|speaks?|answers|tells?)\b",
    "nothing is asked": r"\b(?:is|are|was|were|be) asked (?:about|whether|for)\b|\basked (?:twice|once|about)\b",
    "a definition starts with its noun": r"\"\"\"(?:What|Who|How it is|Where it) ",
    "no metaphors of houses and roads": r"\b(?:rooms?|doors?|roads?|houses?|floors?)\b(?!\()",
    "no private phrases": r"\bstrangers?\b|\bin vain\b|\b(?:go|goes|going|gone) on with\b|\bhand(?:s|ed)? (?:over|on)\b"
    r"|\bhouse rules?\b|\bcannot be had\b|\bis there\b(?=[.,;)])",
}
ALLOWED = (
    "math.floor",
    "np.floor",
    "floor_",
    "floor division",
    "floor(",
    "hamster house",
    "ray road",
    "House Numbers",
)
VARIABLES = frozenset({"one", "found", "told", "said", "shown", "asked", "saw", "wanted", "whole", "given_"})
"""Names of local variables that say nothing about the value."""


def files() -> Iterator[Path]:
    """Yield the files that the guard reads."""
    yield from sorted((ROOT / "src").rglob("*.py"))
    yield from sorted((ROOT / "src").rglob("*.yaml"))
    yield from sorted((ROOT / "src").rglob("*.html"))
    yield from sorted((ROOT / "docs").glob("*.md"))
    yield from (ROOT / "README.md", ROOT / "CONTRIBUTING.md")


def offences(text: str) -> Iterator[tuple[int, str, str]]:
    """Yield line number, broken rule and matched words."""
    for number, line in enumerate(text.splitlines(), 1):
        plain = line
        for word in ALLOWED:
            plain = plain.replace(word, "")
        for rule, pattern in PATTERNS.items():
            for match in re.finditer(pattern, plain, re.IGNORECASE if rule[0] != "s" else 0):
                yield number, rule, match[0]


def assigned_names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield line and name of every assigned variable, loop variable, and parameter."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg


def test_texts_use_the_language_of_the_field() -> None:
    lines = [
        f"{path.relative_to(ROOT)}:{number}: {words!r}: {rule}"
        for path in files()
        for number, rule, words in offences(path.read_text("utf-8"))
    ]
    assert not lines, f"{len(lines)} places\n" + "\n".join(lines)


def test_variables_are_nouns_of_their_values() -> None:
    lines = [
        f"{path.relative_to(ROOT)}:{number}: {name}"
        for path in sorted((ROOT / "src").rglob("*.py"))
        for number, name in assigned_names(ast.parse(path.read_text("utf-8")))
        if name in VARIABLES
    ]
    assert not lines, f"{len(lines)} places\n" + "\n".join(lines)


def test_the_guard_finds_each_pattern() -> None:
    samples = (
        "a.txt is no folder",
        "the classes are told once",
        "An option that cannot be.",
        "Refuse what cannot be read",
        "Told are the scores",
        "images a second",
        "the file says so",
        "both are asked about the same images",
        '"""What is left."""',
        "the door of the package",
        "files of strangers",
    )
    for sample, rule in zip(samples, PATTERNS, strict=True):
        assert rule in {broken for _, broken, _ in offences(sample)}, sample
    assert list(offences("there is no folder; it is no longer used; math.floor(x); stream.tell()")) == []
