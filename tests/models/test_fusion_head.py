"""Heads and the end-to-end ensemble: parameter counts, modes, frozen and trained members."""

import pytest
import torch

from tercet.config.model import InputConfig, ModelConfig
from tercet.core.errors import ConfigError
from tercet.models.build import build
from tercet.models.fusion_head import EndToEnd, FusionHead
from tercet.models.heads import HEADS
from tercet.models.layers import GaussianNoise
from tercet.models.summary import count_parameters


def members() -> list[torch.nn.Module]:
    """Three members of three sizes, one of them with batch norm."""
    resnet = ModelConfig(pretrained=False, head_hidden_dim=8, input=InputConfig(size=(32,), channels=3))
    return [
        build("test_resnet", num_classes=4, config=resnet, channels=1),
        build("row-gru", num_classes=4, channels=1, image_size=(8, 8)),
        build("small-cnn", num_classes=4, channels=1, image_size=(10, 12)),
    ]


def snapshot(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


@pytest.mark.parametrize(("classes", "expected"), [(10, 167_946), (5, 86_021), (100, 1_642_596)])
def test_parameter_counts_of_the_paper(classes, expected):
    assert count_parameters(FusionHead(3, classes)) == expected


def test_width_zero_is_equation_19():
    head = FusionHead(3, 5, width=0)
    probabilities = torch.rand(2, 3, 5).softmax(2)
    (theta,) = head.parameters()
    torch.testing.assert_close(head(probabilities), probabilities.reshape(2, 15) @ theta.T)


def test_member_probabilities_are_concatenated_in_order():
    head = FusionHead(2, 3, width=0)
    with torch.no_grad():
        head.layers.classes.weight.copy_(torch.cat((torch.zeros(3, 3), torch.eye(3)), 1))
    probabilities = torch.rand(4, 2, 3)
    torch.testing.assert_close(head(probabilities), probabilities[:, 1])


def test_softmax_of_member_logits_is_computed_in_32_bits():
    head = FusionHead(2, 3, width=8).eval()
    logits = 20 * torch.randn(4, 2, 3)
    torch.testing.assert_close(head.from_logits(logits), head(logits.softmax(2)))
    assert head.from_logits(logits.bfloat16()).dtype == torch.float32


def test_options_build_an_equal_head():
    head = FusionHead(2, 3, width=8, slope=0.1, dropout=0.2)
    assert repr(FusionHead(2, 3, **head.options())) == repr(head)


def test_wrong_shapes_and_numbers_raise():
    with pytest.raises(ValueError, match=r"\(B, 2, 3\), got \(4, 3, 2\)"):
        FusionHead(2, 3)(torch.rand(4, 3, 2))
    with pytest.raises(ConfigError, match="2 members, got 3"):
        EndToEnd(members(), FusionHead(2, 4), train_branches=False)
    with pytest.raises(ConfigError, match="5 classes"):
        EndToEnd(members(), FusionHead(3, 5), train_branches=False)
    with pytest.raises(ConfigError, match="width"):
        FusionHead(2, 3, width=-1)
    ensemble = EndToEnd(members(), FusionHead(3, 4, width=8), train_branches=False)
    with pytest.raises(ValueError, match="or 3, got 2"):
        ensemble((torch.rand(1, 1, 8, 8),) * 2)


def test_images_are_one_tensor_or_one_per_branch():
    ensemble = EndToEnd(members(), FusionHead(3, 4, width=8), train_branches=False).eval()
    images = torch.rand(2, 1, 20, 20)
    assert ensemble.members(images).shape == (2, 3, 4)
    views = tuple(branch.preprocess(images)[:, :1] for branch in ensemble.branches[1:])
    torch.testing.assert_close(ensemble((images, *views)), ensemble(images))
    for index, branch in enumerate(ensemble.branches):
        torch.testing.assert_close(ensemble.members(images)[:, index], branch(images))


def test_frozen_members_are_bit_identical_after_training():
    branches = members()
    ensemble = EndToEnd(branches, FusionHead(3, 4, width=8), train_branches=False)
    before, head_before = snapshot(ensemble.branches), snapshot(ensemble.head)
    optimizer = torch.optim.AdamW([p for p in ensemble.parameters() if p.requires_grad], lr=0.1, weight_decay=0.1)
    for _ in range(3):
        ensemble.train()
        assert ensemble.head.training
        assert not any(part.training for part in ensemble.branches.modules())
        torch.nn.functional.cross_entropy(ensemble(torch.rand(4, 1, 16, 16)), torch.tensor([0, 1, 2, 3])).backward()
        optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in ensemble.branches.state_dict().items())
    assert all(parameter.grad is None for parameter in ensemble.branches.parameters())
    assert any(not torch.equal(value, head_before[name]) for name, value in ensemble.head.state_dict().items())


def test_joint_training_updates_members_and_their_statistics():
    ensemble = EndToEnd(members(), FusionHead(3, 4, width=8), train_branches=True).train()
    before = snapshot(ensemble)
    fused, logits = ensemble.joint(torch.rand(4, 1, 16, 16))
    assert fused.shape == (4, 4)
    assert logits.shape == (4, 3, 4)
    fused.square().sum().backward()  # through the members' softmax
    with torch.no_grad():
        for parameter in ensemble.parameters():
            parameter -= 0.1 * parameter.grad
    moved = {name for name, value in ensemble.state_dict().items() if not torch.equal(value, before[name])}
    for part in (
        "branches.0.features.network.bn1.running_mean",
        "branches.1.head.classes.weight",
        "head.layers.dense.weight",
    ):
        assert part in moved


def test_frozen_members_build_no_graph():
    ensemble = EndToEnd(members(), FusionHead(3, 4, width=8), train_branches=False)
    assert not ensemble.members(torch.rand(1, 1, 8, 8)).requires_grad
    assert ensemble(torch.rand(1, 1, 8, 8)).requires_grad


def test_gaussian_noise_is_added_in_training_only():
    noise = GaussianNoise(0.1)
    features = torch.zeros(200, 200)
    assert torch.equal(noise.eval()(features), features)
    noisy = noise.train()(features)
    assert abs(float(noisy.std()) - 0.1) < 2e-3
    assert abs(float(noisy.mean())) < 2e-3


@pytest.mark.parametrize(
    ("name", "expected"),
    [("paper", 20 * 1024 + 1024 + 1024 * 3 + 3), ("linear", 63), ("mlp", 20 * 512 + 512 + 512 * 3 + 3)],
)
def test_heads_have_their_default_widths(name, expected):
    head = HEADS[name](20, 3, ModelConfig(head=name))
    assert count_parameters(head) == expected
    assert head(torch.rand(2, 20)).shape == (2, 3)
