"""The attention head: what it depends on, its parameters, its options, and export."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tercet.config.model import InputConfig, ModelConfig
from tercet.config.presets import FROZEN
from tercet.config.training import TrainingConfig
from tercet.core.errors import ConfigError
from tercet.ensemble.bundle import Bundle, load_bundle
from tercet.ensemble.member import Member
from tercet.export.export import export_model
from tercet.inference.features import has_stored_features
from tercet.inference.onnx_model import OnnxModel
from tercet.models.build import build
from tercet.models.layers import AttentionPooling
from tercet.models.members import Recipe, default_members, resolve_member
from tercet.models.summary import summarize

CONFIG = ModelConfig(pretrained=False, head="attention")


@given(st.integers(1, 24), st.integers(2, 9), st.integers(0, 99))
def test_the_order_of_the_cells_has_no_effect(num_features: int, cells: int, seed: int) -> None:
    torch.manual_seed(seed)
    pool, values = AttentionPooling(num_features).eval(), torch.randn(3, cells, num_features)
    with torch.no_grad():
        pooled = pool(values)
        torch.testing.assert_close(pool(values[:, torch.randperm(cells)]), pooled, atol=1e-5, rtol=1e-4)
        if cells % 2 == 0:
            torch.testing.assert_close(pool(values.unflatten(1, (2, -1))), pooled)
    assert pooled.shape == (3, num_features)


def test_it_equals_multi_head_attention_with_one_query() -> None:
    """A query of PyTorch's layer, times the projection of its keys, is a query of ours."""
    torch.manual_seed(0)
    width, heads = 16, 8
    pool = AttentionPooling(width).eval()
    reference = torch.nn.MultiheadAttention(width, heads, batch_first=True)
    query, cells = torch.randn(width), torch.nn.functional.layer_norm(torch.randn(5, 7, width), (width,))
    queries, keys, values = reference.in_proj_weight.detach().chunk(3)
    projected = (queries @ query).view(heads, -1)  # the biases are zero
    with torch.no_grad():
        pool.queries.copy_(torch.einsum("hf,hfd->hd", projected, keys.view(heads, -1, width)))
        pool.queries.mul_(math.sqrt(width) / math.sqrt(width // heads))
        pool.values.copy_(values.view(heads, -1, width).mT)
        reference.out_proj.weight.copy_(torch.eye(width))
        expected = pool.norm(reference(query.expand(5, 1, width), cells, cells)[0][:, 0])
        torch.testing.assert_close(pool(cells), expected, atol=1e-4, rtol=1e-3)


def test_parameters() -> None:
    classifier = build("test_resnet", num_classes=5, config=CONFIG, image_size=(64, 64))
    width = classifier.features.num_features
    layers = {layer["name"]: layer["parameters"] for layer in summarize(classifier)["layers"]}
    assert layers["head.pool"] == 8 * width + width * width
    assert layers["head.classes"] == 5 * width + 5
    assert classifier(torch.rand(2, 3, 64, 64)).shape == (2, 5)


@pytest.mark.parametrize(
    "options", [{"recurrent": "lstm"}, {"recurrent": "gru", "scan": "cells"}, {"head_hidden_dim": 8}, {"dropout": 0.5}]
)
def test_options_without_effect_are_errors(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_member({"model": "test_resnet", "head": "attention", **options}, ModelConfig(), TrainingConfig())
    assert "head attention" in str(caught.value) and "\n" not in str(caught.value)


def test_a_single_cell_and_other_networks_are_errors() -> None:
    with pytest.raises(ConfigError, match="single cell"):
        build("test_resnet", num_classes=2, config=replace(CONFIG, input=InputConfig(size=(16,))))
    with pytest.raises(ConfigError, match="head has no effect"):
        resolve_member({"model": "small-cnn", "head": "attention"}, ModelConfig(), TrainingConfig())


def test_the_recipe_of_a_frozen_backbone() -> None:
    member = {"model": "test_resnet", "weights": "w.safetensors", "head": "attention"}
    fast = resolve_member(member, ModelConfig(), TrainingConfig(), Recipe("fast"))
    good = resolve_member({**member, "freeze": "backbone"}, ModelConfig(), TrainingConfig(), Recipe("good"))
    tuned = resolve_member(member, ModelConfig(), TrainingConfig(), Recipe("good"))
    assert fast == good and fast.model.freezes_backbone and fast.training.augment == "none"
    assert (fast.training.epochs, fast.training.head_init) == (FROZEN["epochs"], "random")
    assert not tuned.model.freezes_backbone and tuned.training.augment == "light"
    assert default_members((8, 8), ModelConfig(head="attention")) == ("mobilenetv2_100",)


@pytest.mark.parametrize("network", ["test_resnet", pytest.param("test_vit", marks=pytest.mark.slow)])
def test_the_exported_file_is_equal(network: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    config = replace(CONFIG, freeze=("backbone",))
    classifier = build(network, num_classes=3, config=config).eval()
    assert has_stored_features(classifier)
    Bundle(("a", "b", "c"), (Member("m", classifier, config),)).save(tmp_path / "bundle")
    images = [np.random.default_rng(seed).integers(0, 256, (50, 40, 3), dtype=np.uint8) for seed in range(3)]
    export_model(tmp_path / "bundle", str(tmp_path / "model.onnx"))  # fails unless both agree
    exported, bundle = OnnxModel.load(tmp_path / "model.onnx"), load_bundle(tmp_path / "bundle")
    np.testing.assert_allclose(exported.predict(images).probabilities, bundle.predict(images).probabilities, atol=1e-4)
