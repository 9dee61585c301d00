"""The types of the Python keywords follow the configuration classes, and a type checker uses them."""

import ast
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
from pathlib import Path
import numpy as np
import tercet

pair = np.zeros((9, 8, 8), np.uint8), [0] * 9
tercet.train(pair, members=["small-cnn", {"model": "row-gru"}], epochs=5, output=Path("x"), data={"val_fraction": 0.2})
tercet.compare("photos", backbones="small-cnn", sizes=32, seeds=2, console=False)
tercet.TercetClassifier(["small-cnn"], options={"monitor": "macro_f1"}).fit(*pair).predict(pair[0])
tercet.train("photos", epochs="x")  # wrong
tercet.train("photos", epoch=3)  # wrong
tercet.train("photos", schedule=3)  # wrong
tercet.crossval("photos", folds=2.5)  # wrong
tercet.tune("photos", space={"lr": [1, 2]}, trials="many")  # wrong
tercet.compare("photos", seeds="x")  # wrong
tercet.reproduce("leaves", scale="large")  # wrong
tercet.audit_data("photos", folds="2")  # wrong
tercet.TercetClassifier(["small-cnn"], epochs="x")  # wrong
"""


def test_the_types_are_up_to_date() -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "write_option_types.py"))
    written = script["TARGET"].read_text("utf-8")
    message = "run scripts/write_option_types.py and ruff format"
    assert ast.dump(ast.parse(written)) == ast.dump(ast.parse(script["source"]())), message


@pytest.mark.slow
def test_a_type_checker_finds_wrong_values_and_unknown_options(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", str(ROOT / "pyproject.toml"), "program.py"]
    environment = {**os.environ, "MYPYPATH": str(ROOT / "src"), "MYPY_CACHE_DIR": str(tmp_path / "cache")}
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    wrong = {number for number, line in enumerate(PROGRAM.splitlines(), 1) if line.endswith("# wrong")}
    assert {int(line) for line in re.findall(r"^program.py:(\d+): error", result.stdout, re.MULTILINE)} == wrong
