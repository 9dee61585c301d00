"""Size of the package, and the functions and files that a training and a prediction pass.

    python benchmarks/code_size.py

Trains a member on scikit-learn's digits in this process, exports it, and predicts with the file; counts each function
of the package that is entered at least once.
"""

import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import tercet
from stored_results import run_benchmark
from tercet.cli.main import main

PACKAGE = Path(tercet.__file__).parent


def passed(action: Callable[[], Any]) -> tuple[int, int]:
    """Return the numbers of functions and files of the package that an action enters."""
    entered: set[CodeType] = set()

    def trace(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call" and Path(frame.f_code.co_filename).is_relative_to(PACKAGE):
            entered.add(frame.f_code)

    threading.setprofile(trace)
    sys.setprofile(trace)
    try:
        action()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    functions = {code for code in entered if not code.co_name.startswith("<")}  # comprehensions, modules, lambdas
    return len(functions), len({code.co_filename for code in functions})


def command(*arguments: object) -> Callable[[], Any]:
    return lambda: main([*map(str, arguments)])


def measure() -> None:
    files = sorted(PACKAGE.rglob("*.py"))
    print(f"{len(files)} files, {sum(len(file.read_text('utf-8').splitlines()) for file in files)} lines")
    with tempfile.TemporaryDirectory() as folder:
        run, model = Path(folder, "run"), Path(folder, "model.onnx")
        quick = ("--members", "small-cnn", "--epochs", 1, "--data.limit", 100, "--output", run)
        steps = {
            "train digits": command("train", "digits", *quick),
            "export RUN": command("export", run, model),
            "predict FILE": command("predict", model, Path(__file__).parents[1] / "docs" / "report.png"),
        }
        results = {name: passed(action) for name, action in steps.items()}
    for name, (functions, count) in results.items():
        print(f"{name}: {functions} functions in {count} files")


if __name__ == "__main__":
    sys.exit(run_benchmark(measure))
