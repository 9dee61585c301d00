"""Without the libraries of an extra, every verb that needs one ends in one line that names it and the way to get it."""

import json
import subprocess
import sys
from pathlib import Path

from PIL import Image

CHILDREN = """
import json, os, sys
import numpy, sklearn.metrics, torch
from tercet.core.torchvision_ops import declare_torchvision_operators
declare_torchvision_operators()
import timm  # slow to import, and no part of Tercet: every case below inherits them

class Without:
    def __init__(self, finder, name):
        self.finder, self.name = finder, name
    def find_spec(self, name, *more):
        return None if name.split(".")[0] == self.name else self.finder.find_spec(name, *more)
    def find_distributions(self, context):  # others ask what is installed before they import it
        found = getattr(self.finder, "find_distributions", lambda context: [])(context)
        return (one for one in found if context.name is None or one.name.replace("-", "_").lower() != self.name)
    def __getattr__(self, name):
        return getattr(self.finder, name)

def run(absent, words, place):
    from tercet import cli
    standard = os.open(place, os.O_WRONLY | os.O_CREAT)
    os.dup2(standard, 2)
    os.close(1)
    os._exit(cli.main(words))

answers = []
for number, (absent, words) in enumerate(json.load(sys.stdin)):
    place = f"{sys.argv[1]}/{number}"
    child = os.fork()
    if not child:
        for name in [name for name in sys.modules if name.split(".")[0] == absent]:
            del sys.modules[name]
        sys.meta_path[:] = [Without(finder, absent) for finder in sys.meta_path]
        run(absent, words, place)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    answers.append([code, open(place).read()])
print(json.dumps(answers))
"""
FILES = ("onnx", "onnxruntime", "onnxscript")
SERVER = ("fastapi", "httptools", "onnxruntime", "prometheus_client", "python_multipart", "uvicorn")


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    """Nothing else is there either: neither the run nor the file, so that the libraries are asked for first."""
    images = tmp_path / "images"
    for name in ("a", "b"):
        (images / name).mkdir(parents=True)
        Image.new("L", (8, 8)).save(images / name / "1.png")
    run, file, data = str(tmp_path / "run"), str(tmp_path / "model.onnx"), str(images)
    (tmp_path / "run").mkdir()
    page = str(tmp_path / "page")
    cases = [
        *((name, ["export", run, file], "export") for name in FILES),
        *((name, ["verify", file, "--bundle", run], "export") for name in FILES),
        *((name, ["benchmark", file], "export") for name in FILES),
        ("onnxruntime", ["predict", file, data], "export"),
        ("onnxruntime", ["evaluate", file, data], "export"),
        *((name, ["serve", file], "serve") for name in SERVER),
        *((name, ["serve", run], "serve") for name in SERVER),
        *((name, ["serve", run], "export") for name in ("onnx", "onnxscript")),
        ("matplotlib", ["report", run], "pictures"),
        ("matplotlib", ["audit", data, "--output", page], "audit"),
        ("imagehash", ["audit", data], "audit"),
        ("cleanlab", ["audit", data, "--run", run], "audit"),
        ("captum", ["explain", run, data], "explain"),
        ("matplotlib", ["explain", run, data], "explain"),
    ]
    (tmp_path / "said").mkdir()
    told = json.dumps([case[:2] for case in cases])
    words = [sys.executable, "-c", CHILDREN, str(tmp_path / "said")]
    done = subprocess.run(words, input=told, capture_output=True, text=True, timeout=200, check=True)
    answers = json.loads(done.stdout)
    wrong = []
    for (absent, verb, extra), (code, text) in zip(cases, answers, strict=True):
        lines = [line for line in text.splitlines() if not line.startswith("looking at ")]
        named = absent.replace("_", "-")
        right = (
            code == 2 and len(lines) == 1 and f" {named}" in lines[0] and f"pip install 'tercet[{extra}]'" in lines[0]
        )
        wrong += [] if right else [(absent, verb[0], code, text)]
    assert not wrong
    assert not Path(page).exists()
