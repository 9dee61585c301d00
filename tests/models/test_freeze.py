"""Freezing: frozen parameters and statistics stay bit-identical, others are trained."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.training.toy import StopAt
from torch import Tensor, nn

from tercet.config.model import BackboneConfig, InputConfig, ModelConfig
from tercet.config.training import StageConfig, TrainingConfig
from tercet.core.errors import ConfigError, Interrupted
from tercet.core.types import Batch
from tercet.ensemble.bundle import Bundle, Member, load_bundle
from tercet.models.build import build
from tercet.models.classifier import Classifier
from tercet.models.fusion_head import EndToEnd, FusionHead
from tercet.models.summary import summarize
from tercet.training.optimizer import make_optimizer
from tercet.training.trainer import Trainer

LAST_STAGE = ("features.network.layer4.*: open", "backbone")


def network(*freeze: object, name: str = "test_resnet", size: int = 32, **options) -> Classifier:
    torch.manual_seed(1)
    config = ModelConfig(pretrained=False, input=InputConfig(size=(size,)), head_hidden_dim=8, freeze=freeze, **options)
    return build(name, num_classes=3, config=config)


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def changed(before: dict[str, Tensor], module: nn.Module) -> set[str]:
    return {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}


class Noise:
    """Two batches of random images, the second with a single image."""

    def __len__(self) -> int:
        return 2

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        for index in range(start, 2):
            generator = torch.Generator().manual_seed(10 * number + index)
            count = 4 if index == 0 else 1
            images = torch.rand(count, 3, 32, 32, generator=generator)
            yield Batch(images, torch.arange(count) % 3, tuple(f"{index}-{row}" for row in range(count)))


def train(module: Classifier, folder: Path, **options) -> None:
    folder.mkdir(exist_ok=True)
    callbacks = options.pop("callbacks", ())
    stages = (StageConfig(lr=1e-2, epochs=2, schedule="constant"), StageConfig(lr=1e-3, epochs=1))
    config = TrainingConfig(stages=stages, batch_size=4, weight_decay=0.1, **options)
    trainer = Trainer(module, Noise(), None, config=config, folder=folder, callbacks=callbacks)
    trainer.resume()
    trainer.run()


@pytest.mark.parametrize(
    ("freeze", "open_parts", "options"),
    [
        (("backbone",), ("head.",), {}),
        (("all-but-last",), ("head.classes.",), {"optimizer": "sgd"}),
        (LAST_STAGE, ("features.network.layer4.", "head."), {"ema_decay": 0.9, "optimizer": "adamw"}),
        (("*.bn?.*: frozen", "*: open"), ("features.", "head."), {"ema_decay": 0.9, "optimizer": "adamw"}),
    ],
    ids=["backbone", "all-but-last", "last stage", "normalization"],
)
def test_frozen_parameters_and_statistics_stay_bit_identical(tmp_path, freeze, open_parts, options):
    module = network(*freeze)
    before = state(module)
    frozen = {name for match in module.freezing if match.rule.frozen for name in match.names}
    train(module, tmp_path / "run", **options)
    moved = changed(before, module)
    assert not moved & frozen
    trainable = {name for name, value in module.named_parameters() if value.requires_grad}
    assert trainable <= moved | {name for name in trainable if name.endswith("bias")}
    assert all(name.startswith(open_parts) for name in moved)
    assert frozen | {name for match in module.freezing if not match.rule.frozen for name in match.names} == set(before)


def test_train_mode_updates_open_statistics_only():
    module = network(*LAST_STAGE).train()
    before = state(module)
    module(torch.rand(4, 3, 32, 32))
    moved = changed(before, module)
    assert moved and all(name.startswith("features.network.layer4.") for name in moved)
    assert module.head.training and not module.features.network.layer1.training
    assert not any(part.training for part in module.eval().modules())
    assert module.train().features.network.layer4.training


def test_dropout_is_disabled_in_frozen_modules_only():
    drop = BackboneConfig({"drop_path_rate": 0.5})
    module = network("backbone", name="test_vit", head="mlp", dropout=0.5, backbone=drop).train()
    images = torch.rand(4, 3, 32, 32)
    assert torch.equal(module.embed(images), module.embed(images))
    assert not torch.equal(module(images), module(images))


def test_a_frozen_backbone_builds_no_graph_and_the_optimizer_has_open_parameters_only():
    module = network("backbone").train()
    features = module.embed(torch.rand(2, 3, 32, 32))
    assert not features.requires_grad
    groups = make_optimizer(module, TrainingConfig(), StageConfig(lr=1.0, epochs=1)).param_groups
    optimized = {id(parameter) for group in groups for parameter in group["params"]}
    assert optimized == {id(parameter) for parameter in module.head.parameters()}


def test_resume_of_a_frozen_network_equals_uninterrupted(tmp_path):
    torch.manual_seed(5)
    uninterrupted = network("backbone", noise=0.0)
    before = state(uninterrupted)
    train(uninterrupted, tmp_path / "uninterrupted", ema_decay=0.9)
    with pytest.raises(Interrupted):
        train(network("backbone", noise=0.0), tmp_path / "resumed", ema_decay=0.9, callbacks=[StopAt(3)])
    resumed = network("backbone", noise=0.0)
    train(resumed, tmp_path / "resumed", ema_decay=0.9)
    assert not changed(state(uninterrupted), resumed)
    assert all(name.startswith("head.") for name in changed(before, resumed))


def test_bundles_and_end_to_end_ensembles_keep_the_frozen_parameters(tmp_path):
    module = network("backbone")
    member = Member("member", module, ModelConfig(head_hidden_dim=8, freeze=("backbone",)))
    Bundle(("a", "b", "c"), (member,)).save(tmp_path / "b")
    loaded = load_bundle(tmp_path / "b").members[0].classifier
    assert [match.rule for match in loaded.freezing] == [match.rule for match in module.freezing]
    ensemble = EndToEnd([loaded], FusionHead(1, 3, width=4), train_branches=True).train()
    before = state(loaded)
    optimizer = make_optimizer(ensemble, TrainingConfig(), StageConfig(lr=0.1, epochs=1))
    ensemble(torch.rand(4, 3, 32, 32)).square().sum().backward()
    optimizer.step()
    assert changed(before, loaded) and all(name.startswith("head.") for name in changed(before, loaded))


def test_gradients_pass_a_frozen_recurrent_module():
    table = ("recurrent.*: frozen", "*: open")
    module = network(*table, size=64, recurrent="gru", scan="rows", hidden_size=4).train()
    module(torch.rand(2, 3, 64, 64)).sum().backward()
    assert all(parameter.grad is None for parameter in module.recurrent.parameters())
    assert all(parameter.grad is not None for parameter in module.features.parameters())


@pytest.mark.parametrize(
    ("freeze", "message"),
    [
        (("features.network.layer5.*: frozen", "*: open"), r"'features\.network\.layer5\.\*' matches no parameter"),
        (("features.*: frozen",), r"no pattern matches .* of 'test_resnet'.*head\.classes.*'\*: open'"),
        (("*: frozen",), "nothing of 'test_resnet' is left to train"),
    ],
)
def test_invalid_freezing_rules_raise_in_one_line(freeze, message):
    with pytest.raises(ConfigError, match=message) as error:
        network(*freeze)
    assert "\n" not in str(error.value)


def test_freezing_an_untrained_network_raises():
    with pytest.raises(ConfigError, match="--freeze has no effect on 'row-lstm'"):
        build("row-lstm", num_classes=3, config=ModelConfig(freeze=("backbone",)), image_size=(8, 8))


@pytest.mark.parametrize(
    ("name", "head", "freeze", "trainable", "parameters"),
    [
        ("deit_tiny_patch16_224", "mlp", "backbone", 189_104, 5_713_520),
        ("resnet18", "linear", "none", 11_266_800, 11_266_800),
        ("resnet18", "linear", "all-but-last", 90_288, 11_266_800),
    ],
)
def test_parameter_counts_of_the_leaf_report(name, head, freeze, trainable, parameters):
    config = ModelConfig(head=head, freeze=(freeze,))
    with torch.device("meta"):
        summary = summarize(build(name, num_classes=176, config=config, load_weights=False))
    assert (summary["trainable"], summary["parameters"]) == (trainable, parameters)
    assert sum(match["parameters"] for match in summary["freezing"]) in (0, parameters)


def test_parameter_count_of_the_vgg16_of_the_leaf_report():
    with torch.device("meta"):
        config = ModelConfig(head="linear", pretrained=False)
        module = build("vgg16", num_classes=176, config=config)
    assert sum(parameter.numel() for parameter in module.parameters()) == 134_981_616
