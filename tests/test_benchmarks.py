"""Benchmarks report what is stored and what they run, and end in one line instead of a traceback."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
PROGRAMS = sorted(path.name for path in FOLDER.glob("*.py") if "__main__" in path.read_text("utf-8"))
WITHOUT_TERCET = ("openvino_speed.py",)


def run(*arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(FOLDER / str(arguments[0])), *map(str, arguments[1:])]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("name", [name for name in PROGRAMS if name not in WITHOUT_TERCET])
def test_errors_of_a_benchmark_are_one_line(name: str) -> None:
    assert "sys.exit(run_benchmark(" in (FOLDER / name).read_text("utf-8")


@pytest.mark.parametrize(
    ("name", "row", "options"),
    [
        (
            "seed003_protocol.py",
            {"accuracy": 0.5, "macro_f1": 0.5, "kappa": 0.5, "seconds_per_epoch": 1.0},
            [{"network": name} for name in ("row-lstm tanh", "row-lstm relu", "small-cnn")],
        ),
        (
            "fashion_products.py",
            {
                "size": 64,
                "epochs": 8,
                "limit": 4000,
                "n": 9,
                "whole_seconds": 1.0,
                "rows": {
                    name: dict.fromkeys(("o_f1", "c_f1", "map", "exact_match", "hamming"), 0.5)
                    for name in ("sigmoid", "cnn-rnn")
                },
            },
            [{}],
        ),
    ],
)
def test_stored_runs_are_named_and_not_run_again(name: str, row: dict, options: list[dict], tmp_path: Path) -> None:
    rows = [{"seed": seed, **row, **part} for seed in (0, 7) for part in options]
    file = tmp_path / "stored.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in rows))
    result = run(name, "--seeds", 1, "--results", file)
    assert result.returncode == 0, result.stderr
    expected = f"{len(options)} stored results of earlier runs (stored.jsonl), 0 measured now; --again runs them anew"
    assert expected in result.stdout
    assert len(file.read_text().splitlines()) == len(rows)


def test_again_removes_what_is_run_anew_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    from stored_results import append_row, stored_rows

    file = tmp_path / "new" / "rows.jsonl"
    for seed in range(4):
        append_row(file, {"seed": seed})
    assert stored_rows(file, again=False, keep=lambda row: row["seed"] < 2) == [{"seed": 0}, {"seed": 1}]
    assert stored_rows(file, again=True, keep=lambda row: row["seed"] < 2) == []
    assert stored_rows(file, again=False, keep=lambda row: True) == [{"seed": 2}, {"seed": 3}]


def test_simulated_comparisons_are_stored(tmp_path: Path) -> None:
    result = run("seeds_and_images.py", "--repeats", 2, "--results", tmp_path)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "seeds_and_images.txt").read_text() == result.stdout
    assert "2 simulated comparisons" in result.stdout


@pytest.mark.skipif(importlib.util.find_spec("keras") is not None, reason="Keras is installed")
@pytest.mark.parametrize("python", [sys.executable, "no-such-python"])
def test_without_keras_the_comparison_ends_in_one_line(python: str) -> None:
    result = run("keras_speed.py", "--keras-python", python)
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr.count("\n") == 1 and "pip install tensorflow-cpu keras" in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", ["compare_fashion.py", "hand_signs.py", "tune_row_lstm.py"])
def test_missing_images_end_a_benchmark_in_one_line(name: str, tmp_path: Path) -> None:
    result = run(name, "--data-dir", tmp_path / "none", "--output", tmp_path / "run")
    assert result.returncode not in (0, 1) and "Traceback" not in result.stderr
    assert "none" in result.stderr.splitlines()[-1]
