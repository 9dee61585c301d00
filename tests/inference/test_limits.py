"""Memory and time limits for untrusted files that pass all static checks."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from tercet.inference.onnx_file import read_checked, read_content
from tercet.inference.predict import resource_bounds
from tests.inference.hostile import write_hostile
from tests.inference.tiny import write_tiny
from tests.serve.models import picture
from tests.serve.server import PATIENCE, Server

LIMIT = 700  # MiB
MEASURED = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:]).returncode
print("peak", resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
"""


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "red.png"
    Image.new("RGB", (9, 7), (200, 0, 0)).save(path)
    return path


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "tercet", *map(str, arguments)]


def run(*arguments: object) -> tuple[int, str, str, int]:
    """Run a command; return exit code, standard output, standard error, and peak memory of its processes in KiB."""
    measured = [sys.executable, "-c", MEASURED, *command(*arguments)]
    process = subprocess.run(measured, capture_output=True, text=True, timeout=PATIENCE, check=False)
    output, _, peak = process.stdout.rpartition("peak ")
    return process.returncode, output, process.stderr, int(peak)


def test_static_checks_do_not_detect_hostile_computations(tmp_path: Path) -> None:
    for kind in ("expand", "constant", "many", "growing", "overflow"):
        path = write_hostile(tmp_path / f"{kind}.onnx", kind)
        assert read_checked(read_content(path), path)["classes"] == ["red", "green", "blue"]


@pytest.mark.parametrize("kind", ["expand", pytest.param("constant", marks=pytest.mark.slow), "many"])
def test_exceeding_the_memory_limit_is_a_one_line_error(tmp_path: Path, image: Path, kind: str) -> None:
    path = write_hostile(tmp_path / "hostile.onnx", kind)
    code, output, error, peak = run("predict", path, image, "--max-memory", LIMIT, "--max-seconds", PATIENCE)
    assert (code, output) == (7, "")
    assert re.fullmatch(r"tercet: error: not enough memory for images .*\n", error)
    assert peak < LIMIT * 1024
    if kind == "many":
        assert peak > 120 * 1024  # more than loading needs: the tensors were written


def test_overflowing_dimensions_are_a_model_error(tmp_path: Path, image: Path) -> None:
    path = write_hostile(tmp_path / "hostile.onnx", "overflow")
    code, _, error, peak = run("predict", path, image, "--max-memory", LIMIT)
    assert code == 4 and "verflow" in error and peak < LIMIT * 1024


def test_limits_do_not_change_the_output(tmp_path: Path, image: Path) -> None:
    path = write_tiny(tmp_path / "-- untrusted, file.onnx")
    odd = Path(tmp_path / "-odd, name.png")
    odd.write_bytes(image.read_bytes())
    csv = tmp_path / "out.csv"
    options = ("--top-k", 2, "--json", "--batch-size=3", "--csv", csv)
    outputs = []
    for limits in ((), ("--max-memory", LIMIT, "--max-seconds", PATIENCE)):
        code, output, error, _ = run("predict", *limits, *options, "--", path, odd, image)
        assert (code, error) == (0, "")
        outputs.append((output, csv.read_text()))
    assert outputs[0] == outputs[1]


def test_limits_that_are_too_low_are_refused(tmp_path: Path, image: Path) -> None:
    path = write_tiny(tmp_path / "tiny.onnx")
    code, _, error, _ = run("predict", path, image, "--max-memory", 257)
    assert code == 2 and error.count("\n") == 1 and re.search(r"max_memory 257 is too small: .* \d+ MiB", error)
    code, _, error, _ = run("predict", path, image, "--max-memory", 3, "--max-seconds", 0)
    assert code == 2 and "--max-memory 3 must be at least 256" in error and "--max-seconds 0" in error


def test_a_memory_limit_that_is_too_low_for_the_server_is_refused(tmp_path: Path) -> None:
    code, _, error, _ = run("serve", write_tiny(tmp_path / "tiny.onnx"), "--port", 0, "--max-memory", 257)
    assert code == 2 and error.count("\n") == 1 and "max_memory 257 is too small" in error


def child_of(pid: int) -> int:
    """Wait until a process has a child, and return its id."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    end = time.monotonic() + PATIENCE
    while not (pids := children.read_text().split()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return int(pids[0])


def has_loaded_onnxruntime(pid: int) -> bool:
    return "onnxruntime" in Path(f"/proc/{pid}/maps").read_text()


@pytest.mark.parametrize(
    ("kind", "code", "message"),
    [
        (signal.SIGABRT, 7, "was ended by SIGABRT, probably out of memory with --max-memory 700"),
        (signal.SIGTERM, 143, "stopped by SIGTERM"),
    ],
    ids=str,
)
def test_signals_end_the_child_process(
    tmp_path: Path, image: Path, kind: signal.Signals, code: int, message: str
) -> None:
    """Native code may abort if it is out of memory; a signal to the parent is forwarded to the child."""
    path = write_hostile(tmp_path / "hostile.onnx", "slow")
    arguments = command("predict", path, image, "--max-memory", LIMIT)
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        child = child_of(process.pid)
        while not has_loaded_onnxruntime(child):
            time.sleep(0.02)
        os.kill(process.pid if kind == signal.SIGTERM else child, kind)
        output, error = process.communicate(timeout=PATIENCE)
    assert (process.returncode, output) == (code, "")
    assert message in error and error.count("\n") == 1
    assert not Path(f"/proc/{child}").exists()


def test_the_time_limit_ends_with_the_block() -> None:
    with resource_bounds("model.onnx", memory=None, seconds=60):
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 0
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_the_time_limit_ends_endless_computations(tmp_path: Path, image: Path) -> None:
    path = write_hostile(tmp_path / "hostile.onnx", "slow")
    code, _, error, _ = run("predict", path, image, "--max-seconds", 2)
    assert code == 128 + signal.SIGALRM
    assert error == "tercet: error: predicting took longer than the 2 s of --max-seconds\n"


@pytest.mark.slow
def test_the_server_does_not_load_hostile_files(tmp_path: Path) -> None:
    path = write_hostile(tmp_path / "hostile.onnx", "many")
    code, _, error, peak = run("serve", path, "--port", 0, "--max-memory", LIMIT)
    assert code == 7 and "not enough memory" in error and "listening" not in error and peak < LIMIT * 1024
    path = write_hostile(tmp_path / "hostile.onnx", "slow")
    code, _, error, _ = run("serve", path, "--port", 0, "--load-timeout", 3)
    assert code == 128 + signal.SIGALRM
    assert [json.loads(line)["event"] for line in error.splitlines()[:-1]] == ["died"]
    assert error.splitlines()[-1] == "tercet: error: the model was not loaded in time: see --load-timeout"


def test_the_server_survives_a_request_without_enough_memory(tmp_path: Path) -> None:
    path = write_hostile(tmp_path / "hostile.onnx", "growing")
    with Server(path, "--max-memory", str(LIMIT)) as running, running.client() as client:
        for _ in range(3):
            failed = client.post("/v1/predict", content=picture((200, 0, 0), (90, 90)))
            assert failed.status_code == 503 and "Retry-After" in failed.headers
            response = client.post("/v1/predict", content=picture((200, 0, 0), (20, 20)))
            assert response.status_code == 200 and response.json()["predictions"][0]["label"] == "red"
        peak = re.search(r"VmHWM:\s*(\d+) kB", Path(f"/proc/{running.pid}/status").read_text())
        assert peak is not None and int(peak[1]) < LIMIT * 1024
    assert not running.events("died")


def test_too_many_threads_for_the_memory_limit_are_an_error(tmp_path: Path) -> None:
    """onnxruntime itself would wait forever for threads that cannot start."""
    path = write_tiny(tmp_path / "tiny.onnx")
    code = "import resource, sys; from tercet import OnnxModel, TercetError\n"
    code += "OnnxModel.load(sys.argv[1], threads=1)\n"
    code += "size = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize() + 2**25\n"
    code += "resource.setrlimit(resource.RLIMIT_AS, (size, size))\n"
    code += "try: OnnxModel.load(sys.argv[1], threads=64)\n"
    code += "except TercetError as error: sys.exit(f'{error!r}')\n"
    arguments = [sys.executable, "-c", code, str(path)]
    process = subprocess.run(arguments, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert process.returncode == 1 and process.stderr.startswith("MemoryExhausted(")
