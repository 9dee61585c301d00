"""Without modules and functions that only POSIX systems have, everything but limits and restarts works."""

import subprocess
import sys
from pathlib import Path

import pytest

WITHOUT_POSIX = """
import os, pkgutil, select, signal, socket, sys
import torch, sklearn.metrics  # libraries may use what they find
from tercet.core.torchvision_ops import declare_torchvision_operators
declare_torchvision_operators()
import timm
for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[name] = None
for module, names in ((signal, ("SIGKILL", "SIGALRM", "setitimer")), (select, ("poll",)), (socket, ("MSG_DONTWAIT",)),
                      (os, ("set_blocking", "sched_getaffinity", "fork"))):
    for name in names:
        delattr(module, name)
"""


def run(program: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_POSIX + program, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_every_module_is_imported() -> None:
    program = """
import importlib, tercet
for module in pkgutil.walk_packages(tercet.__path__, "tercet."):
    if module.name != "tercet.__main__":
        importlib.import_module(module.name)
print("imported")
"""
    result = run(program)
    assert result.stdout == "imported\n", result.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict", "model.onnx", "a.png", "--max-seconds", "5"], "need Linux or macOS"),
        (["serve", "missing.onnx"], "cannot restart the server"),
    ],
    ids=["limits", "restarts"],
)
def test_what_needs_posix_is_reported_in_one_line(arguments: list[str], message: str, tmp_path: Path) -> None:
    result = run("from tercet.cli.main import main\nsys.exit(main(sys.argv[1:]))", *arguments)
    assert result.returncode not in (0, 1)
    assert message in result.stderr and "Traceback" not in result.stderr
