"""Contributions of steps sum to what they explain, and roll-out mixes tokens as attention does."""

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
    """Return a network whose weights are far from those of a beginning, so that its logits differ much."""
    torch.manual_seed(3)
    config = ModelConfig(pretrained=False, **options)
    classifier = build(name, num_classes=3, config=config, channels=channels, image_size=(12, 10))
    with torch.no_grad():
        for parameter in classifier.recurrent.parameters():
            parameter.mul_(1.5)
        for parameter in classifier.head.parameters():
            parameter.mul_(3)
    return classifier.eval()


def scanning(scan: str, **options) -> Classifier:
    size = InputConfig(size=(96, 128))  # a feature map of 3 x 4 cells
    return network("test_resnet", recurrent="lstm", scan=scan, hidden_size=8, head_hidden_dim=8, input=size, **options)


def picture(classifier: Classifier) -> Tensor:
    return torch.rand(1, classifier.spec.channels, *classifier.spec.size)


def logit_of_nothing(classifier: Classifier, image: Tensor, target: int) -> float:
    with torch.no_grad():
        read = classifier.features(classifier.preprocess(image))
        return float(classifier.head(classifier.recurrent(torch.zeros_like(read)))[0, target])


@pytest.mark.parametrize("scan", SCANS)
def test_the_contributions_of_a_scans_steps_sum_to_the_difference_of_logits(scan: str) -> None:
    classifier = scanning(scan)
    image = picture(classifier)
    found = step_contributions(classifier, image, 1)
    with torch.no_grad():
        assert found.logit == pytest.approx(float(classifier(image)[0, 1]), abs=1e-5)
    assert found.baseline == pytest.approx(logit_of_nothing(classifier, image, 1), abs=1e-6)
    difference = found.logit - found.baseline
    assert abs(difference) > 0.05
    assert float(found.contributions.sum()) == pytest.approx(difference, abs=0.01 * abs(difference) + 1e-6)
    assert float(found.cells.sum()) == pytest.approx(float(found.contributions.sum()), abs=1e-5)
    assert found.error == pytest.approx(float(found.contributions.sum()) - difference)
    assert tuple(found.cells.shape) == (3, 4)


@pytest.mark.parametrize("scan", SCANS)
def test_steps_are_the_cells_in_the_order_of_the_scan(scan: str) -> None:
    found = step_contributions(scanning(scan), torch.rand(1, 3, 96, 128), 0)
    cells = found.cells
    snake = torch.cat([cells[0], cells[1].flip(0), cells[2]])
    expected = {"rows": cells.sum(1), "columns": cells.sum(0), "cells": cells.flatten(), "snake": snake}[scan]
    torch.testing.assert_close(found.contributions, expected)
    assert (found.scan, found.directions) == (scan, 1)


@pytest.mark.parametrize(
    ("name", "options"),
    [("row-lstm", {}), ("row-gru", {}), ("row-rnn", {}), ("row-bilstm", {}), ("row-lstm", {"activation": "relu"})],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_rows_that_hold_nothing_contribute_nothing_to_a_row_classifier(name: str, options: dict, channels: int) -> None:
    classifier = network(name, channels=channels, hidden_size=12, num_layers=1, **options)
    image = torch.zeros(1, channels, 12, 10)
    image[:, :, 4:7, 2:9] = 0.5 + 0.5 * torch.rand(channels, 3, 7)
    found = step_contributions(classifier, image, 2)
    assert found.scan == "pixel rows" and found.directions == (2 if name == "row-bilstm" else 1)
    assert tuple(found.cells.shape) == (12, 10)
    held = torch.zeros(12, 10, dtype=torch.bool)
    held[4:7, 2:9] = True
    assert (found.cells[~held] == 0).all() and (found.cells[held] != 0).all()
    difference = found.logit - found.baseline
    assert float(found.contributions.sum()) == pytest.approx(difference, abs=0.01 * abs(difference) + 1e-6)


def test_one_step_is_nothing_to_divide_and_recurrence_within_a_backbone_is_no_scan() -> None:
    pooled = network("test_resnet", recurrent="gru", hidden_size=4, input=InputConfig(size=(64,)))
    with pytest.raises(UnsupportedExplanation, match="'pooled' is a single step"):
        step_contributions(pooled, picture(pooled), 0)
    tiny = {
        "layers": [1, 1],
        "patch_sizes": [7, 2],
        "embed_dims": [8, 12],
        "hidden_sizes": [4, 6],
        "mlp_ratios": [2, 2],
    }
    sequencer = network("sequencer2d_s", backbone=BackboneConfig(tiny), input=InputConfig(size=(28, 42)))
    with pytest.raises(UnsupportedExplanation, match="no sequence with a recurrent part of ours"):
        step_contributions(sequencer, picture(sequencer), 0)


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
def test_rollout_hands_out_all_of_the_answer(name: str, options: dict, prefix: int, reads: str) -> None:
    classifier = network(name, **options)
    found = attention_rollout(classifier, picture(classifier))
    torch.testing.assert_close(found.matrix.sum(1), torch.ones(len(found.matrix)))
    assert (found.matrix >= 0).all()
    assert float(found.patches.sum()) + found.rest == pytest.approx(1, abs=1e-5)
    assert len(found.matrix) == prefix + found.patches.numel()
    assert found.reads == reads


def test_rollout_of_even_attention_is_known() -> None:
    classifier = network("test_vit")
    blocks = classifier.features.network.blocks
    with torch.no_grad():
        for block in blocks:
            block.attn.qkv.weight.zero_()
            block.attn.qkv.bias.zero_()
    found = attention_rollout(classifier, picture(classifier))
    count, kept = len(found.matrix), 0.5 ** len(blocks)
    assert found.blocks == len(blocks)
    torch.testing.assert_close(found.patches, torch.full((10, 10), (1 - kept) / count))
    assert found.rest == pytest.approx(kept + (1 - kept) / count, abs=1e-5)


def test_rollout_does_not_follow_a_pool_that_attends_and_a_map_is_drawn_instead() -> None:
    classifier = network("test_vit", backbone=BackboneConfig(args={"global_pool": "map"}))
    with pytest.raises(UnsupportedExplanation, match=r"attention of its own .*class-activation maps are offered"):
        attention_rollout(classifier, picture(classifier))
    assert activation_map(classifier, picture(classifier), 0).cells.shape == (10, 10)


def test_attention_that_sees_a_part_only_is_not_rolled_out() -> None:
    swin = {"embed_dim": 8, "depths": (1, 1), "num_heads": (1, 1), "window_size": 4}
    classifier = network(
        "swin_tiny_patch4_window7_224", backbone=BackboneConfig(args=swin), input=InputConfig(size=(64,))
    )
    with pytest.raises(UnsupportedExplanation, match="no attention over all its patches"):
        attention_rollout(classifier, picture(classifier))
