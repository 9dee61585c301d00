"""Without the libraries of an extra, the commands that need it name the missing package and its extra."""

import json
import subprocess
import sys
from pathlib import Path

from PIL import Image

RUN_CASES = """
import json, os, sys
import numpy, sklearn.metrics, torch
from tercet.core.torchvision_ops import declare_torchvision_operators
declare_torchvision_operators()
import timm  # slow to import and not part of Tercet: all child processes inherit it
from tercet.cli.main import main

class HidingFinder:
    def __init__(self, finder, name):
        self.finder, self.name = finder, name
    def find_spec(self, name, *arguments):
        return None if name.split(".")[0] == self.name else self.finder.find_spec(name, *arguments)
    def find_distributions(self, context):  # libraries look up installed packages before they import them
        packages = getattr(self.finder, "find_distributions", lambda context: [])(context)
        return (item for item in packages if context.name is None or item.name.replace("-", "_").lower() != self.name)
    def __getattr__(self, name):
        return getattr(self.finder, name)

results = []
for number, (package, arguments) in enumerate(json.load(sys.stdin)):
    path = f"{sys.argv[1]}/{number}"
    child = os.fork()
    if not child:
        for name in [name for name in sys.modules if name.split(".")[0] == package]:
            del sys.modules[name]
        sys.meta_path[:] = [HidingFinder(finder, package) for finder in sys.meta_path]
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), 2)
        os.close(1)
        os._exit(main(arguments))
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    results.append([code, open(path).read()])
print(json.dumps(results))
"""
SERVER_PACKAGES = ("fastapi", "httptools", "onnxruntime", "prometheus_client", "python_multipart", "uvicorn")


def test_a_missing_package_is_named_with_its_extra(tmp_path: Path) -> None:
    """Run and exported file do not exist either, so that packages must be checked first."""
    images = tmp_path / "images"
    for name in ("a", "b"):
        (images / name).mkdir(parents=True)
        Image.new("L", (8, 8)).save(images / name / "1.png")
    run, file, data, page = (str(tmp_path / name) for name in ("run", "model.onnx", "images", "page"))
    (tmp_path / "run").mkdir()
    (tmp_path / "stderr").mkdir()
    (tmp_path / "page.parquet").write_bytes(b"PAR1")
    cases = [
        ("onnx", ["export", run, file], "export"),
        ("onnxscript", ["verify", file, "--bundle", run], "export"),
        ("onnxruntime", ["benchmark", file], "export"),
        ("onnxruntime", ["predict", file, data], "export"),
        ("onnxruntime", ["evaluate", file, data], "export"),
        *((package, ["serve", file], "serve") for package in SERVER_PACKAGES),
        ("onnxscript", ["serve", run], "export"),
        ("matplotlib", ["report", run], "plots"),
        ("matplotlib", ["audit", data, "--output", page], "audit"),
        ("cleanlab", ["audit", data, "--run", run], "audit"),
        ("captum", ["explain", run, data], "explain"),
        ("pandas", ["embed", data, f"{page}.parquet"], "parquet"),
        ("pyarrow", ["embed", data, f"{page}.parquet"], "parquet"),
        ("pyarrow", ["audit", f"{page}.parquet"], "parquet"),
        ("matplotlib", ["explain", run, data], "explain"),
    ]
    command = [sys.executable, "-c", RUN_CASES, str(tmp_path / "stderr")]
    arguments = json.dumps([case[:2] for case in cases])
    process = subprocess.run(command, input=arguments, capture_output=True, text=True, timeout=200, check=True)
    failures = []
    for (package, words, extra), (code, text) in zip(cases, json.loads(process.stdout), strict=True):
        last = text.splitlines()[-1]  # progress may precede it
        expected = ("tercet: error: ", f" {package.replace('_', '-')}", f"pip install 'tercet[{extra}]'")
        if code != 2 or "Traceback" in text or not all(part in last for part in expected):
            failures.append((package, words[0], code, text))
    assert not failures
    assert not Path(page).exists()
