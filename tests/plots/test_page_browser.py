"""Pages in a browser: no scripts, no requests, no overflow, sufficient contrast."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tercet.plots.page import Code, Details, Figure, Images, Page, Paragraph, Section, Table, Warning, write_page
from tercet.report.run import write_report
from tests.fixtures.browser import DESK, HOSTILE, PHONE, OpenPage
from tests.fixtures.report_runs import write_run

Look = Callable[..., OpenPage]
SLOW = pytest.mark.slow
READ = "p, h1, h2, h3, td, th, a, figcaption, caption span, summary, code, li"
SVG = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"><script>alert(2)</script><path d="M0 0h9v9z"/></svg>'


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = write_run(tmp_path_factory.mktemp("runs") / "run", options={"monitor_split": "test"})
    return write_report(run, title=HOSTILE[0]).path


@pytest.fixture
def all_blocks(tmp_path: Path) -> Path:
    """Write a page with all kinds of blocks, with long and hostile text."""
    text = " ".join(HOSTILE)
    wide = Table(HOSTILE, [HOSTILE, HOSTILE], "r" * len(HOSTILE), text, frozenset({1}))
    blocks = [
        Warning(text, HOSTILE[0]),
        Paragraph(text),
        wide,
        Table((), [(HOSTILE[4], HOSTILE[4])]),
        Figure(SVG, text),
        Code(HOSTILE[4] * 5),
        Details(text, [wide, Code(text)]),
        Section(text, [Paragraph(text, quiet=True), Images([], text)]),
    ]
    path = tmp_path / "page.html"
    write_page(path, Page(text, [Section(text, blocks), Section("next", [])]))
    return path


def unfold(opened: OpenPage) -> None:
    opened.page.eval_on_selector_all("details", "all => all.forEach(details => { details.open = true; })")


@pytest.mark.parametrize(
    ("page", "dark"),
    [("all_blocks", False), ("all_blocks", True), ("reported", True), pytest.param("reported", False, marks=SLOW)],
)
def test_pages_have_no_errors_no_overflow_and_enough_contrast(
    page: str, dark: bool, look: Look, request: pytest.FixtureRequest
) -> None:
    opened = look(request.getfixturevalue(page), dark=dark)
    for width in (DESK, PHONE):
        opened.page.set_viewport_size({"width": width, "height": 900})
        assert opened.overflow() == 0
    unfold(opened)
    for width in (PHONE, DESK):
        opened.page.set_viewport_size({"width": width, "height": 900})
        assert opened.overflow() == 0
    assert (opened.errors, opened.requests) == ([], [])
    assert opened.broken_images() == []
    lowest, where = opened.contrasts(READ)[0]
    assert lowest >= 4.5, where


def test_hostile_names_are_text_and_links_have_targets(reported: Path, look: Look) -> None:
    opened = look(reported)
    assert opened.page.title() == HOSTILE[0]
    assert opened.page.locator("script").count() == 0
    assert opened.page.locator("h1").inner_text() == HOSTILE[0]
    cells = opened.page.locator("#data th[scope=row]").all_inner_texts()
    assert HOSTILE[0] in cells and "a\\nb\\x1b[31m" in cells and r"$\frac{" in cells
    anchors = opened.page.eval_on_selector_all(
        "nav a", "links => links.map(link => link.getAttribute('href').slice(1))"
    )
    assert len(anchors) > 8
    assert all(opened.page.locator(f"#{anchor} > h2").count() == 1 for anchor in anchors)


def test_phones_show_the_warning_first_and_scroll_wide_tables(reported: Path, look: Look) -> None:
    opened = look(reported, width=PHONE)
    box = opened.page.locator(".warning").first
    assert "Model selection on test images" in box.inner_text()
    bounds = box.bounding_box()
    assert bounds is not None and bounds["y"] < 900
    colour = box.evaluate("box => getComputedStyle(box).borderLeftColor")
    red, green, blue = (int(part) for part in colour[4:-1].split(","))
    assert red > 2 * max(green, blue)
    wide = opened.page.locator("#results .scrolls").first
    script = "box => [box.scrollWidth, box.clientWidth, getComputedStyle(box).overflowX]"
    inner, outer, overflow = wide.evaluate(script)
    assert inner > outer and overflow == "auto"
    caption = wide.locator("caption span").bounding_box()
    assert caption is not None and caption["x"] + caption["width"] <= PHONE


def test_figures_in_dark_mode_and_printed_pages_have_a_white_background(reported: Path, look: Look) -> None:
    opened = look(reported, dark=True)
    background = "element => getComputedStyle(element).backgroundColor"
    backgrounds = opened.page.eval_on_selector_all("figure img", f"images => images.map({background})")
    assert set(backgrounds) == {"rgb(255, 255, 255)"} and len(backgrounds) > 8
    opened.page.emulate_media(media="print")
    assert opened.contrasts("p, td")[0][0] > 4.5
    assert opened.page.eval_on_selector("body", background) == "rgb(255, 255, 255)"
    assert not opened.page.locator("nav").is_visible()


def test_errors_requests_and_overflow_are_detected(tmp_path: Path, look: Look) -> None:
    path = tmp_path / "bad.html"
    path.write_text(
        '<!DOCTYPE html><img src="gone.png" alt="gone"><script>console.error("oh"); alert("no")</script>'
        '<p style="width: 3000px; color: #777; background: #888">wide</p>'
    )
    opened = look(path, width=PHONE)
    assert "oh" in opened.errors and "no" in opened.errors
    assert [url.rpartition("/")[2] for url in opened.requests] == ["gone.png"]
    assert opened.broken_images() == ["gone"]
    assert opened.overflow() > 2000
    assert opened.contrasts("p")[0][0] < 1.5
