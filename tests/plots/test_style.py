import ast
import re
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.cbook import is_math_text

import tercet.plots
from tercet.core.streams import printable
from tercet.plots.style import LONGEST, label, labels, new_figure, pixels, png_bytes, save, svg_text
from tests.fixtures.browser import HOSTILE

SVG = "{http://www.w3.org/2000/svg}"


def hostile_figure():
    figure, (left, right) = new_figure(8, 3, columns=2)
    left.set_title(label(HOSTILE[0]))
    left.set_yticks(range(len(HOSTILE)), labels=map(label, HOSTILE))
    right.imshow([[1, 2], [3, 4]])
    right.plot([0, 1], [0, 1], "o")
    return figure


@given(st.text(max_size=60))
def test_names_are_drawn_letter_by_letter(name: str) -> None:
    shown = label(name)
    assert not is_math_text(shown)
    assert shown.isprintable() or "\u200e" in shown
    plain = shown.replace(r"\$", "$").strip("\u200e")
    assert len(plain) <= LONGEST
    if len(printable(name)) <= LONGEST:
        assert plain == printable(name)


def test_long_names_lose_their_middle() -> None:
    assert label("abcdefghij", 5) == "ab…ij"
    assert label("abcde", 5) == "abcde"


def test_a_name_from_right_to_left_does_not_turn_its_neighbours_around() -> None:
    assert label(HOSTILE[6]) == f"\u200e{HOSTILE[6]}\u200e"


def test_files_are_the_same_every_time_and_settings_stay(tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    first = save(hostile_figure(), tmp_path / "a", "figure")
    again = save(hostile_figure(), tmp_path / "b", "figure")
    assert [path.name for path in first] == ["figure.png", "figure.svg"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in again]
    assert dict(matplotlib.rcParams) == before
    assert b"tEXt" not in first[0].read_bytes()
    ElementTree.parse(first[1])


def test_svg_for_a_page_is_alone_in_its_ids_and_rules() -> None:
    text = svg_text(hostile_figure(), "one-")
    root = ElementTree.fromstring(text)
    assert root.tag == f"{SVG}svg"
    assert {node.tag for node in root.iter()} & {f"{SVG}style", f"{SVG}script", f"{SVG}metadata", f"{SVG}text"} == set()
    ids = {node.get("id") for node in root.iter() if node.get("id")}
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', text))
    assert used
    assert used <= ids
    assert all(name.startswith("one-") for name in ids)
    assert "<!--" not in text
    assert "alert" not in text


def test_pixels_are_what_the_file_shows() -> None:
    figure = hostile_figure()
    assert pixels(figure, dpi=50).shape == (150, 400, 3)
    assert len(png_bytes(figure, dpi=50)) < len(png_bytes(figure))


def test_nothing_global_is_touched() -> None:
    for path in Path(tercet.plots.__path__[0]).glob("*.py"):
        used = {
            ast.unparse(node) for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.expr)
        }
        imported = [
            ast.unparse(node) for node in ast.walk(ast.parse(path.read_text("utf-8"))) if hasattr(node, "names")
        ]
        assert not any("pyplot" in line for line in imported), path
        assert not {"matplotlib.rcParams", "rcParams", "matplotlib.use"} & used, path


def test_names_that_differ_in_their_middle_stay_apart() -> None:
    names = [f"a long beginning of every name {number} and an end as long as that" for number in (4, 17, 18)]
    assert labels(names, 20) == ["…4…", "…17…", "…18…"]  # 17 and 18 keep their common digit
    assert labels(["cat", "dog"], 20) == ["cat", "dog"]
    assert labels(["a" * 50, "a" * 51], 20) == [label("a" * 50, 20), label("a" * 51, 20)]
