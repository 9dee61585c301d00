"""The page of an audit in a real browser: hostile names, broken images, phone and desktop."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tercet.audit.run import audit_data

NAMES = ("<script>alert(1)</script>", "$\\frac{a}{", "long " * 20, "🐦 ελ שלום", "plain")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the audit page of data with every kind of problem."""
    root = tmp_path_factory.mktemp("audit")
    generator = np.random.default_rng(0)
    lines = ["image,label,split,group"]
    for label, name in enumerate(NAMES):
        for index in range(4 + label):
            pixels = Image.fromarray(generator.integers(0, 256, (7, 9, 3), dtype=np.uint8)).resize((90, 70))
            file = f"{'<b>' * label}{index}.png"
            pixels.save(root / file)
            if index == 1:
                pixels.save(root / f"copy-{label}.png")
                lines.append(f'copy-{label}.png,"{name}",test,g{label}')
            lines.append(f'{file},"{name}",train,g{label}')
    (root / "bad.png").write_bytes(b"bad")
    (root / "data.csv").write_text("\n".join([*lines, "bad.png,plain,train,g", "gone.png,plain,train,g"]), "utf-8")
    report = audit_data(root / "data.csv", output=str(root / "look"), data={"group_column": "group"})
    assert {finding.kind for finding in report.result.findings} >= {"unreadable", "leakage", "small-classes"}
    return root / "look" / "audit.html"


@pytest.mark.slow
@pytest.mark.parametrize(("width", "dark"), [(390, True), (1440, False)])
def test_page_layout_and_hostile_names(look: Callable[..., Any], page: Path, width: int, dark: bool) -> None:
    seen = look(page, width=width, dark=dark)
    assert (seen.errors, seen.requests, seen.broken_images()) == ([], [], [])
    assert seen.overflow() <= 0
    text = seen.page.inner_text("main")
    assert "<script>alert(1)</script>" in text and "copy-0.png" in text and "gone.png (line" in text
