"""The leaf CNN against its published table of layers."""

import pytest
import torch
from torch import nn

from tercet.config.model import ModelConfig
from tercet.core.errors import ConfigError
from tercet.models.build import build
from tercet.models.summary import summarize

TABLE = [  # layers and output shapes of the report
    ("Conv2d", (16, 109, 109)),
    ("ReLU", (16, 109, 109)),
    ("BatchNorm2d", (16, 109, 109)),
    ("MaxPool2d", (16, 54, 54)),
    ("Conv2d", (64, 25, 25)),
    ("ReLU", (64, 25, 25)),
    ("BatchNorm2d", (64, 25, 25)),
    ("MaxPool2d", (64, 12, 12)),
    ("Conv2d", (128, 10, 10)),
    ("ReLU", (128, 10, 10)),
    ("BatchNorm2d", (128, 10, 10)),
    ("Conv2d", (256, 8, 8)),
    ("ReLU", (256, 8, 8)),
    ("AdaptiveAvgPool2d", (256, 1, 1)),
    ("Flatten", (256,)),  # not in the report
    ("Linear", (4096,)),
    ("ReLU", (4096,)),
    ("Linear", (176,)),
    ("BatchNorm1d", (176,)),
]


def test_leaf_cnn_has_the_published_shapes():
    classifier = build("leaf-cnn", num_classes=176, image_size=(224, 224)).eval()
    outputs = []
    layers = [part for part in (*classifier.features, *classifier.head) if isinstance(part, nn.Module)]
    for layer in layers:
        layer.register_forward_hook(
            lambda part, _, output: outputs.append((type(part).__name__, tuple(output.shape[1:])))
        )
    assert classifier(torch.rand(1, 3, 224, 224)).shape == (1, 176)
    assert outputs == TABLE
    assert classifier.features.convolution1.weight.shape == (16, 3, 7, 7)


def test_leaf_cnn_has_the_published_parameter_count():
    summary = summarize(build("leaf-cnn", num_classes=176, image_size=(224, 224)))
    assert summary["parameters"] == summary["trainable"] == 2_171_568
    narrow = build("leaf-cnn", num_classes=176, image_size=(224, 224), config=ModelConfig(head_hidden_dim=8))
    assert summarize(narrow)["parameters"] == 2_171_568 - (4096 - 8) * (256 + 1 + 176)


@pytest.mark.parametrize("size", [(107, 107), (107, 300)])
def test_leaf_cnn_accepts_images_from_107_pixels(size):
    classifier = build("leaf-cnn", num_classes=3, image_size=size, channels=1)
    assert classifier(torch.rand(2, 1, *size)).shape == (2, 3)
    with pytest.raises(ConfigError, match="at least 107 x 107 pixels, got 106"):
        build("leaf-cnn", num_classes=3, image_size=(106, size[1]))
