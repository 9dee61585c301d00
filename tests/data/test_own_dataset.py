"""Data sets that a caller registers."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.fixtures.image_trees import picture

import tercet
from tercet.config.run import DataConfig
from tercet.core.errors import ConfigError, DataError
from tercet.core.registry import PARTS
from tercet.data.load import load_table, table_from_arrays
from tercet.experiments.catalog import describe_dataset, list_datasets


@pytest.fixture(autouse=True)
def registry() -> Iterator[None]:
    """Remove the data sets of a test."""
    names = set(PARTS["dataset"])
    yield
    for name in set(PARTS["dataset"]) - names:
        del PARTS["dataset"]._values[name]
        PARTS["dataset"]._custom.discard(name)


def test_a_function_that_returns_arrays_is_a_data_set() -> None:
    @tercet.register("dataset", "discs")
    def discs(config: DataConfig) -> tuple[np.ndarray, list[str]]:
        """Dark and light discs."""
        images = np.repeat(np.array([20, 200], dtype=np.uint8), 10)[:, None, None].repeat(8, axis=1).repeat(8, axis=2)
        return images, ["dark"] * 10 + ["light"] * 10

    table = load_table("discs", DataConfig())
    assert table.name == "discs" and table.classes == ("dark", "light") and len(table) == 20
    assert "discs           Dark and light discs.\n" in list_datasets().text
    assert describe_dataset("discs").text == "Dark and light discs.\n  by hand  no files needed\n"


def test_a_function_may_return_a_path_or_a_table(tmp_path: Path) -> None:
    for name in ("cat/first7.png", "cat/second8.png", "dog/third9.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        picture(3).save(tmp_path / name)
    tercet.register("dataset", "pets", lambda config: tmp_path)
    table = load_table("pets", DataConfig(group_from=r"(\d)"))
    assert table.classes == ("cat", "dog") and table.groups == ("7", "8", "9")
    arrays = table_from_arrays(np.zeros((2, 4, 4), dtype=np.uint8), ["a", "b"])
    tercet.register("dataset", "made", lambda config: arrays)
    assert load_table("made", DataConfig()) is arrays


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda config: None, "the data set 'odd' returned NoneType, expected a path, arrays"),
        (lambda config: Path("odd"), "no data at 'odd'"),
        (lambda config: (np.full((2, 4, 4), 2.5), [0, 1]), "expected uint8"),
        (lambda config: (np.zeros((2, 4, 4), dtype=np.uint8), ["a", "a"]), "odd has one class"),
    ],
)
def test_an_odd_result_is_an_error(function: Callable[[DataConfig], Any], message: str) -> None:
    tercet.register("dataset", "odd", function)
    with pytest.raises(DataError, match=message):
        load_table("odd", DataConfig())


def test_a_taken_name_is_an_error() -> None:
    with pytest.raises(ConfigError, match="data set 'mnist' is already registered"):
        tercet.register("dataset", "mnist", lambda config: Path("photos"))


def test_listing_the_names_loads_no_heavy_library() -> None:
    script = (
        "import sys; from tercet.core.registry import PARTS; assert 'digits' in list(PARTS['dataset'])\n"
        "print(*[name for name in ('torch', 'torchvision', 'sklearn', 'matplotlib', 'timm') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == ""
