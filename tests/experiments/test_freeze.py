"""Frozen weights of a run equal those of the weights file, with augmentation, random erasing, decay and EMA."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tercet.config.model import ModelConfig
from tercet.core.run_folder import RunFolder
from tercet.experiments.train import train
from tercet.models.build import build


def test_frozen_weights_do_not_change_in_a_run(shapes: Path, alone: None, tmp_path: Path) -> None:
    pretrained = build("test_resnet", num_classes=3, config=ModelConfig(pretrained=False))
    with torch.no_grad():
        for layer in pretrained.features.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.running_mean.uniform_(-0.1, 0.1)
    save_file(pretrained.features.network.state_dict(), tmp_path / "pretrained.safetensors")
    member = {
        "model": "test_resnet",
        "weights": str(tmp_path / "pretrained.safetensors"),
        "input.size": 32,
        "head_hidden_dim": 16,
    }
    frozen = {**member, "name": "frozen", "freeze": "backbone"}
    partly = {**member, "name": "partly", "freeze": [{"features.network.layer4.*": "open"}, "backbone"]}
    run = train(
        shapes,
        members=[frozen, partly],
        ensemble_methods=["average"],
        output=str(tmp_path / "run"),
        augment="leaves",
        random_erasing=0.5,
        batch_size=16,
        epochs=1,
        weight_decay=0.1,
        ema_decay=0.5,
        tensorboard=False,
        threads=1,
    )
    stored = load_file(tmp_path / "pretrained.safetensors")
    changed = {}
    for name in ("frozen", "partly"):
        weights = next((run.path / "members" / name / "bundle").glob("*.safetensors"))
        trained = {key.removeprefix("features.network."): value for key, value in load_file(weights).items()}
        changed[name] = {key.split(".")[0] for key, value in stored.items() if not torch.equal(trained[key], value)}
    assert changed == {"frozen": set(), "partly": {"layer4"}}
    sizes = {name: RunFolder.open(run.path).member(name).summary() for name in changed}
    assert sizes["frozen"]["trainable"] < sizes["partly"]["trainable"] < sizes["partly"]["parameters"]
