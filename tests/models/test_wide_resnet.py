"""Wide residual networks: published parameter counts, shapes, names."""

import pytest
import torch
from torch import nn

from tercet.config.model import ModelConfig
from tercet.core.errors import ConfigError
from tercet.models.build import build, check_network, network_descriptions
from tercet.models.summary import count_parameters


@pytest.mark.parametrize(
    ("name", "millions"),
    [  # the paper's tables 4 and 5, CIFAR-10
        ("wrn-40-1", 0.6),
        ("wrn-40-2", 2.2),
        ("wrn-40-4", 8.9),
        ("wrn-16-8", 11.0),
        ("wrn-22-8", 17.2),
        ("wrn-16-10", 17.1),
        ("wrn-28-10", 36.5),
    ],
)
def test_parameter_counts_are_the_published_ones(name, millions):
    with torch.device("meta"):
        network = build(name, num_classes=10, image_size=(32, 32))
    assert round(count_parameters(network) / 1e6, 1) == millions


def test_exact_count_and_depth_of_wrn_28_10():
    with torch.device("meta"):
        network = build("wrn-28-10", num_classes=10, image_size=(32, 32))
    assert count_parameters(network) == 36_479_194
    convolutions = [part for part in network.modules() if isinstance(part, nn.Conv2d) and part.kernel_size == (3, 3)]
    assert len(convolutions) == 28 - 3  # the depth includes the convolutions of the three shortcuts


@pytest.mark.parametrize(("size", "channels"), [((28, 28), 1), ((32, 32), 3), ((9, 14), 3)])
def test_any_small_image_size_is_accepted(size, channels):
    network = build("wrn-10-1", num_classes=5, image_size=size, channels=channels)
    maps = []
    network.features.group3.register_forward_hook(lambda _, __, output: maps.append(tuple(output.shape)))
    assert network(torch.rand(2, channels, *size)).shape == (2, 5)
    assert maps == [(2, 64, -(-size[0] // 4), -(-size[1] // 4))]


def test_every_parameter_gets_a_gradient_and_dropout_is_optional():
    images = torch.rand(4, 3, 12, 12)
    plain, with_dropout = (
        build("wrn-10-1", num_classes=3, image_size=(12, 12), config=ModelConfig(dropout=dropout))
        for dropout in (None, 0.5)
    )
    plain(images).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in plain.parameters())
    assert torch.equal(plain(images), plain(images))
    assert not torch.equal(with_dropout(images), with_dropout(images))


@pytest.mark.parametrize("name", ["wrn-15-4", "wrn-4-2", "wrn-16", "wrn-16-0", "wrn-016-4"])
def test_invalid_names_raise_with_valid_ones(name):
    with pytest.raises(ConfigError, match=r"10, 16, 22, 28, 34, 40") as error:
        check_network(name)
    assert "\n" not in str(error.value) and error.value.exit_code == 2


def test_lists_include_examples():
    descriptions = network_descriptions()
    assert {"wrn-16-4", "wrn-28-10", "wrn-40-4"} <= descriptions.keys()
    assert "depth 28 and width 10" in descriptions["wrn-28-10"]
