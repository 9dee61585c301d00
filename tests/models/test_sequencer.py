"""Sequencer2D with LSTMs, GRUs and simple RNNs: parameters, FLOPs, training and weights."""

import pytest
import timm
import torch
from safetensors.torch import save_file

from tercet.config.model import BackboneConfig, InputConfig, ModelConfig
from tercet.models.build import build
from tercet.models.summary import count_parameters, summarize

GATES = {"lstm": 4, "gru": 3, "rnn": 1}
TINY = {"layers": [1, 1], "patch_sizes": [7, 2], "embed_dims": [8, 12], "hidden_sizes": [4, 6], "mlp_ratios": [2, 2]}


def name_of(size: str, cell: str) -> str:
    return f"sequencer2d_{size}" + ("" if cell == "lstm" else f"_{cell}")


@pytest.mark.parametrize(("size", "published"), [("s", 27_266_688), ("m", 37_922_688), ("l", 53_913_216)])
def test_other_cells_change_only_the_recurrent_weights(size, published):
    with torch.device("meta"):
        networks = {cell: timm.create_model(name_of(size, cell), num_classes=0) for cell in GATES}
    recurrent = {
        cell: sum(value.numel() for name, value in network.named_parameters() if ".rnn_v." in name or ".rnn_h." in name)
        for cell, network in networks.items()
    }
    assert count_parameters(networks["lstm"]) == published
    for cell, network in networks.items():
        assert recurrent[cell] * 4 == recurrent["lstm"] * GATES[cell]
        assert count_parameters(network) == published - recurrent["lstm"] + recurrent[cell]
        assert network.state_dict().keys() == networks["lstm"].state_dict().keys()


def tiny(cell: str, **options):
    config = ModelConfig(
        pretrained=False,
        backbone=BackboneConfig(TINY),
        input=InputConfig(size=(28, 42)),
        head="linear",
        **options,
    )
    return build(name_of("s", cell), num_classes=3, config=config)


@pytest.mark.parametrize("cell", GATES)
def test_every_parameter_gets_a_gradient_and_both_axes_matter(cell):
    network = tiny(cell)
    images = torch.rand(2, 3, 28, 42)
    network(images).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in network.parameters())
    with torch.no_grad():
        logits = network.eval()(images)
        for axis in (2, 3):
            assert not torch.allclose(network(images.flip(axis)), logits, atol=1e-6)


@pytest.mark.parametrize("cell", GATES)
def test_weights_are_loaded_from_a_file_with_a_classifier(cell, tmp_path):
    source = timm.create_model(name_of("s", cell), num_classes=7, **TINY)
    save_file(source.state_dict(), tmp_path / "weights.safetensors")
    network = tiny(cell, weights=str(tmp_path / "weights.safetensors"), freeze=("backbone",))
    stored = source.state_dict()
    assert all(torch.equal(value, stored[name]) for name, value in network.features.network.state_dict().items())
    assert {name for name, value in network.named_parameters() if value.requires_grad} == {
        "head.classes.weight",
        "head.classes.bias",
    }


@pytest.mark.parametrize("cell", GATES)
def test_the_feature_map_has_a_grid_for_scans(cell):
    network = tiny(cell, recurrent="gru", scan="rows", hidden_size=5)
    assert network.features.grid == (2, 3)
    assert network(torch.rand(2, 3, 28, 42)).shape == (2, 3)


@pytest.mark.parametrize("cell", GATES)
def test_flops_include_every_recurrent_product(cell):
    """Two per multiply-add: G H (D + H) per step and direction, along both axes, plus the other layers."""
    products = 3 * 7 * 7 * 8 * 24 + 8 * 12 * 2 * 2 * 6 + 12 * 3  # stem, the second stage's patches, classes
    for cells, wide, hidden_size in ((4 * 6, 8, 4), (2 * 3, 12, 6)):
        scans = 2 * 2 * GATES[cell] * hidden_size * (wide + hidden_size)  # two axes, both ways
        products += cells * (scans + 4 * hidden_size * wide + 2 * 2 * wide * wide)
    assert summarize(tiny(cell))["flops"] == 2 * products


def test_flops_of_the_smallest_are_the_published_ones():
    """8.4 G multiply-adds in the paper; without the LSTMs there would be about 5 G."""
    with torch.device("meta"):
        network = build("sequencer2d_s", num_classes=1000, config=ModelConfig(pretrained=False, head="linear"))
    assert summarize(network)["flops"] / 2e9 == pytest.approx(8.4, abs=0.1)
