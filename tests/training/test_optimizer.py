"""Parameter groups with their own learning rates, and optimizers of timm by name."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from tercet.config.model import InputConfig, ModelConfig
from tercet.config.training import StageConfig, TrainingConfig
from tercet.core.errors import ConfigError, Interrupted
from tercet.core.types import InputSpec
from tercet.models.build import build
from tercet.models.classifier import Classifier
from tercet.training.checkpoint import LAST, load_checkpoint, save_checkpoint
from tercet.training.losses import SingleLabel
from tercet.training.optimizer import make_optimizer, parameter_groups, set_learning_rate, timm_optimizers
from tercet.training.trainer import Trainer
from tests.training.toy import Points, StopAt, make_net, weights


class Unprocessed(Classifier):
    """A classifier of points, which have no size in pixels."""

    def embed(self, images: Tensor) -> Tensor:
        features: Tensor = self.features(images)
        return features


def make_classifier(*, custom: bool = False) -> Classifier:
    torch.manual_seed(7)
    features = nn.Sequential(nn.Linear(6, 8), nn.ReLU())
    head = nn.Identity() if custom else nn.Sequential(nn.Linear(8, 3))
    return Unprocessed("toy", spec=InputSpec((1, 1)), num_classes=3, features=features, head=head, custom=custom)


def make_trainer(folder: Path, module: nn.Module, **options: Any) -> Trainer:
    folder.mkdir(parents=True, exist_ok=True)
    defaults = {"epochs": 3, "lr": 1e-2, "batch_size": 16}
    points = Points(48, seed=1, shuffle=False)
    callbacks = options.pop("callbacks", ())
    return Trainer(
        module, Points(), points, config=TrainingConfig(**{**defaults, **options}), folder=folder, callbacks=callbacks
    )


def test_a_step_with_two_rates_equals_the_hand_computation(tmp_path: Path) -> None:
    module, reference = make_classifier(), make_classifier()
    loss, _ = SingleLabel()(reference, next(iter(Points().epoch(0))))
    loss.backward()  # type: ignore[no-untyped-call]
    config = TrainingConfig(optimizer="sgd", stages=(StageConfig(lr=1e-2, head_lr=0.3, steps=1),))
    result = Trainer(module, Points(), None, config=config, folder=tmp_path).run()
    for name, parameter in reference.named_parameters():
        rate = 1e-2 if name.startswith("features.") else 0.3
        assert parameter.grad is not None
        expected = parameter - rate * 1.9 * parameter.grad  # the first step with Nesterov momentum 0.9
        torch.testing.assert_close(module.get_parameter(name), expected, atol=1e-6, rtol=1e-6)
    assert [row.rate for row in result.history] == [1e-2]


def test_the_schedule_keeps_the_ratio_of_the_rates(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, make_classifier(), head_lr=5e-2, schedule="cosine", warmup_epochs=1.0)
    optimizer = make_optimizer(trainer.module, trainer.config, trainer.stages[0])
    for step in range(18):
        rate = trainer.learning_rate(trainer.stages[0], step)
        set_learning_rate(optimizer, rate)
        assert sorted(group["lr"] for group in optimizer.param_groups) == pytest.approx([rate, 5 * rate])


@pytest.mark.parametrize(
    "options",
    [{"head_lr": 5e-2, "ema_decay": 0.9, "warmup_epochs": 0.5}, {"optimizer": "lamb"}, {"optimizer": "muon"}],
    ids=str,
)
def test_a_resumed_training_equals_an_uninterrupted_one(tmp_path: Path, options: dict[str, Any]) -> None:
    torch.manual_seed(3)
    uninterrupted = make_trainer(tmp_path / "a", make_classifier(), weight_decay=0.01, **options)
    expected = uninterrupted.run()
    torch.manual_seed(3)
    with pytest.raises(Interrupted):
        make_trainer(tmp_path / "b", make_classifier(), weight_decay=0.01, callbacks=[StopAt(8)], **options).run()
    resumed = make_trainer(tmp_path / "b", make_classifier(), weight_decay=0.01, **options)
    assert resumed.resume()
    result = resumed.run()
    assert torch.equal(weights(resumed.module), weights(uninterrupted.module))
    assert [row.rate for row in result.history] == [row.rate for row in expected.history]


@pytest.mark.parametrize("name", timm_optimizers())
def test_the_state_of_timms_optimizers_is_complete(name: str, tmp_path: Path) -> None:
    if name.startswith(("bnb", "fused")):
        pytest.skip("needs a package beside timm, and CUDA")
    batch = next(iter(Points().epoch(0)))
    config, stage = TrainingConfig(optimizer=name, weight_decay=0.01), StageConfig(lr=1e-2, steps=6)

    def step(module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad(set_to_none=True)
        SingleLabel()(module, batch)[0].backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    module = make_net(dropout=0.0)
    optimizer = make_optimizer(module, config, stage)
    for _ in range(3):
        step(module, optimizer)
    save_checkpoint(tmp_path / LAST, {"module": module.state_dict(), "optimizer": optimizer.state_dict()})
    checkpoint = load_checkpoint(tmp_path / LAST)
    other = make_net(dropout=0.0)
    other.load_state_dict(checkpoint["module"])
    resumed = make_optimizer(other, config, stage)
    resumed.load_state_dict(checkpoint["optimizer"])
    for _ in range(3):
        step(module, optimizer)
        step(other, resumed)
    assert torch.equal(weights(module), weights(other))


def test_a_checkpoint_from_before_an_option_of_stages_is_resumed(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        make_trainer(tmp_path, make_classifier(), callbacks=[StopAt(2)]).run()
    checkpoint = load_checkpoint(tmp_path / LAST)
    for stage in checkpoint["plan"]:
        del stage["head_lr"], stage["warmup_epochs"]
    save_checkpoint(tmp_path / LAST, checkpoint)
    assert make_trainer(tmp_path, make_classifier()).resume()


def timm_network(name: str, head: str = "linear") -> Classifier:
    return build(name, num_classes=3, config=ModelConfig(pretrained=False, input=InputConfig(size=(32,)), head=head))


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext", "test_efficientnet"])
def test_layer_decay_is_that_of_timm_for_the_network_with_its_classifier(name: str) -> None:
    module, full = timm_network(name), timm.create_model(name, num_classes=3)
    names = {id(parameter): key for key, parameter in full.named_parameters()}
    expected = {
        names[id(parameter)]: group["lr_scale"]
        for group in timm.optim.param_groups_layer_decay(full, layer_decay=0.5)
        for parameter in group["params"]
    }
    groups = parameter_groups(module, TrainingConfig(layer_decay=0.5), head_scale=8.0)
    scales = {id(parameter): group.get("lr_scale", 1.0) for group in groups for parameter in group["params"]}
    backbone = dict(module.features.network.named_parameters())  # type: ignore[union-attr]
    assert backbone.keys() < expected.keys()
    assert {key: scales[id(parameter)] for key, parameter in backbone.items()} == pytest.approx(
        {key: expected[key] for key in backbone}
    )
    assert {scales[id(parameter)] for parameter in module.head.parameters()} == {8.0}


def test_groups_without_rates_of_their_own_are_matrices_and_vectors() -> None:
    groups = parameter_groups(timm_network("test_resnet"), TrainingConfig(weight_decay=0.1))
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
    assert all("lr_scale" not in group for group in groups)
    assert len(parameter_groups(timm_network("test_resnet"), TrainingConfig())) == 1


def test_options_about_missing_layers_are_errors() -> None:
    stage = StageConfig(lr=1e-3, head_lr=1e-2, epochs=1)
    with pytest.raises(ConfigError, match="head_lr: network 'toy' has no layers after a backbone"):
        make_optimizer(make_classifier(custom=True), TrainingConfig(), stage)
    with pytest.raises(ConfigError, match="layer_decay: network 'toy' is not a timm network"):
        make_optimizer(make_classifier(), TrainingConfig(layer_decay=0.5), stage)
    custom = Classifier(
        "own",
        spec=InputSpec((32, 32)),
        num_classes=3,
        features=timm.create_model("test_resnet", num_classes=3),
        head=nn.Identity(),
        custom=True,
    )
    scales = {
        id(parameter): group.get("lr_scale", 1.0)
        for group in parameter_groups(custom, TrainingConfig(), head_scale=10.0)
        for parameter in group["params"]
    }
    assert scales[id(custom.features.fc.weight)] == 10.0  # type: ignore[union-attr,arg-type]


def test_second_order_and_unresumable_optimizers_are_not_offered() -> None:
    assert not {"adahessian", "kron"} & set(timm_optimizers())
    with pytest.raises(ConfigError, match="unknown optimizer"):
        make_optimizer(make_net(), TrainingConfig(optimizer="adahessian"), StageConfig(epochs=1))
