"""Exported files of the shared trained run, and other images of its classes."""

from pathlib import Path

import pytest
from tests.fixtures.runs import draw_folder, one_core

from tercet.experiments.train import Run
from tercet.export.export import ExportResult, export_model


@pytest.fixture(scope="session")
def onnx_export(finished: Run, tmp_path_factory: pytest.TempPathFactory) -> ExportResult:
    with one_core():
        return export_model(finished.path, tmp_path_factory.mktemp("exported") / "shapes.onnx")


@pytest.fixture(scope="session")
def torch_export(finished: Run, tmp_path_factory: pytest.TempPathFactory) -> ExportResult:
    with one_core():
        return export_model(finished.path, tmp_path_factory.mktemp("programs") / "shapes.pt2", format="torch")


@pytest.fixture(scope="session")
def other_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_folder(tmp_path_factory.mktemp("others") / "shapes", count=6, seed=9)
