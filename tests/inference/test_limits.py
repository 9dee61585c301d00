"""Files of strangers that pass every check and then ask for all memory or time: a limit keeps them, and says so."""

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


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "tercet", *map(str, words)]


def run(*words: object) -> tuple[int, str, str, int]:
    """Run a verb; return exit code, output, complaints, and the most KiB that one of its processes had in memory."""
    measured = [sys.executable, "-c", MEASURED, *command(*words)]
    done = subprocess.run(measured, capture_output=True, text=True, timeout=PATIENCE, check=False)
    output, _, peak = done.stdout.rpartition("peak ")
    return done.returncode, output, done.stderr, int(peak)


@pytest.mark.parametrize("kind", ["expand", "constant", "many", "slow", "growing", "overflow"])
def test_hostile_files_pass_the_checks_of_files(tmp_path: Path, kind: str) -> None:
    path = write_hostile(tmp_path / "hostile.onnx", kind)
    assert read_checked(read_content(path), path)["classes"] == ["red", "green", "blue"]


@pytest.mark.parametrize("kind", ["expand", "constant", "many"])
def test_more_memory_than_allowed_is_refused_in_one_line(tmp_path: Path, image: Path, kind: str) -> None:
    path = write_hostile(tmp_path / "hostile.onnx", kind)
    code, output, complaints, peak = run("predict", path, image, "--max-memory", LIMIT, "--max-seconds", PATIENCE)
    assert (code, output) == (7, "")
    assert re.fullmatch(r"tercet: error: no memory to answer for .*\n", complaints)
    assert peak < LIMIT * 1024
    if kind == "many":
        assert peak > 120 * 1024  # the file alone takes half of that: what it asked for was really written


def test_dimensions_that_no_number_holds_are_no_matter_of_memory(tmp_path: Path, image: Path) -> None:
    path = write_hostile(tmp_path / "hostile.onnx", "overflow")
    code, _, complaints, peak = run("predict", path, image, "--max-memory", LIMIT)
    assert code == 4 and "verflow" in complaints and peak < LIMIT * 1024


def test_limits_change_no_answer(tmp_path: Path, image: Path) -> None:
    path = write_tiny(tmp_path / "-- of, strangers.onnx")
    (tmp_path / "-odd, name.png").write_bytes(image.read_bytes())
    words = (
        "--top-k",
        2,
        "--json",
        "--batch-size=3",
        "--",
        path,
        tmp_path / "-odd, name.png",
        image,
        tmp_path / "absent",
    )
    plain, bounded = run("predict", *words), run("predict", "--max-memory", LIMIT, "--max-seconds", PATIENCE, *words)
    assert plain[:3] == bounded[:3]
    words = ("--top-k", 2, "--json", "--csv", tmp_path / "out.csv", "--", path, image)
    assert run("predict", "--max-memory", LIMIT, *words)[0] == 0
    assert (tmp_path / "out.csv").read_text().count("\n") == 2


def test_too_little_for_anything_is_refused(tmp_path: Path, image: Path) -> None:
    path = write_tiny(tmp_path / "tiny.onnx")
    for verb in (("predict", path, image), ("serve", path, "--port", 0)):
        code, _, complaints, _ = run(*verb, "--max-memory", 257)
        assert code == 2 and re.fullmatch(
            r"tercet: error: max_memory 257 is too small: with \d+ threads the process needs \d+ MiB of address space "
            r"before it loads a model\n",
            complaints,
        )
    code, _, complaints, _ = run("predict", path, image, "--max-memory", 3, "--max-seconds", 0)
    assert code == 2 and "max_memory 3 must be at least 256 MiB" in complaints and "max_seconds 0" in complaints


def child_of(pid: int) -> int:
    """Wait for a process's only child, and return it."""
    listing = Path(f"/proc/{pid}/task/{pid}/children")
    end = time.monotonic() + PATIENCE
    while not (found := listing.read_text().split()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return int(found[0])


def loaded(pid: int) -> bool:
    return "onnxruntime" in Path(f"/proc/{pid}/maps").read_text()


@pytest.mark.parametrize(
    ("kind", "code", "told"),
    [
        (signal.SIGABRT, 7, "was ended by SIGABRT, most likely for want of memory: it was given 700 MiB"),
        (signal.SIGTERM, 143, "stopped by SIGTERM"),
    ],
    ids=str,
)
def test_a_process_that_is_ended_from_outside(
    tmp_path: Path, image: Path, kind: signal.Signals, code: int, told: str
) -> None:
    """Native code that finds no memory may abort; a signal to the parent reaches the child in the midst of it."""
    path = write_hostile(tmp_path / "hostile.onnx", "slow")
    words = command("predict", path, image, "--max-memory", LIMIT)
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        child = child_of(process.pid)
        while not loaded(child):
            time.sleep(0.02)
        os.kill(process.pid if kind == signal.SIGTERM else child, kind)
        output, complaints = process.communicate(timeout=PATIENCE)
    assert (process.returncode, output) == (code, "")
    assert told in complaints and complaints.count("\n") == 1
    assert not Path(f"/proc/{child}").exists()


def test_an_answer_in_time_is_no_matter_of_time_any_more() -> None:
    script = "from tercet.inference.predict_file import within_bounds\nimport time\n"
    script += "with within_bounds(memory=None, seconds=0.5): pass\ntime.sleep(1)\nprint('told')"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert (done.returncode, done.stdout) == (0, "told\n")


def test_work_without_end_is_ended(tmp_path: Path, image: Path) -> None:
    path = write_hostile(tmp_path / "hostile.onnx", "slow")
    code, _, complaints, _ = run("predict", path, image, "--max-seconds", 3)
    assert code == 128 + signal.SIGALRM
    assert complaints == "tercet: error: predicting took longer than the 3 s of --max-seconds\n"


def test_a_server_does_not_load_what_asks_for_too_much(tmp_path: Path) -> None:
    path = write_hostile(tmp_path / "hostile.onnx", "many")
    code, _, complaints, peak = run("serve", path, "--port", 0, "--max-memory", LIMIT)
    assert code == 7 and "no memory" in complaints and "listening" not in complaints and peak < LIMIT * 1024
    path = write_hostile(tmp_path / "hostile.onnx", "slow")
    code, _, complaints, _ = run("serve", path, "--port", 0, "--load-timeout", 3)
    assert code == 128 + signal.SIGALRM
    assert [json.loads(line)["event"] for line in complaints.splitlines()[:-1]] == ["died"]
    assert complaints.splitlines()[-1] == "tercet: error: the model was not loaded in time: see --load-timeout"


def test_a_server_without_memory_for_one_image_answers_the_next(tmp_path: Path) -> None:
    path = write_hostile(tmp_path / "hostile.onnx", "growing")
    with Server(path, "--max-memory", str(LIMIT)) as running, running.client() as client:
        for _ in range(3):
            refused = client.post("/v1/predict", content=picture((200, 0, 0), (90, 90)))
            assert refused.status_code == 503 and "Retry-After" in refused.headers
            answered = client.post("/v1/predict", content=picture((200, 0, 0), (20, 20)))
            assert answered.status_code == 200 and answered.json()["answers"][0]["label"] == "red"
        peak = re.search(r"VmHWM:\s*(\d+) kB", Path(f"/proc/{running.pid}/status").read_text())
        assert peak is not None and int(peak[1]) < LIMIT * 1024
    assert not running.events("died")


def test_threads_that_have_no_room_are_not_waited_for(tmp_path: Path) -> None:
    """onnxruntime would: it waits for ever for threads that could not be started."""
    path = write_tiny(tmp_path / "tiny.onnx")
    code = "import resource, sys; from tercet import ExportedModel, TercetError\n"
    code += "ExportedModel.load(sys.argv[1], threads=1)\n"
    code += "size = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize() + 2**25\n"
    code += "resource.setrlimit(resource.RLIMIT_AS, (size, size))\n"
    code += "try: ExportedModel.load(sys.argv[1], threads=64)\n"
    code += "except TercetError as error: sys.exit(f'{error!r}')\n"
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 1 and done.stderr.startswith("MemoryExhausted('no memory for 64 thread(s) beside ")
