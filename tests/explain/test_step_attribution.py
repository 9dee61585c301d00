"""Step contributions are complete, and attention rollout multiplies attention matrices."""

import pytest
import torch
from torch import Tensor

from tercet.config.model import BackboneConfig, InputConfig, ModelConfig
from tercet.explain.attention_rollout import attention_rollout
from tercet.explain.grad_cam import activation_map
from tercet.explain.hooks import UnsupportedExplanation
from tercet.explain.step_attribution import step_contributions
from tercet.models.build import build
from tercet.models.classifier import Classifier

SCANS = ("rows", "columns", "cells", "snake")


def network(name: str, *, channels: int = 3, **options) -> Classifier:
    """Return a network with scaled weights, whose logits differ much."""
    torch.manual_seed(3)
    config = ModelConfig(pretrained=False, **options)
    classifier = build(name, num_classes=3, config=config, channels=channels, image_size=(12, 10))
    with torch.no_grad():
        for parameter in classifier.recurrent.parameters():
            parameter.mul_(1.5)
        for parameter in classifier.head.parameters():
            parameter.mul_(3)
    return classifier.eval()


def scan_network(scan: str, **options) -> Classifier:
    size = InputConfig(size=(96, 128))  # a feature map of 3 x 4 cells
    return network("test_resnet", recurrent="lstm", scan=scan, hidden_size=8, head_hidden_dim=8, input=size, **options)


def random_image(classifier: Classifier) -> Tensor:
    return torch.rand(1, classifier.spec.channels, *classifier.spec.size)


def baseline_logit(classifier: Classifier, image: Tensor, target: int) -> float:
    with torch.no_grad():
        features = classifier.features(classifier.preprocess(image))
        return float(classifier.head(classifier.recurrent(torch.zeros_like(features)))[0, target])


@pytest.mark.parametrize("scan", SCANS)
def test_contributions_sum_to_the_difference_of_logits(scan: str) -> None:
    classifier = scan_network(scan)
    image = random_image(classifier)
    result = step_contributions(classifier, image, 1)
    with torch.no_grad():
        assert result.logit == pytest.approx(float(classifier(image)[0, 1]), abs=1e-5)
    assert result.baseline == pytest.approx(baseline_logit(classifier, image, 1), abs=1e-6)
    difference = result.logit - result.baseline
    assert abs(difference) > 0.05
    assert float(result.contributions.sum()) == pytest.approx(difference, abs=0.01 * abs(difference) + 1e-6)
    assert float(result.cells.sum()) == pytest.approx(float(result.contributions.sum()), abs=1e-5)
    assert result.error == pytest.approx(float(result.contributions.sum()) - difference)
    assert tuple(result.cells.shape) == (3, 4)


@pytest.mark.parametrize("scan", SCANS)
def test_steps_are_sums_of_cells_in_scan_order(scan: str) -> None:
    result = step_contributions(scan_network(scan), torch.rand(1, 3, 96, 128), 0)
    cells = result.cells
    snake = torch.cat([cells[0], cells[1].flip(0), cells[2]])
    expected = {"rows": cells.sum(1), "columns": cells.sum(0), "cells": cells.flatten(), "snake": snake}[scan]
    torch.testing.assert_close(result.contributions, expected)
    assert (result.scan, result.directions) == (scan, 1)


@pytest.mark.parametrize(
    ("name", "channels", "options"),
    [
        ("row-lstm", 1, {}),
        ("row-gru", 3, {}),
        ("row-rnn", 1, {}),
        ("row-bilstm", 3, {}),
        ("row-lstm", 3, {"activation": "relu"}),
        ("row-gru", 3, {"scan": "columns", "bidirectional": True}),
        ("row-gru", 2, {"scan": "pixels"}),
    ],
)
def test_black_pixels_contribute_nothing_to_a_row_classifier(name: str, channels: int, options: dict) -> None:
    classifier = network(name, channels=channels, hidden_size=12, num_layers=1, **options)
    image = torch.zeros(1, channels, 12, 10)
    image[:, :, 4:7, 2:9] = 0.5 + 0.5 * torch.rand(channels, 3, 7)
    result = step_contributions(classifier, image, 2)
    scan = options.get("scan", "rows")
    assert result.scan == (scan if scan == "pixels" else f"pixel {scan}")
    assert result.directions == (2 if name == "row-bilstm" or options.get("bidirectional") else 1)
    by_step = {"rows": result.cells.sum(1), "columns": result.cells.sum(0), "pixels": result.cells.flatten()}
    torch.testing.assert_close(result.contributions, by_step[scan])
    assert tuple(result.cells.shape) == (12, 10)
    bright = torch.zeros(12, 10, dtype=torch.bool)
    bright[4:7, 2:9] = True
    assert (result.cells[~bright] == 0).all() and (result.cells[bright] != 0).all()
    difference = result.logit - result.baseline
    assert float(result.contributions.sum()) == pytest.approx(difference, abs=0.01 * abs(difference) + 1e-6)


def test_networks_without_a_scan_are_refused() -> None:
    pooled = network("test_resnet", recurrent="gru", hidden_size=4, input=InputConfig(size=(64,)))
    with pytest.raises(UnsupportedExplanation, match="'pooled' has a single step"):
        step_contributions(pooled, random_image(pooled), 0)
    tiny = {
        "layers": [1, 1],
        "patch_sizes": [7, 2],
        "embed_dims": [8, 12],
        "hidden_sizes": [4, 6],
        "mlp_ratios": [2, 2],
    }
    sequencer = network("sequencer2d_s", backbone=BackboneConfig(tiny), input=InputConfig(size=(28, 42)))
    with pytest.raises(UnsupportedExplanation, match="no recurrent module that scans"):
        step_contributions(sequencer, random_image(sequencer), 0)


@pytest.mark.parametrize(
    ("name", "options", "prefix", "reads"),
    [
        ("test_vit", {}, 1, "class token"),
        ("test_vit", {"backbone": BackboneConfig(args={"reg_tokens": 3})}, 4, "class token"),
        ("test_vit", {"backbone": BackboneConfig(args={"global_pool": "avg"})}, 1, "all patches"),
        ("test_vit", {"recurrent": "gru", "scan": "cells", "hidden_size": 4}, 1, "all patches"),
        (
            "deit_tiny_distilled_patch16_224",
            {"backbone": BackboneConfig(args={"depth": 2, "embed_dim": 12}), "input": InputConfig(size=(48, 64))},
            2,
            "class and distillation token",
        ),
    ],
)
def test_rollout_shares_sum_to_one(name: str, options: dict, prefix: int, reads: str) -> None:
    classifier = network(name, **options)
    result = attention_rollout(classifier, random_image(classifier))
    torch.testing.assert_close(result.matrix.sum(1), torch.ones(len(result.matrix)))
    assert (result.matrix >= 0).all()
    assert float(result.patches.sum()) + result.rest == pytest.approx(1, abs=1e-5)
    assert len(result.matrix) == prefix + result.patches.numel()
    assert result.reads == reads


def test_rollout_of_uniform_attention_has_a_closed_form() -> None:
    classifier = network("test_vit")
    blocks = classifier.features.network.blocks
    with torch.no_grad():
        for block in blocks:
            block.attn.qkv.weight.zero_()
            block.attn.qkv.bias.zero_()
    result = attention_rollout(classifier, random_image(classifier))
    count, residual = len(result.matrix), 0.5 ** len(blocks)
    assert result.blocks == len(blocks)
    torch.testing.assert_close(result.patches, torch.full((10, 10), (1 - residual) / count))
    assert result.rest == pytest.approx(residual + (1 - residual) / count, abs=1e-5)


def test_attention_pooling_has_activation_maps_but_no_rollout() -> None:
    classifier = network("test_vit", backbone=BackboneConfig(args={"global_pool": "map"}))
    with pytest.raises(UnsupportedExplanation, match=r"attention pooling .*class-activation maps are available"):
        attention_rollout(classifier, random_image(classifier))
    assert activation_map(classifier, random_image(classifier), 0).cells.shape == (10, 10)


def test_window_attention_has_no_rollout() -> None:
    swin = {"embed_dim": 8, "depths": (1, 1), "num_heads": (1, 1), "window_size": 4}
    classifier = network(
        "swin_tiny_patch4_window7_224", backbone=BackboneConfig(args=swin), input=InputConfig(size=(64,))
    )
    with pytest.raises(UnsupportedExplanation, match="no global attention"):
        attention_rollout(classifier, random_image(classifier))
