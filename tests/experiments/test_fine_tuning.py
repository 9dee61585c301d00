"""Fine-tuning from a fitted head (LP-FT), and weights of classes and samples in runs."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.training.toy import StopAt

from tercet.core.errors import ConfigError, DataError, Interrupted
from tercet.core.history import History
from tercet.core.run_folder import RunFolder
from tercet.experiments import member as member_training
from tercet.experiments.plan import Plan
from tercet.experiments.train import Run, train

NETWORK = {"model": "test_resnet", "pretrained": False, "input.size": 32, "name": "net"}
LOGISTIC = {**NETWORK, "head": "logistic"}
TUNED = {**NETWORK, "head": "linear", "head_init": "logistic", "epochs": 2, "lr": 1e-3, "head_lr": 1e-2}
OPTIONS: dict[str, Any] = {"tensorboard": False, "threads": 1, "ensemble_methods": ["average"], "seed": 5}


def head_of(run: Run) -> torch.Tensor:
    return load_file(next((run.path / "bundle").rglob("*.safetensors")))["head.classes.weight"]


def features_of(run: Run) -> dict[str, int] | None:
    return RunFolder.open(run.path).member("net").summary().get("features")


def history_of(run: Run) -> History:
    return History.load(RunFolder.open(run.path).member("net").path / "history.jsonl")


def test_training_starts_from_the_head_of_the_probe(shapes: Path, alone: None, tmp_path: Path) -> None:
    probe = train(shapes, members=[LOGISTIC], output=str(tmp_path / "probe"), **OPTIONS)
    still = {**TUNED, "lr": 1e-12, "head_lr": 1e-12, "layer_decay": 0.5, "augment": "flip"}
    tuned = train(shapes, members=[still], output=str(tmp_path / "tuned"), **OPTIONS)
    torch.testing.assert_close(head_of(tuned), head_of(probe), atol=1e-6, rtol=1e-5)
    counts = features_of(tuned)
    assert counts is not None and counts["computed"] == 0 and counts["reused"] > 0  # the features of the probe


def test_a_resumed_training_keeps_its_head(
    shapes: Path, alone: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = train(shapes, members=[TUNED], output=str(tmp_path / "a"), **OPTIONS)
    with pytest.raises(Interrupted):
        train(shapes, members=[TUNED], output=str(tmp_path / "b"), callbacks=[StopAt(3)], **OPTIONS)
    monkeypatch.setattr(member_training, "initialize_head", None)  # an error if it is called
    resumed = train(resume=str(tmp_path / "b"))
    assert torch.equal(head_of(resumed), head_of(expected))
    assert [row.rate for row in history_of(resumed)] == [1e-3, 1e-3]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head": "mlp"}, "head_init logistic: network 'test_resnet' has other layers than a linear one"),
        ({"recurrent": "gru", "hidden_size": 4}, "head_init logistic: network 'test_resnet' has other layers"),
        ({"layer_decay": 1.5}, "layer_decay 1.5 must lie in"),
        ({"optimizer": "lam"}, "did you mean 'lamb'"),
        ({"stages": [{"epochs": 1}], "epochs": None, "lr": None}, "head_lr, .* need a single stage"),
    ],
)
def test_options_that_cannot_be_met_are_errors_before_training(
    shapes: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        train(shapes, members=[{**TUNED, **options}], output=str(tmp_path / "run"), **OPTIONS)
    assert not (tmp_path / "run").exists()


def test_layer_decay_needs_layer_groups(shapes: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="layer_decay: network 'small-cnn' is not a timm network"):
        train(shapes, members=["small-cnn"], layer_decay=0.5, output=str(tmp_path / "run"), **OPTIONS)


def test_class_weights_by_name_are_in_the_plan_and_change_the_head(shapes: Path, alone: None, tmp_path: Path) -> None:
    plain = train(shapes, members=[LOGISTIC], output=str(tmp_path / "plain"), **OPTIONS)
    weights = {"disc": 20}
    weighted = train(shapes, members=[LOGISTIC], class_weights=weights, output=str(tmp_path / "run"), **OPTIONS)
    assert Plan.load(RunFolder.open(weighted.path)).members[0].training.class_weights == weights
    assert not torch.allclose(head_of(plain), head_of(weighted))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"dics": 2}, "class_weights: unknown class 'dics', did you mean 'disc'"),
        ({"disc": 0}, "each of class_weights must be a positive number"),
        ({"disc": "much"}, "each of class_weights must be a positive number"),
        ("balance", "class_weights 'balance' must be none, balanced, auto or a mapping"),
    ],
)
def test_invalid_class_weights_are_errors(shapes: Path, tmp_path: Path, weights: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        train(shapes, members=[TUNED], class_weights=weights, output=str(tmp_path / "run"), **OPTIONS)
    assert not (tmp_path / "run").exists()


@pytest.fixture
def table(shapes: Path, tmp_path: Path) -> Path:
    """Return a table of the images with a column of weights, 5 for discs and 1 for the others."""
    folder = tmp_path / "table"
    shutil.copytree(shapes, folder)
    images = sorted(path.relative_to(folder) for path in folder.glob("*/*.*"))
    rows = [f"{path},{path.parent.name},{5 if path.parent.name == 'disc' else 1}" for path in images]
    (folder / "images.csv").write_text("\n".join(["image,label,importance", *rows]))
    return folder / "images.csv"


def test_weights_of_a_column_equal_weights_of_classes(table: Path, alone: None, tmp_path: Path) -> None:

    column = {"weight_column": "importance"}
    member = {**TUNED, "head_init": "random", "optimizer": "sgd", "lr": 1e-2, "head_lr": 1e-2}
    weighted = train(table, members=[member], data=column, output=str(tmp_path / "a"), **OPTIONS)
    samples = Plan.load(RunFolder.open(weighted.path)).open_data(RunFolder.open(weighted.path)).table
    rows = samples.rows_of("train")
    mean = float(samples.take(rows).weights.mean())  # type: ignore[union-attr]
    classes = {name: (5 if name == "disc" else 1) / mean for name in samples.classes}
    by_class = train(table, members=[member], class_weights=classes, output=str(tmp_path / "b"), **OPTIONS)
    torch.testing.assert_close(head_of(weighted), head_of(by_class), atol=1e-4, rtol=1e-3)
    assert np.allclose(
        [row.validation["loss"] for row in history_of(weighted)],
        [row.validation["loss"] for row in history_of(by_class)],
        rtol=1e-3,
    )


def test_a_weight_column_needs_a_table_and_positive_numbers(table: Path, shapes: Path, tmp_path: Path) -> None:
    output = str(tmp_path / "run")
    with pytest.raises(ConfigError, match=r"--data\.weight-column applies to tables only"):
        train(shapes, members=[TUNED], data={"weight_column": "importance"}, output=output, **OPTIONS)
    with pytest.raises(
        ConfigError, match=r"--data\.weight-column: .* no column 'importances', did you mean 'importance'"
    ):
        train(table, members=[TUNED], data={"weight_column": "importances"}, output=output, **OPTIONS)
    lines = table.read_text().splitlines()
    table.write_text("\n".join([*lines[:3], lines[3].rpartition(",")[0] + ",-1", *lines[4:]]))
    with pytest.raises(DataError, match="line 4: weight '-1' is not a positive number"):
        train(table, members=[TUNED], data={"weight_column": "importance"}, output=output, **OPTIONS)
