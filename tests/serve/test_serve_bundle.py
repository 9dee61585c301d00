"""Serving a bundle, which is first exported by a child process."""

import io
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.fixtures.bundles import CLASSES, make_bundle
from tests.serve.server import PATIENCE, Server, has_ended

pytestmark = pytest.mark.slow


def test_served_bundle_predicts_like_the_bundle(tmp_path: Path) -> None:
    bundle = make_bundle("single")
    folder = bundle.save(tmp_path / "run" / "bundle")
    images = [np.random.default_rng(seed).integers(0, 255, (20, 14 + seed, 3)).astype(np.uint8) for seed in range(3)]
    expected = bundle.predict(images)
    with Server(folder, faults=True) as running, running.client() as client:
        for image, probabilities in zip(images, expected.probabilities, strict=True):  # type: ignore[union-attr]
            stream = io.BytesIO()
            Image.fromarray(image).save(stream, "PNG")
            body = client.post("/v1/predict", content=stream.getvalue()).json()
            assert body["model"] == "run"
            scores = {score["label"]: score["probability"] for score in body["predictions"][0]["top"]}
            assert [scores[name] for name in CLASSES] == pytest.approx(probabilities, abs=1e-4)
        maps = Path(f"/proc/{running.pid}/maps").read_text()
        assert "libtorch" not in maps  # the export process has ended
    assert running.events("library") == []


def test_export_process_ends_with_the_server(tmp_path: Path) -> None:
    folder = make_bundle("single").save(tmp_path / "run" / "bundle")
    command = [sys.executable, "-m", "tercet", "serve", str(folder), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    end = time.monotonic() + PATIENCE
    while not (pids := children.read_text().split()):
        assert time.monotonic() < end
        time.sleep(0.01)
    exporting = Path(f"/proc/{pids[0]}")
    while b"export" not in (exporting / "cmdline").read_bytes() or "torch" not in (exporting / "maps").read_text():
        assert time.monotonic() < end
        time.sleep(0.05)
    process.kill()
    process.wait(PATIENCE)
    while not has_ended(int(pids[0])):
        assert time.monotonic() < end
        time.sleep(0.05)
