"""Pages in a real browser: nothing runs, nothing is fetched, everything fits and can be read."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tercet.plots.page import Code, Details, Figure, Images, Page, Paragraph, Section, Table, Warning, write_page
from tercet.report.run import write_report
from tests.fixtures.browser import DESK, HOSTILE, PHONE, Seen
from tests.fixtures.report_runs import write_run

Look = Callable[..., Seen]
READ = "p, h1, h2, h3, td, th, a, figcaption, caption span, summary, code, li"
SVG = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"><script>alert(2)</script><path d="M0 0h9v9z"/></svg>'


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = write_run(tmp_path_factory.mktemp("runs") / "run", options={"monitor_split": "test"})
    return write_report(run, title=HOSTILE[0]).path


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """Write a page with every block, each as long and as hostile as names can be."""
    words = " ".join(HOSTILE)
    wide = Table(HOSTILE, [HOSTILE, HOSTILE], "r" * len(HOSTILE), words, frozenset({1}))
    blocks = [
        Warning(words, HOSTILE[0]),
        Paragraph(words),
        wide,
        Table((), [(HOSTILE[4], HOSTILE[4])]),
        Figure(SVG, words),
        Code(HOSTILE[4] * 5),
        Details(words, [wide, Code(words)]),
        Section(words, [Paragraph(words, quiet=True), Images([], words)]),
    ]
    path = tmp_path / "whole.html"
    write_page(path, Page(words, [Section(words, blocks), Section("next", [])]))
    return path


def unfold(seen: Seen) -> None:
    seen.page.eval_on_selector_all("details", "all => all.forEach(one => { one.open = true; })")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("what", ["whole", "reported"])
def test_pages_are_quiet_whole_and_fit(what: str, dark: bool, look: Look, request: pytest.FixtureRequest) -> None:
    seen = look(request.getfixturevalue(what), dark=dark)
    for width in (DESK, PHONE):
        seen.page.set_viewport_size({"width": width, "height": 900})
        assert seen.overflow() == 0
    unfold(seen)
    for width in (PHONE, DESK):
        seen.page.set_viewport_size({"width": width, "height": 900})
        assert seen.overflow() == 0
    assert (seen.complaints, seen.requests) == ([], [])
    assert seen.broken_images() == []
    weakest, where = seen.contrasts(READ)[0]
    assert weakest >= 4.5, where


def test_hostile_names_stay_text_and_links_lead_to_sections(reported: Path, look: Look) -> None:
    seen = look(reported)
    assert seen.page.title() == HOSTILE[0]
    assert seen.page.locator("script").count() == 0
    assert seen.page.locator("h1").inner_text() == HOSTILE[0]
    cells = seen.page.locator("#data th[scope=row]").all_inner_texts()
    assert HOSTILE[0] in cells and "a\\nb\\x1b[31m" in cells and r"$\frac{" in cells
    anchors = seen.page.eval_on_selector_all("nav a", "all => all.map(one => one.getAttribute('href').slice(1))")
    assert len(anchors) > 8
    assert all(seen.page.locator(f"#{anchor} > h2").count() == 1 for anchor in anchors)


def test_a_phone_shows_the_red_box_first_and_scrolls_tables_in_their_own_box(reported: Path, look: Look) -> None:
    seen = look(reported, width=PHONE)
    box = seen.page.locator(".warning").first
    assert "Model selection on test images" in box.inner_text()
    place = box.bounding_box()
    assert place is not None and place["y"] < 900
    colour = box.evaluate("one => getComputedStyle(one).borderLeftColor")
    red, green, blue = (int(part) for part in colour[4:-1].split(","))
    assert red > 2 * max(green, blue)
    wide = seen.page.locator("#results .scrolls").first
    inner, outer, how = wide.evaluate("one => [one.scrollWidth, one.clientWidth, getComputedStyle(one).overflowX]")
    assert inner > outer and how == "auto"  # nothing is cut off
    caption = wide.locator("caption span").bounding_box()
    assert caption is not None and caption["x"] + caption["width"] <= PHONE


def test_figures_stand_on_white_in_the_dark_and_paper_is_white(reported: Path, look: Look) -> None:
    seen = look(reported, dark=True)
    ground = "getComputedStyle(one).backgroundColor"
    grounds = seen.page.eval_on_selector_all("figure img", f"all => all.map(one => {ground})")
    assert set(grounds) == {"rgb(255, 255, 255)"} and len(grounds) > 8
    seen.page.emulate_media(media="print")
    assert seen.contrasts("p, td")[0][0] > 4.5
    assert seen.page.eval_on_selector("body", f"one => {ground}") == "rgb(255, 255, 255)"
    assert not seen.page.locator("nav").is_visible()


def test_the_browser_would_complain(tmp_path: Path, look: Look) -> None:
    path = tmp_path / "bad.html"
    path.write_text(
        '<!DOCTYPE html><img src="gone.png" alt="gone"><script>console.error("oh"); alert("no")</script>'
        '<p style="width: 3000px; color: #777; background: #888">wide</p>'
    )
    seen = look(path, width=PHONE)
    assert "oh" in seen.complaints and "no" in seen.complaints
    assert [address.rpartition("/")[2] for address in seen.requests] == ["gone.png"]
    assert seen.broken_images() == ["gone"]
    assert seen.overflow() > 2000
    assert seen.contrasts("p")[0][0] < 1.5
