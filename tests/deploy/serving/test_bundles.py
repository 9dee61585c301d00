"""A bundle's folder can be served as it is: it is exported first, by another process."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.deploy.conftest import CLASSES, make_bundle
from tests.deploy.serving.server import Server


def test_a_bundle_is_served_and_says_what_it_says_in_python(tmp_path: Path) -> None:
    bundle = make_bundle("single")
    folder = bundle.save(tmp_path / "run" / "bundle")
    images = [np.random.default_rng(one).integers(0, 255, (20, 14 + one, 3)).astype(np.uint8) for one in range(3)]
    said = bundle.predict(images)
    with Server(folder, faults=True) as running, running.client() as client:
        for image, probabilities in zip(images, said.probabilities, strict=True):  # type: ignore[union-attr]
            stream = io.BytesIO()
            Image.fromarray(image).save(stream, "PNG")
            answer = client.post("/v1/predict", content=stream.getvalue()).json()
            assert answer["model"] == "run"
            told = {entry["label"]: entry["probability"] for entry in answer["answers"][0]["top"]}
            assert [told[name] for name in CLASSES] == pytest.approx(probabilities, abs=1e-4)
        maps = Path(f"/proc/{running.pid}/maps").read_text()
        assert "libtorch" not in maps  # what exported it has ended
    assert running.events("library") == []
