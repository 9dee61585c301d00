"""What tercet explain refuses, before anything is written, and what it says instead."""

from pathlib import Path

import numpy as np
import pytest
from tests.fixtures.runs import draw

from tercet.cli.main import main
from tercet.core.errors import ConfigError, DataError, StorageError
from tercet.experiments.train import Run
from tercet.explain import explain as workflow
from tercet.explain.explain import explain_images


@pytest.fixture
def disc(tmp_path: Path) -> Path:
    draw("disc", np.random.default_rng(3)).save(path := tmp_path / "disc.png")
    return path


def test_a_layer_is_sought_in_all_members(finished: Run, disc: Path) -> None:
    for name in ("kernl", "recurrent.kernl"):
        with pytest.raises(
            ConfigError, match=f"'small-cnn' and 'row-gru' have no layer '{name}', did you mean 'recurrent"
        ):
            explain_images(finished.path, str(disc), layer=name)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["disc.png"], "--layers only lists layers: it goes without images"),
        (["--output", "out", "--filters"], "it goes without --output, --filters"),
        (["--class", "disc", "--features", "pooling"], "it goes without --features, --class"),
    ],
)
def test_layers_are_listed_and_nothing_else(words: list[str], told: str, finished: Run, capsys) -> None:
    assert main(["explain", str(finished.path), *words, "--layers"]) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "error", "told"),
    [
        ({"member": "wid"}, ConfigError, "no member 'wid', did you mean 'wide'"),
        ({"class_name": "squar"}, ConfigError, "no class 'squar', did you mean 'square'"),
        ({"class_name": "DISC"}, ConfigError, r"'DISC', did you mean 'disc'\? \(classes: disc, square, stroke\)"),
        ({"layer": "poling"}, ConfigError, "no layer 'poling', did you mean 'pooling'"),
        ({"features": ["poling"]}, ConfigError, "no layer 'poling', did you mean 'pooling'"),
        ({"layer": "head.classes"}, ConfigError, "'head.classes' of 'small-cnn' returns no map"),
        ({"features": ["head.classes"]}, ConfigError, "'head.classes' of 'small-cnn' returns no map"),
        ({"images": []}, DataError, "no images to explain"),
        ({"images": ["bad.png"]}, DataError, r"none of the 1 image\(s\) can be read: .*bad.png"),
        ({"output": "."}, StorageError, "exists already and is not empty: choose another --output$"),
        ({"output": "bad.png"}, StorageError, "exists already and is a file: choose another --output$"),
    ],
)
def test_what_cannot_be_is_said(
    options: dict, error: type[Exception], told: str, finished: Run, disc: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.png").write_bytes(b"bad")
    with pytest.raises(error, match=told):
        explain_images(finished.path, **{"images": str(disc), "output": "figures", **options})
    assert not (tmp_path / "figures").exists()


def test_without_matplotlib_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(workflow, "figures", None)
    with pytest.raises(ConfigError, match=r"needs matplotlib.*pip install 'tercet\[explain\]'"):
        explain_images(tmp_path, "a.png")
