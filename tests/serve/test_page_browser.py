"""The page in a real browser: every image source, hostile names, phone and desktop, light and dark mode."""

import base64
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, FileChooser, expect, sync_playwright

from tests.fixtures.browser import BROWSERS, DESK, PHONE, OpenPage
from tests.serve.models import BLUE, GREEN, RED, picture, write_coloured
from tests.serve.server import Server

pytestmark = pytest.mark.slow
expect.set_options(timeout=60_000)
HOSTILE = ("<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "مرحبا " + "n" * 90)
READ = "h1, h2, h3, p, figcaption, button, .text, .number, a"
LINE = (200, 120, 40)
FLAGS = ["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
SCREENSHOTS: Path | None = None  # a folder, to inspect the pages
Visit = Callable[..., OpenPage]

DROP = """([name, content]) => {
  const bytes = Uint8Array.from(atob(content), character => character.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], name, { type: "image/png" }));
  document.body.dispatchEvent(new DragEvent("dragover", { dataTransfer: transfer, bubbles: true, cancelable: true }));
  document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true }));
}"""
PASTE = """content => {
  const bytes = Uint8Array.from(atob(content), character => character.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], "pasted.png", { type: "image/png" }));
  document.body.dispatchEvent(new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true }));
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Return a headless browser with a fake camera; skip without Chromium."""
    executable = next(filter(None, map(shutil.which, BROWSERS)), None)
    if executable is None:
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")
    with sync_playwright() as driver:
        launched = driver.chromium.launch(executable_path=executable, args=FLAGS)
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def hostile(folder: Path) -> Iterator[Server]:
    model = write_coloured(folder / "shown.onnx", maps=True, classes=list(HOSTILE))
    with Server(model, "--name", HOSTILE[1]) as running:
        yield running


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visit]:
    """Return a function that opens the page of a server, with a window width and colour scheme."""
    contexts = []

    def opened(server: Server, path: str = "/", *, width: int = DESK, dark: bool = False) -> OpenPage:
        context = browser.new_context(
            viewport={"width": width, "height": 900},
            color_scheme="dark" if dark else "light",
            permissions=["camera"],
            base_url=server.url,
        )
        contexts.append(context)
        context.set_default_timeout(120_000)
        seen = OpenPage(context.new_page())
        seen.page.on("console", lambda message: seen.errors.append(message.text))
        seen.page.on("pageerror", lambda error: seen.errors.append(str(error)))
        seen.page.on("dialog", lambda dialog: (seen.errors.append(dialog.message), dialog.dismiss()))
        seen.page.on("request", lambda request: seen.requests.append(request.url))
        seen.page.goto(path)
        if path == "/":
            expect(seen.page.locator("#about")).to_contain_text("classes")
        return seen

    yield opened
    for context in contexts:
        context.close()


def assert_no_errors(seen: OpenPage, server: Server) -> None:
    """No console errors, and requests to its own server only."""
    assert seen.errors == []
    assert all(url.startswith((f"{server.url}/", "blob:")) for url in seen.requests)


def screenshot(seen: OpenPage, name: str) -> None:
    if SCREENSHOTS is not None:
        seen.page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)


def encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


def test_dropped_image_is_classified(server: Server, visit: Visit) -> None:
    seen = visit(server)
    seen.page.evaluate(DROP, ["grün.png", encoded(GREEN)])
    article = seen.page.locator("article")
    article.wait_for()
    assert article.locator("h2").inner_text() == "green"
    assert article.locator("figcaption").inner_text() == "grün.png"
    together, alone = article.locator("ul").all()
    assert together.locator(".text").all_inner_texts() == ["green", "red", "blue"]
    assert together.locator(".number").all_inner_texts() == ["99.8 %", "0.1 %", "0.1 %"]
    widths = together.locator(".bar").evaluate_all("all => all.map(bar => bar.getBoundingClientRect().width)")
    assert widths[0] > 100 * max(1, widths[1])
    assert alone.locator(".text").all_inner_texts() == ["warm: green", "cold: green"]
    assert seen.page.locator("#status").inner_text() == ""
    screenshot(seen, "dropped")
    assert_no_errors(seen, server)


def test_heat_map_overlays_the_image_and_can_be_hidden(server: Server, visit: Visit) -> None:
    seen = visit(server)
    seen.page.evaluate(DROP, ["a.png", encoded(GREEN)])
    image, canvas = seen.page.locator("article img"), seen.page.locator("article canvas")
    canvas.wait_for()
    assert seen.broken_images() == []
    boxes = image.bounding_box(), canvas.bounding_box()
    assert boxes[0] is not None and boxes[1] is not None
    assert boxes[1]["height"] == pytest.approx(boxes[0]["height"], abs=1)
    assert boxes[1]["width"] == pytest.approx(boxes[1]["height"], abs=1)  # the centre crop of the network
    assert boxes[1]["x"] - boxes[0]["x"] == pytest.approx(boxes[0]["width"] / 8, abs=1)
    left, right = (
        canvas.evaluate(f"canvas => [...canvas.getContext('2d').getImageData({x}, 0, 1, 1).data]") for x in (0, 2)
    )
    assert left[0] > 200 and right[2] > 200 and left[3] > right[3]  # red and opaque, blue and transparent
    button = seen.page.get_by_role("button", name="Hide heat map")
    button.press("Enter")
    assert not canvas.is_visible()
    seen.page.get_by_role("button", name="Show heat map").press("Space")
    assert canvas.is_visible()
    assert_no_errors(seen, server)


BOXES = """all => all.map(node => {
  const image = node.querySelector("img").getBoundingClientRect(), box = node.getBoundingClientRect();
  const map = node.querySelector("canvas")?.getBoundingClientRect();
  const inside = (small, large) => ["left", "top"].every(side => small[side] >= large[side] - 1)
    && ["right", "bottom"].every(side => small[side] <= large[side] + 1);
  return { width: box.width, height: box.height, background: getComputedStyle(node).backgroundColor,
    inside: inside(image, box) && (!map || inside(map, image)),
    middle: Math.abs(image.left + image.right - box.left - box.right) < 3
      && Math.abs(image.top + image.bottom - box.top - box.bottom) < 3 };
})"""


@pytest.mark.parametrize(("width", "dark"), [(PHONE, True), (1200, False)], ids=["phone", "desktop"])
def test_narrow_and_truncated_images_have_a_background(server: Server, visit: Visit, width: int, dark: bool) -> None:
    seen = visit(server, width=width, dark=dark)
    jpeg = picture((90, 60, 200), (600, 450), "JPEG")
    contents = picture(LINE, (5000, 40)), picture(LINE, (40, 5000)), jpeg[: len(jpeg) // 2], GREEN
    files = [{"name": f"{index}", "mimeType": "image/png", "buffer": content} for index, content in enumerate(contents)]
    seen.page.locator("#files").set_input_files(files)  # type: ignore[arg-type]
    seen.page.locator("article").nth(3).wait_for()
    seen.page.wait_for_function("[...document.images].every(image => image.complete)")
    boxes = seen.page.eval_on_selector_all(".background", BOXES)
    paper = seen.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert len(boxes) == 4 and all(box["inside"] and box["middle"] for box in boxes)
    assert all(box["width"] > 250 and 150 < box["height"] < 330 and box["background"] != paper for box in boxes)
    assert seen.overflow() == 0
    screenshot(seen, f"thin-{width}-{'dark' if dark else 'light'}")


def test_page_works_with_the_keyboard_only(server: Server, visit: Visit) -> None:
    seen = visit(server)
    choosers: list[FileChooser] = []
    seen.page.on("filechooser", lambda chooser: choosers.append(chooser))
    seen.page.wait_for_timeout(200)  # until the browser intercepts file dialogs
    seen.page.keyboard.press("Tab")
    assert seen.page.evaluate("document.activeElement.id") == "choose"
    outline = seen.page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    seen.page.keyboard.press("Enter")
    server.wait_for(lambda: seen.page.wait_for_timeout(20) or choosers)
    files = [
        {"name": name, "mimeType": "image/png", "buffer": content}
        for name, content in (("one.png", RED), ("two.txt", b"no image"), ("three.png", BLUE))
    ]
    assert choosers[0].is_multiple()
    choosers[0].set_files(files)  # type: ignore[arg-type]
    seen.page.locator("article").nth(2).wait_for()
    assert seen.page.locator("article figcaption").all_inner_texts() == ["one.png", "two.txt", "three.png"]
    assert seen.page.locator("article h2").all_inner_texts() == ["red", "blue"]
    assert "not an image" in seen.page.locator("article .error").inner_text()
    assert_no_errors(seen, server)


def test_paste_and_more_files_than_one_request_accepts(server: Server, visit: Visit) -> None:
    seen = visit(server)
    seen.page.evaluate(PASTE, encoded(BLUE))
    seen.page.locator("article").wait_for()
    assert seen.page.locator("article h2").inner_text() == "blue"
    many = [{"name": f"{index}.png", "mimeType": "image/png", "buffer": RED} for index in range(11)]
    seen.page.locator("#files").set_input_files(many)  # type: ignore[arg-type]
    seen.page.locator("article").nth(11).wait_for()
    assert sum(url.endswith("/v1/predict") for url in seen.requests) == 3  # one, then eight and three
    assert_no_errors(seen, server)


def test_camera_capture(server: Server, visit: Visit) -> None:
    seen = visit(server, width=PHONE)
    seen.page.locator("#camera").click()
    expect(seen.page.locator("#capture")).to_be_focused()
    expect(seen.page.locator("#capture")).to_be_enabled()
    seen.page.keyboard.press("Enter")
    seen.page.locator("article").wait_for()
    assert seen.page.locator("article figcaption").inner_text() == "camera.png"
    assert seen.page.locator("article h2").count() == 1
    assert not seen.page.locator("#viewfinder").is_visible()
    assert seen.page.evaluate("document.getElementById('video').srcObject.active") is False  # the camera is off
    assert_no_errors(seen, server)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_hostile_names_are_text_and_the_layout_fits(hostile: Server, visit: Visit, dark: bool) -> None:
    seen = visit(hostile, dark=dark)
    for content in (RED, GREEN, BLUE, b"no image"):
        seen.page.evaluate(DROP, [HOSTILE[0] + "long" * 60, encoded(content)])
    seen.page.locator("article").nth(3).wait_for()
    assert seen.page.title() == seen.page.locator("h1").inner_text() == HOSTILE[1]
    assert seen.page.locator("main script").count() == 0 and seen.page.locator("article img").count() <= 4
    headings = seen.page.locator("article h2").all_inner_texts()
    assert sorted(headings) == sorted(" ".join(name.split()) for name in HOSTILE)
    for width in (PHONE, DESK):
        seen.page.set_viewport_size({"width": width, "height": 900})
        assert seen.overflow() == 0
        weakest, where = seen.contrasts(READ)[0]
        assert weakest >= 4.5, where
        screenshot(seen, f"hostile-{width}-{'dark' if dark else 'light'}")
    small = seen.page.locator("button:visible").evaluate_all(
        "all => all.map(button => button.getBoundingClientRect().height)"
    )
    assert min(small) >= 44  # touch target
    assert [text for text in seen.errors if "415" not in text] == []  # the browser logs the status 415


def test_api_page(server: Server, visit: Visit) -> None:
    for width in (PHONE, DESK):
        seen = visit(server, "/docs", width=width)
        assert seen.page.locator("h2").count() == 5 and seen.overflow() == 0
        screenshot(seen, f"docs-{width}")
        assert_no_errors(seen, server)


def test_unreachable_server_is_reported(folder: Path, visit: Visit) -> None:
    with Server(write_coloured(folder / "gone.onnx")) as running:
        seen = visit(running)
    seen.page.evaluate(DROP, ["a.png", encoded(RED)])
    expect(seen.page.locator("#status")).to_have_text("The server cannot be reached.")


def test_content_security_policy_blocks_scripts_and_other_hosts(server: Server, visit: Visit) -> None:
    seen = visit(server)
    seen.page.evaluate("""() => {
      const script = document.createElement("script");
      script.textContent = "window.ran = true";
      document.body.append(script);
      const image = document.createElement("img");
      image.src = "https://example.org/x.png";
      document.body.append(image);
    }""")
    seen.page.wait_for_timeout(200)
    assert seen.page.evaluate("window.ran") is None
    assert sum("Content Security Policy" in text for text in seen.errors) >= 2
