import ast
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.cbook import is_math_text

import tercet.plots
from tercet.core.output import printable
from tercet.plots.style import LONGEST, label, labels, new_figure, pixels, png_bytes, save
from tests.fixtures.browser import HOSTILE


def hostile_figure():
    figure, (left, right) = new_figure(8, 3, columns=2)
    left.set_title(label(HOSTILE[0]))
    left.set_yticks(range(len(HOSTILE)), labels=map(label, HOSTILE))
    right.imshow([[1, 2], [3, 4]])
    right.plot([0, 1], [0, 1], "o")
    return figure


@given(st.text(max_size=60))
def test_labels_are_plain_text_of_limited_length(name: str) -> None:
    text = label(name)
    assert not is_math_text(text)
    assert text.isprintable() or "\u200e" in text
    plain = text.replace(r"\$", "$").strip("\u200e")
    assert len(plain) <= LONGEST
    if len(printable(name)) <= LONGEST:
        assert plain == printable(name)


def test_long_names_are_shortened_in_the_middle() -> None:
    assert label("abcdefghij", 5) == "ab…ij"
    assert label("abcde", 5) == "abcde"


def test_right_to_left_names_are_isolated() -> None:
    assert label(HOSTILE[6]) == f"\u200e{HOSTILE[6]}\u200e"


def test_files_are_reproducible_and_settings_are_restored(tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    first = save(hostile_figure(), tmp_path / "a", "figure")
    again = save(hostile_figure(), tmp_path / "b", "figure")
    assert [path.name for path in first] == ["figure.png", "figure.svg"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in again]
    assert dict(matplotlib.rcParams) == before
    assert b"tEXt" not in first[0].read_bytes()
    ElementTree.parse(first[1])


def test_pixels_have_the_size_of_the_figure() -> None:
    figure = hostile_figure()
    assert pixels(figure, dpi=50).shape == (150, 400, 3)
    assert len(png_bytes(figure, dpi=50)) < len(png_bytes(figure))


def test_plots_use_neither_pyplot_nor_global_settings() -> None:
    for path in Path(tercet.plots.__path__[0]).glob("*.py"):
        used = {
            ast.unparse(node) for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.expr)
        }
        imported = [
            ast.unparse(node) for node in ast.walk(ast.parse(path.read_text("utf-8"))) if hasattr(node, "names")
        ]
        assert not any("pyplot" in line for line in imported), path
        assert not {"matplotlib.rcParams", "rcParams", "matplotlib.use"} & used, path


def test_labels_of_names_with_common_ends_are_distinct() -> None:
    names = [f"a long beginning of every name {number} and an end as long as that" for number in (4, 17, 18)]
    assert labels(names, 20) == ["…4…", "…17…", "…18…"]  # numbers are not divided
    assert labels(["cat", "dog"], 20) == ["cat", "dog"]
    assert labels(["a" * 50, "a" * 51], 20) == [label("a" * 50, 20), label("a" * 51, 20)]
