"""Names as data may hold them, values to draw, and a real browser without a network."""

import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tercet.records.history import EpochRow, History
from tercet.records.predictions import Predictions

HOSTILE = (
    "<script>alert(1)</script>",
    r"$\frac{",
    "$a$",
    r"\$",
    "n" * 40 + "m" * 40,
    "🍅😀 tomato",
    "مرحبا بالعالم",
    "a\nb\x1b[31m",
    "_hidden",
    "中文",
)


def names(count: int) -> list[str]:
    return [*HOSTILE, *(f"class {index}" for index in range(count))][:count]


def history(*epochs: int, offset: float = 0.0) -> History:
    rows: list[EpochRow] = []
    for stage, count in enumerate(epochs):
        for epoch in range(count):
            loss = 1 / (len(rows) + 1) + offset
            scores = {"loss": loss, "accuracy": 1 - loss / 2, "kappa": 0.5}
            row = EpochRow(stage, epoch, 10 * len(rows), 10.0**-stage, loss / 2, 0.9, scores, 1.0, best=True)
            rows.append(row)
    return History(rows)


def predictions(classes: int, count: int = 60) -> Predictions:
    generator = np.random.default_rng(classes)
    labels = np.arange(count) % classes
    logits = generator.normal(0, 1, (count, classes))
    logits[np.arange(count), labels] += 2
    return Predictions.from_logits(
        logits, ids=[f"{row}" for row in range(count)], classes=names(classes), labels=labels
    )


BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PHONE, DESK = 390, 1440


@dataclass
class Seen:
    """A page in the browser, and what it did while it was opened."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    """Console errors and warnings, errors of scripts, dialogs."""
    requests: list[str] = field(default_factory=list)
    """Addresses asked for beside the page itself."""

    def broken_images(self) -> list[str]:
        """Return what stands for the images that the browser could not draw."""
        return self.page.eval_on_selector_all(
            "img", "all => all.filter(one => !one.complete || !one.naturalWidth).map(one => one.alt)"
        )

    def overflow(self) -> int:
        """Return by how many pixels the document is wider than the window."""
        return self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")

    def contrasts(self, selector: str) -> list[tuple[float, str]]:
        """Return the contrast of text and ground (WCAG 2, 1 to 21) of the elements, the weakest first."""
        found = self.page.eval_on_selector_all(selector, _COLOURS)
        return sorted((contrast(ink, paper), text) for ink, paper, text in found)


_COLOURS = """all => all.filter(one => one.textContent.trim()).map(one => {
  let ground = one;
  while (ground.parentElement && getComputedStyle(ground).backgroundColor === "rgba(0, 0, 0, 0)")
    ground = ground.parentElement;
  return [getComputedStyle(one).color, getComputedStyle(ground).backgroundColor, one.textContent.slice(0, 40)];
})"""


def contrast(ink: str, paper: str) -> float:
    """Return the contrast of two opaque CSS colours as WCAG 2 defines it."""
    light, dark = sorted((_luminance(ink), _luminance(paper)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(colour: str) -> float:
    values = [int(value) / 255 for value in re.findall(r"\d+", colour)]
    assert len(values) == 3, f"{colour} is not opaque"
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in values]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """Return a headless browser, or skip where there is none."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def look(chromium: Browser) -> Iterator[Callable[..., Seen]]:
    """Return a function that opens a file in a window of some width, light or dark."""
    contexts = []

    def opened(path: Path, *, width: int = DESK, dark: bool = False) -> Seen:
        context = chromium.new_context(
            viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light", offline=True
        )
        contexts.append(context)
        context.set_default_timeout(240_000)  # a busy machine draws slowly
        seen = Seen(context.new_page())
        address = path.resolve().as_uri()
        seen.page.on("console", lambda said: seen.complaints.append(said.text))
        seen.page.on("pageerror", lambda error: seen.complaints.append(str(error)))
        seen.page.on("dialog", lambda dialog: (seen.complaints.append(dialog.message), dialog.dismiss()))
        seen.page.on(
            "request",
            lambda asked: (
                seen.requests.append(asked.url)
                if not asked.url.startswith("data:") and asked.url.partition("#")[0] != address
                else None
            ),
        )
        seen.page.goto(address)
        return seen

    yield opened
    for context in contexts:
        context.close()
