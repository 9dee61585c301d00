"""Each case needs an interpreter without an imported torchvision, so a script forks one process per case."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = """
import os, sys, torch

def declared():
    from tercet.core.torchvision_ops import declare_torchvision_operators  # declares them when imported
    declare_torchvision_operators()
    return [name for name in ("nms", "qnms") if hasattr(torch.ops.torchvision, name)]

def broken_extension():
    sys.path.insert(0, sys.argv[1])
    return declared()

def working_extension():
    sys.path.insert(0, sys.argv[2])
    return declared()

def no_torchvision():
    sys.modules["torchvision"] = None
    return declared()

def timm():
    declared()
    import timm
    network = timm.create_model("test_resnet", num_classes=7).eval()
    return list(network(torch.zeros(2, 3, 32, 32)).shape)

for case in (broken_extension, working_extension, no_torchvision, timm):
    process = os.fork()
    if not process:
        print(case.__name__, *case(), flush=True)
        os._exit(0)
    os.waitpid(process, 0)
"""


def fake_torchvision(folder: Path) -> Path:
    """Create an empty torchvision package, and return the path for its extension."""
    package = folder / "torchvision"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    return package / "_C.so"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Return the printed values of each case."""
    folder = tmp_path_factory.mktemp("torchvision")
    fake_torchvision(folder / "broken").write_text("built for another machine")
    fake_torchvision(folder / "working").symlink_to(np.random.mtrand.__file__)  # any library that loads
    command = [sys.executable, "-c", SCRIPT, str(folder / "broken"), str(folder / "working")]
    result = subprocess.run(command, env=os.environ, capture_output=True, text=True, timeout=120, check=False)
    lines = [line.split() for line in result.stdout.splitlines()]
    assert len(lines) == 4, result.stderr
    return {name: values for name, *values in lines}


def test_timm_imports_and_builds_networks(results: dict[str, list[str]]) -> None:
    assert results["timm"] == ["2", "7"]


def test_operators_are_declared_if_the_extension_does_not_load(results: dict[str, list[str]]) -> None:
    assert results["broken_extension"] == ["nms", "qnms"]


def test_nothing_is_declared_if_the_extension_loads(results: dict[str, list[str]]) -> None:
    assert results["working_extension"] == []


def test_nothing_is_declared_without_torchvision(results: dict[str, list[str]]) -> None:
    assert results["no_torchvision"] == []
