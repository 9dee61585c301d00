"""Each case needs an interpreter in which torchvision was never imported, so each runs in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

DECLARE = """
import torch
from tercet.core.torchvision_ops import declare_torchvision_operators
declare_torchvision_operators()
declare_torchvision_operators()
operators = [name for name in ("nms", "qnms") if hasattr(torch.ops.torchvision, name)]
"""


def run(script: str, *, path: Path | None = None) -> str:
    environment = {**os.environ, "PYTHONPATH": str(path) if path else ""}
    result = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def fake_torchvision(folder: Path) -> Path:
    """Return where the binary part of a torchvision that hides the installed one belongs."""
    package = folder / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text("")
    return package / "_C.so"


def test_timm_imports_and_builds_networks_after_two_calls() -> None:
    build = (
        "import timm\nprint(timm.create_model('test_resnet', num_classes=7).eval()(torch.zeros(2, 3, 32, 32)).shape)"
    )
    assert run(DECLARE + build) == "torch.Size([2, 7])"


def test_operators_are_declared_where_the_binary_part_cannot_load(tmp_path: Path) -> None:
    fake_torchvision(tmp_path).write_text("built for another machine")
    assert run(DECLARE + "print(*operators)", path=tmp_path) == "nms qnms"


def test_nothing_is_declared_where_the_binary_part_loads(tmp_path: Path) -> None:
    fake_torchvision(tmp_path).symlink_to(np.random.mtrand.__file__)  # any library that loads by itself
    assert run(DECLARE + "print(len(operators))", path=tmp_path) == "0"


def test_nothing_is_declared_without_torchvision() -> None:
    assert run("import sys\nsys.modules['torchvision'] = None\n" + DECLARE + "print(len(operators))") == "0"
