"""All commands together compute the features of an image and a view once; an interruption keeps them."""

import os
import signal
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.numpy import load_file as load_numpy
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits

from tercet.audit.run import audit_data
from tercet.config.model import ModelConfig
from tercet.core.errors import Interrupted
from tercet.core.run_folder import RunFolder
from tercet.data import feature_cache
from tercet.ensemble.bundle import load_bundle
from tercet.experiments.crossval import crossval
from tercet.experiments.frozen import frozen_backbone
from tercet.experiments.plan import Plan
from tercet.experiments.train import Run, probe, train
from tercet.experiments.tta import predict_rows
from tercet.experiments.tune import tune
from tercet.inference.features import feature_key
from tercet.models.build import build
from tercet.report.run import write_report
from tercet.training.callbacks import PhaseProgress

OPTIONS: dict[str, Any] = {"tensorboard": False, "threads": 1}
IMAGES = 120


@pytest.fixture
def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A network with weights from a file, and a folder without stored features."""
    monkeypatch.setenv("TERCET_CACHE", str(tmp_path / "cache"))
    torch.manual_seed(11)
    weights = tmp_path / "weights.safetensors"
    save_file(timm.create_model("test_resnet").state_dict(), weights)
    return {"model": "test_resnet", "weights": str(weights), "input.size": [32]}


@pytest.mark.slow
def test_commands_compute_each_image_and_view_once(
    shapes: Path, network: dict[str, Any], alone: None, tmp_path: Path
) -> None:
    first = probe(shapes, members=[network], output=str(tmp_path / "probe"), **OPTIONS)
    folds = crossval(
        shapes,
        members=[network],
        head="logistic",
        folds=5,
        calibration_fraction=0.1,
        output=str(tmp_path / "folds"),
        **OPTIONS,
    )
    audit = audit_data(shapes, feature_network=[network], device="cpu")
    write_report([first.path, folds.path], output=tmp_path / "report.html")
    again = probe(shapes, members=[network], output=str(tmp_path / "again"), **OPTIONS)
    assert audit.features is not None
    counts = [
        first.metrics["features"],
        folds.metrics["features"],
        audit.to_dict()["features"],
        again.metrics["features"],
    ]
    assert [count["computed"] for count in counts] == [IMAGES, 0, 7 * IMAGES, 0]
    calibration = len(load_bundle(folds.path).members) * round(0.1 * IMAGES)
    assert counts[0]["reused"] == 0 and counts[2]["reused"] == IMAGES and counts[3]["reused"] == IMAGES
    assert counts[1]["reused"] == 5 * (IMAGES - round(0.1 * IMAGES)) + calibration
    digests = [path for run in (first, folds) for path in run.path.rglob("digests.npy")]
    assert len(digests) == 2  # once per run, not per fold


@pytest.mark.parametrize(
    "options",
    [
        {"head": "mlp"},
        {"head": "linear"},
        {"recurrent": "gru"},
        {"recurrent": "gru", "scan": "rows", "input.size": [64]},
    ],
)
def test_a_frozen_training_passes_every_image_once(
    shapes: Path, network: dict[str, Any], alone: None, tmp_path: Path, options: dict[str, Any]
) -> None:
    member = {**network, **options, "freeze": "backbone", "epochs": 3}
    run = train(shapes, members=[member], output=str(tmp_path / "run"), **OPTIONS)
    assert run.metrics["features"] == {"computed": IMAGES, "reused": 0}


def test_pixels_are_not_stored(shapes: Path, network: dict[str, Any], alone: None, tmp_path: Path) -> None:
    run = probe(shapes, members=["pixels"], output=str(tmp_path / "run"), **OPTIONS)
    assert run.metrics["features"] == {"computed": IMAGES, "reused": 0}
    assert not list((tmp_path / "cache").rglob("*"))


def test_trials_share_features(shapes: Path, network: dict[str, Any], alone: None, tmp_path: Path) -> None:
    member = {**network, "freeze": "backbone", "epochs": 1}
    output, space = str(tmp_path / "run"), {"lr": [1e-3, 1e-2]}
    result = tune(shapes, members=[member], space=space, trials=2, output=output, **OPTIONS)
    assert result.metrics["features"] == {"computed": IMAGES, "reused": IMAGES}
    assert len(list(result.path.rglob("digests.npy"))) == 1


def test_attention_does_not_depend_on_what_was_stored(
    shapes: Path, network: dict[str, Any], alone: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Computed in this run; read; computed without a folder to store them in."""
    member = {**network, "input.size": [64], "head": "attention", "epochs": 3, "lr": 3e-3, "freeze": "backbone"}
    folders = tmp_path / "cache", tmp_path / "cache", tmp_path / "file"
    folders[2].write_text("in the way")
    runs = []
    for number, folder in enumerate(folders):
        monkeypatch.setenv("TERCET_CACHE", str(folder))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore" if number == 2 else "error")
            runs.append(train(shapes, members=[member], tta="flip", output=str(tmp_path / str(number)), **OPTIONS))
    counts = [run.metrics["features"] for run in runs]
    assert sum(counts[0].values()) == sum(counts[1].values()) and counts[1]["computed"] == 0
    held_out = counts[0]["reused"]  # validation and test have two views, the first of them stored
    assert counts[0]["computed"] == IMAGES + held_out and counts[2]["computed"] == IMAGES + 2 * held_out
    weights = [
        [load_file(path) for path in sorted((run.path / "members").rglob("bundle/*.safetensors"))] for run in runs
    ]
    for other in weights[1:]:
        for first, second in zip(weights[0], other, strict=True):
            assert all(torch.equal(first[name], second[name]) for name in first)
    (file, *_) = (tmp_path / "cache").rglob("plain_*.safetensors")
    stored = load_numpy(file)["features"]
    assert stored.dtype == np.float16 and stored.shape[1:3] == (2, 2)


def test_maps_that_do_not_fit_into_the_store_are_computed_in_every_epoch(
    shapes: Path, network: dict[str, Any], alone: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_cache, "MAX_BYTES", 1000)
    member = {**network, "input.size": [64], "head": "attention", "epochs": 1, "freeze": "backbone"}
    with pytest.warns(UserWarning, match="computes them in every epoch"):
        run = train(shapes, members=[member], tta="flip", output=str(tmp_path / "run"), **OPTIONS)
    assert run.metrics["features"] == {"computed": 0, "reused": 0}
    assert not list((tmp_path / "cache").rglob("*"))


def test_maps_and_vectors_of_equal_weights_are_stored_apart(network: dict[str, Any]) -> None:
    configs = [ModelConfig(pretrained=False, head=head) for head in ("linear", "attention")]
    classifiers = []
    for config in configs:
        torch.manual_seed(0)
        classifiers.append(build("test_resnet", num_classes=2, config=config, image_size=(64, 64)))
    keys = [feature_key(classifier, config) for classifier, config in zip(classifiers, configs, strict=True)]
    states = [classifier.features.state_dict() for classifier in classifiers]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[1]) and keys[0] != keys[1]


def test_a_probe_with_attention_reaches_a_result_on_the_digits(
    network: dict[str, Any], alone: None, tmp_path: Path
) -> None:
    digits = load_digits()
    images = np.repeat(np.repeat((digits.images[:400] * 15).astype(np.uint8), 4, axis=1), 4, axis=2)[..., None]
    member = {**network, "input.size": [64]}
    run = probe(
        (images, digits.target[:400]), members=[member], head="attention", output=str(tmp_path / "r"), **OPTIONS
    )
    assert run.metrics["members"][0]["test"]["accuracy"] > 0.5
    assert run.metrics["features"] == {"computed": 400, "reused": 0}


@pytest.fixture
def probed(shapes: Path, network: dict[str, Any], alone: None, tmp_path: Path) -> Run:
    return probe(shapes, members=[network], output=str(tmp_path / "probe"), **OPTIONS)


def test_views_of_features_predict_what_views_of_images_predict(probed: Run) -> None:
    run = RunFolder(probed.path)
    plan = Plan.load(run)
    plan = replace(plan, run=replace(plan.run, tta="crops:1,2@40+flip+vflip+shifts:2"))
    data, (member,) = plan.open_data(run), load_bundle(probed.path).members
    rows = data.rows("validation")
    frozen = frozen_backbone(member.classifier, plan.members[0], plan, data, run)
    assert frozen is not None and frozen.counts == {"computed": 0, "reused": IMAGES}
    from_features, from_images = (predict_rows(member.classifier, plan, data, rows, part) for part in (frozen, None))
    assert list(from_features) == list(from_images) and len(from_features) == 3
    for level, predictions in from_features.items():
        np.testing.assert_allclose(predictions.probabilities, from_images[level].probabilities, atol=1e-3)
    assert frozen.counts["computed"] == len(rows) * 2 * 4 * 5
    predict_rows(member.classifier, plan, data, rows, frozen)
    assert frozen.counts["computed"] == len(rows) * 2 * 4 * 5


def test_flips_share_the_plain_view(shapes: Path, network: dict[str, Any], alone: None, tmp_path: Path) -> None:
    run = probe(shapes, members=[network], tta="flip", output=str(tmp_path / "run"), **OPTIONS)
    data = Plan.load(RunFolder(run.path)).open_data(RunFolder(run.path))
    held_out = len(data.rows("validation")) + len(data.rows("test"))
    assert run.metrics["features"] == {"computed": IMAGES + held_out, "reused": held_out}


def test_a_signal_ends_the_computation_after_a_batch_and_keeps_it(probed: Run, tmp_path: Path) -> None:
    run, plan = RunFolder(probed.path), Plan.load(RunFolder(probed.path))
    data, (member,) = plan.open_data(run), load_bundle(probed.path).members
    torch.nn.init.normal_(next(member.classifier.features.parameters()))  # another encoder
    phases: list[PhaseProgress] = []

    class Stop:
        def on_phase(self, progress: PhaseProgress) -> None:
            phases.append(progress)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted, match="continue with --resume"):
        frozen_backbone(member.classifier, plan.members[0], plan, data, run, [Stop()])
    assert len(phases) == 1 and 0 < phases[0].done < phases[0].total == IMAGES
    frozen = frozen_backbone(member.classifier, plan.members[0], plan, data, run)
    assert frozen is not None and frozen.counts == {"computed": IMAGES - phases[0].done, "reused": phases[0].done}
