"""Errors of `tercet explain`, raised before anything is written."""

from pathlib import Path

import numpy as np
import pytest
from tests.fixtures.runs import draw

from tercet.cli.main import main
from tercet.core.errors import ConfigError, DataError, StorageError
from tercet.experiments.train import Run
from tercet.explain import explain as explain_module
from tercet.explain.explain import explain_images


@pytest.fixture
def disc(tmp_path: Path) -> Path:
    draw("disc", np.random.default_rng(3)).save(path := tmp_path / "disc.png")
    return path


def test_an_unknown_layer_is_compared_with_the_layers_of_all_members(finished: Run, disc: Path) -> None:
    for name in ("kernl", "recurrent.kernl"):
        with pytest.raises(
            ConfigError, match=f"'small-cnn' and 'row-gru' have no layer '{name}', did you mean 'recurrent"
        ):
            explain_images(finished.path, str(disc), layer=name)


def test_listing_layers_excludes_images_and_options(finished: Run, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["disc.png", "--class", "disc", "--features", "pooling", "--layers"]
    assert main(["explain", str(finished.path), *arguments]) == 2
    assert "remove images, --features, --class" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"member": "wid"}, ConfigError, "no member 'wid', did you mean 'wide'"),
        ({"class_name": "DISC"}, ConfigError, r"'DISC', did you mean 'disc'\? \(classes: disc, square, stroke\)"),
        ({"layer": "poling"}, ConfigError, "no layer 'poling', did you mean 'pooling'"),
        ({"features": ["head.classes"]}, ConfigError, "'head.classes' of 'small-cnn' does not return a feature map"),
        ({"images": []}, DataError, "no images to explain"),
        ({"images": ["bad.png"]}, DataError, "none of the 1 image can be read: .*bad.png"),
        ({"output": "."}, StorageError, "choose another --output$"),
        ({"output": "bad.png"}, StorageError, "choose another --output$"),
    ],
)
def test_invalid_arguments_leave_no_folder(
    options: dict, error: type[Exception], message: str, finished: Run, disc: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.png").write_bytes(b"bad")
    with pytest.raises(error, match=message):
        explain_images(finished.path, **{"images": str(disc), "output": "figures", **options})
    assert not (tmp_path / "figures").exists()


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(explain_module, "figures", None)
    with pytest.raises(ConfigError, match=r"needs matplotlib.*pip install 'tercet\[explain\]'"):
        explain_images(tmp_path, "a.png")
