"""Shared servers; a test that changes the state of a server starts its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serve.models import write_coloured
from tests.serve.server import Server


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="session")
def server(folder: Path) -> Iterator[Server]:
    """Return a server with small upload limits and short timeouts."""
    model = write_coloured(folder / "colours.onnx", maps=True, spoilt=True, card={"metrics": {"accuracy": 0.5}})
    with Server(
        model,
        *("--limits.max-upload", "1", "--limits.max-pixels", "1000000", "--limits.max-images", "8"),
        *("--limits.receive-timeout", "2", "--limits.keep-alive", "2"),
    ) as running:
        yield running
