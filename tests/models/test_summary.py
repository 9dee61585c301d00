"""Counts of parameters, statistics and FLOPs against formulas."""

import json

import pytest
import torch

from tercet.config.model import BackboneConfig, InputConfig, ModelConfig
from tercet.models.build import build
from tercet.models.fusion_head import EndToEnd, FusionHead
from tercet.models.summary import summarize

GATES = {"rnn": 1, "gru": 3, "lstm": 4}


def test_parameter_count_of_the_largest_model_of_the_paper():
    config = ModelConfig(head_hidden_dim=2048)
    with torch.device("meta"):
        summary = summarize(build("seresnext101_32x4d", num_classes=10, config=config, load_weights=False))
    assert (summary["parameters"], summary["buffers"]) == (51_123_258, 137_856)
    names = {row["name"]: row for row in summary["layers"]}
    assert names["features.network.layer4"]["parameters"] > 0
    assert names["head.dense"] == {"name": "head.dense", "type": "Linear", "parameters": 2048 * 2048 + 2048}
    json.dumps(summary, allow_nan=False)


@pytest.mark.parametrize(
    ("network", "options"),
    [
        ("row-lstm", {}),
        ("row-lstm", {"activation": "relu"}),
        ("row-lstm", {"recurrent_activation": "hard_sigmoid", "num_biases": 1}),
        ("row-gru", {}),
        ("row-gru", {"reset_after": False}),
        ("row-gru", {"activation": "relu"}),
        ("row-rnn", {}),
        ("row-rnn", {"activation": "sigmoid"}),
        ("row-bilstm", {}),
    ],
)
def test_flops_of_recurrent_layers_follow_the_formula(network, options):
    classifier = build(network, num_classes=10, config=ModelConfig(**options), channels=1, image_size=(6, 5))
    gates, directions = GATES[network.removeprefix("row-").removeprefix("bi")], 2 if network == "row-bilstm" else 1
    layers = sum(6 * gates * 128 * (width + 128) * directions for width in (5, 128 * directions))
    expected = 2 * (layers + 128 * directions * 32 + 32 * 10)
    assert summarize(classifier)["flops"] == expected


def test_flops_of_the_pooled_step_count_active_gates_only():
    base = {"pretrained": False, "head": "linear"}
    plain = build("test_resnet", num_classes=3, config=ModelConfig(**base))
    width = plain.features.num_features
    for cell, gates in (("rnn", 1), ("gru", 3), ("lstm", 3)):
        classifier = build("test_resnet", num_classes=3, config=ModelConfig(**base, recurrent=cell, hidden_size=8))
        change = summarize(classifier)["flops"] - summarize(plain)["flops"]
        assert change == 2 * (gates * 8 * width + 3 * 8 - 3 * width), cell


def test_flops_of_a_convolution_are_two_per_multiply_add():
    classifier = build("small-cnn", num_classes=10, channels=1, image_size=(28, 28))
    expected = 2 * (26 * 26 * 32 * 9 + 5408 * 128 + 128 * 32 + 32 * 10)
    assert summarize(classifier)["flops"] == expected


def test_flops_include_attention_pooling():
    """As in SigLIP: a learned query attends to the patches, followed by a projection and an MLP."""
    plain, pooled = (
        build("test_vit", num_classes=3, config=ModelConfig(pretrained=False, backbone=BackboneConfig(args=args)))
        for args in ({}, {"global_pool": "map"})
    )
    width, patches, hidden = 64, 10 * 10, 3 * 64
    linear = width * width * (1 + 2 * patches + 1) + 2 * width * hidden
    assert summarize(pooled)["flops"] - summarize(plain)["flops"] == 2 * (linear + 2 * patches * width)
    assert all(parameter.requires_grad for parameter in pooled.parameters())


def test_frozen_parameters_are_counted_but_not_trainable():
    classifier = build("small-cnn", num_classes=3, channels=1, image_size=(8, 8))
    before = summarize(classifier)
    classifier.features.requires_grad_(False)
    after = summarize(classifier)
    assert after["parameters"] == before["parameters"] == before["trainable"]
    assert after["trainable"] == before["trainable"] - (32 * 9 + 32)


def test_summarize_does_not_change_the_module():
    classifier = build(
        "test_resnet", num_classes=3, config=ModelConfig(pretrained=False, input=InputConfig(size=(64,)))
    )
    classifier.features.eval()
    modes = [part.training for part in classifier.modules()]
    state = {name: value.clone() for name, value in classifier.state_dict().items()}
    summarize(classifier)
    assert [part.training for part in classifier.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in classifier.state_dict().items())


def test_fusion_heads_and_ensembles_are_summarized():
    members = [build(name, num_classes=4, channels=1, image_size=(8, 8)) for name in ("row-rnn", "small-cnn")]
    head = FusionHead(2, 4, width=16)
    summary = summarize(head)
    assert summary["flops"] == 2 * (8 * 16 + 16 * 4)
    assert summary["input"] == {"members": 2, "classes": 4}
    ensemble = summarize(EndToEnd(members, head, train_branches=False))
    parts = [summarize(part) for part in (*members, head)]
    assert ensemble["flops"] == sum(part["flops"] for part in parts)
    assert ensemble["trainable"] == summary["parameters"] < ensemble["parameters"]
