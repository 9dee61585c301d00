import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tercet.plots.page import (
    Block,
    Code,
    Details,
    Figure,
    Images,
    Page,
    Paragraph,
    Section,
    Table,
    Warning,
    render,
    write_page,
)

HOSTILE = "<script>alert(1)</script> & \"quoted\" 'too' \x1b[31m \udcff"
SVG = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1 1"><rect width="1" height="1"/></svg>'
PNG = b"\x89PNG\r\n\x1a\n" + bytes(8)
JPEG = b"\xff\xd8\xff" + bytes(8)
VOID = {"meta", "img", "br", "hr", "link", "input"}


class Tree(HTMLParser):
    """Parses a page and records its tags and texts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def names(self) -> list[str]:
        return [tag for tag, _ in self.tags]

    def all(self, attribute: str) -> list[str]:
        return [str(attributes[attribute]) for _, attributes in self.tags if attribute in attributes]


def page_of(*blocks: Block, title: str = "a page") -> str:
    return render(Page(title, [Section("only", blocks)]))


EVERY_BLOCK: list[Block] = [
    Paragraph(HOSTILE),
    Paragraph(HOSTILE, quiet=True),
    Table((HOSTILE, "n"), [(HOSTILE, HOSTILE)], "lr", HOSTILE, frozenset({0})),
    Table((), [(HOSTILE, HOSTILE)]),
    Figure(SVG, HOSTILE, HOSTILE),
    Figure(PNG, HOSTILE, wide=True),
    Images([(JPEG, HOSTILE)], HOSTILE),
    Warning(HOSTILE, HOSTILE),
    Code(f"{HOSTILE}\nsecond line", HOSTILE),
    Details(HOSTILE, [Paragraph(HOSTILE)]),
    Section(HOSTILE, [Paragraph(HOSTILE)], anchor=HOSTILE),
]


def test_all_text_is_escaped() -> None:
    tree = Tree(render(Page(HOSTILE, [Section(HOSTILE, EVERY_BLOCK), Section(HOSTILE, [])], HOSTILE)))
    assert tree.open == []
    assert "script" not in tree.names()
    assert not any(name.startswith("on") for _, attributes in tree.tags for name in attributes)
    text = "".join(tree.texts)
    assert text.count("<script>alert(1)</script>") >= len(EVERY_BLOCK)
    assert "\x1b" not in text and "\\x1b[31m" in text and "\\udcff" in text


def test_the_escaping_test_has_all_blocks() -> None:
    assert {type(block) for block in EVERY_BLOCK} == set(
        (Paragraph, Table, Figure, Images, Warning, Code, Details, Section)
    )


def test_pages_have_no_requests_and_no_scripts() -> None:
    text = page_of(*EVERY_BLOCK)
    tree = Tree(text)
    (policy,) = (tag["content"] for _, tag in tree.tags if tag.get("http-equiv") == "Content-Security-Policy")
    assert str(policy).startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'")
    assert all(address.startswith("data:image/") for address in tree.all("src"))
    assert all(address.startswith("#") for address in tree.all("href"))
    style = text.partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in style and "@import" not in style and "prefers-color-scheme: dark" in style
    assert len(tree.all("src")) == 3 and len(tree.all("alt")) == 3


def test_headings_are_in_order() -> None:
    inner = Section("c", [Section("d", [Section("e", [Section("f", [Section("g", [])])])])])
    tree = Tree(render(Page("a", [Section("b", [inner]), Section("h", [])])))
    levels = [int(name[1]) for name in tree.names() if re.fullmatch(r"h\d", name)]
    assert levels == [1, 2, 3, 4, 5, 6, 6, 2]


def test_anchors_are_unique() -> None:
    sections = [Section(title, []) for title in ("Same name", "Same: name!", "名前", "другое")]
    tree = Tree(render(Page("a", [*sections, Section("x", [], anchor="results")])))
    anchors = [address.removeprefix("#") for address in tree.all("href")]
    assert anchors == ["same-name", "same-name-2", "section", "section-2", "results"]
    assert tree.all("id") == anchors
    assert "nav" not in Tree(page_of()).names()


def test_table_cells_have_scopes_and_classes() -> None:
    table = Table(("name", "accuracy"), [("a", "0.5"), ("b", "0.7"), ("c",)], "lr", "Results", frozenset({1}))
    tree = Tree(page_of(table))
    assert tree.all("scope") == ["col", "col", "row", "row", "row"]
    assert [attributes for tag, attributes in tree.tags if tag == "tr"] == [{}, {}, {"class": "strong"}, {}]
    assert [attributes.get("class") for tag, attributes in tree.tags if tag == "td"] == ["number", "number"]
    assert "Results" in tree.texts and "facts" not in tree.all("class")
    facts = Tree(page_of(Table((), [("seed", "0")])))
    assert facts.all("scope") == ["row"] and "facts" in facts.all("class")


def test_consecutive_figures_share_a_row() -> None:
    tree = Tree(page_of(Figure(SVG, "a"), Figure(SVG, "b"), Paragraph("c"), Figure(SVG, "d")))
    assert tree.all("class").count("figures") == 2


def test_invalid_values_raise() -> None:
    with pytest.raises(ValueError, match="not PNG, JPEG or SVG"):
        page_of(Figure(b"GIF89a", "moving"))
    with pytest.raises(ValueError, match="'Results' is longer than its 1 columns"):
        page_of(Table(("name",), [("a", "b")], caption="Results"))


def test_a_page_is_one_utf8_file(tmp_path: Path) -> None:
    page = Page("имя 名前 \U0001f600", [Section("s", [Paragraph("x")])])
    write_page(tmp_path / "page.html", page)
    assert (tmp_path / "page.html").read_bytes() == render(page).encode("utf-8")
