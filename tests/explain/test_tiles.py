"""Small images of filters, and the flow chart of filters and feature maps."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tercet.config.model import ModelConfig
from tercet.ensemble.bundle import Bundle, Member
from tercet.explain.explain import explain_images
from tercet.explain.tiles import filter_tiles
from tercet.models.build import build

LAYERS = ("convolution2", "convolution1", "pooling1")


@pytest.fixture(scope="module")
def leaf_bundle() -> Bundle:
    torch.manual_seed(0)
    config = ModelConfig(head_hidden_dim=8)
    return Bundle(
        ("a", "b"), (Member("cnn", build("leaf-cnn", num_classes=2, config=config, image_size=(107, 107)), config),)
    )


def test_all_filters_of_the_second_layer_of_the_leaf_cnn_are_drawn(leaf_bundle: Bundle) -> None:
    weights = leaf_bundle.members[0].classifier.features.convolution2.weight.detach().double().numpy()
    tiles, columns, note = filter_tiles(weights)
    assert (len(tiles), columns) == (64 * 16, 64)
    assert note == "64 filters (columns), 16 of 16 channels (rows)"
    low, high = weights[:, 3].min(axis=(1, 2)), weights[:, 3].max(axis=(1, 2))
    assert np.all(low < high)


@settings(max_examples=30, deadline=None)
@given(count=st.integers(1, 80), channels=st.sampled_from([1, 2, 3, 5, 20]), side=st.integers(1, 4))
def test_tiles_are_the_filters_in_order(count: int, channels: int, side: int) -> None:
    weights = np.random.default_rng(0).normal(size=(count, channels, side, side))
    tiles, columns, note = filter_tiles(weights)
    filters, rows = min(count, 64), min(channels, 16)
    assert note.startswith(f"{filters} of {count} filters" if count > filters else f"{count} filters")
    assert tiles.min() >= 0 and tiles.max() <= 1
    if channels in (1, 3):
        assert len(tiles) == filters
        return
    assert (len(tiles), columns) == (filters * rows, filters)
    for row, column in ((0, 0), (rows - 1, filters - 1)):
        whole = weights[column]
        spread = whole.max() - whole.min()
        np.testing.assert_allclose(tiles[row * filters + column], (whole[row] - whole.min()) / spread)


def test_the_flow_chart_has_the_layers_in_order_with_filters_and_maps(leaf_bundle: Bundle, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (110, 120, 3), dtype=np.uint8)
    options = {"features": LAYERS, "filters": True}
    result = explain_images(leaf_bundle, pixels, output=str(tmp_path / "both"), **options)
    assert [name for name in result.images[0].files if "flow" in name] == ["1-0-flow-cnn.png", "1-0-flow-cnn.svg"]
    drawing = (tmp_path / "both" / "1-0-flow-cnn.svg").read_text()
    expected = ("input", "3 x 107 x 107", "filters of", "convolution1: 16 x 3 x 7 x 7", "16 x 51 x 51", "MaxPool2d")
    positions = [drawing.index(f"<!-- {text} -->") for text in (*expected[:4], "convolution2: 64 x 16 x 5 x 5")]
    assert positions == sorted(positions)
    assert all(f"<!-- {text} -->" in drawing for text in (*expected, "Conv2d"))
    with Image.open(tmp_path / "both" / "1-0-flow-cnn.png") as image:
        assert image.width > 3 * image.height
