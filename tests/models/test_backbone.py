"""The backbone adapter for timm networks with outputs B C H W, B H W C and B N D."""

import pytest
import timm
import torch

from tercet.core.errors import ConfigError
from tercet.models.backbone import Backbone

SHAPE = (3, 64, 96)
FORMS = [
    "test_resnet",
    "test_mambaout",
    "test_vit",
    "mobilenetv3_small_050",
]  # B C H W, B H W C, B N D, layers after the pooling


WITH_HIDDEN_LAYERS = ["mobilenetv3_small_050", "convnext_large_mlp", "test_mambaout"]
WITHOUT = ["test_resnet", "test_vit", "test_byobnet", "densenet121", "resnet50_clip"]  # the last: attention


def backbone(name: str, read: str = "pooled", hidden_layers: bool = True, **options) -> Backbone:
    network = timm.create_model(name, num_classes=0, **options)
    return Backbone(network, SHAPE, read=read, hidden_layers=hidden_layers).eval()


@pytest.mark.parametrize("name", FORMS)
def test_num_features_and_grid_match_the_output(name):
    images = torch.rand(2, *SHAPE)
    with torch.no_grad():
        pooled, mapped = backbone(name), backbone(name, "map")
        assert pooled(images).shape == (2, pooled.num_features)
        assert mapped(images).shape == (2, *mapped.grid, mapped.num_features)
    assert mapped.grid[1] > mapped.grid[0] > 1


@pytest.mark.parametrize("name", FORMS)
def test_tokens_are_the_feature_map_in_raster_order(name):
    module = backbone(name, "map")
    images = torch.rand(2, *SHAPE)
    with torch.no_grad():
        tokens, (height, width) = module.tokens(images)
        assert torch.equal(tokens.view(2, height, width, -1), module.feature_map(images))


@pytest.mark.parametrize("name", ["test_resnet", "mobilenetv3_small_050"])
def test_the_map_of_a_convolutional_network_has_the_layout_of_the_image(name):
    module = backbone(name, "map")
    images = torch.zeros(1, *SHAPE)
    images[..., 48:, 80:] = 1.0  # bottom right
    with torch.no_grad():
        change = (module(images) - module(torch.zeros_like(images))).abs().sum(-1)[0]  # h w
    assert change[-1, -1] > 2 * change[0, 0]


def test_the_map_of_tokens_has_the_layout_of_the_image():
    module = backbone("test_vit", "map")
    network = module.network
    images = torch.rand(1, *SHAPE)
    with torch.no_grad():
        patches = network.patch_embed(images)  # B N D or B h w D before any mixing
    assert patches.flatten(1, -2).shape[1] == module.grid[0] * module.grid[1]
    assert module.grid == (64 // 16, 96 // 16)


def test_layers_after_the_pooling_are_removed_for_the_map_only():
    pooled, mapped = backbone("mobilenetv3_small_050"), backbone("mobilenetv3_small_050", "map")
    assert pooled.num_features == pooled.network.head_hidden_size == 1024
    assert mapped.num_features == mapped.network.num_features == 288
    names = {name for name, _ in pooled.named_parameters()} - {name for name, _ in mapped.named_parameters()}
    assert names == {"network.conv_head.weight", "network.conv_head.bias"}


def test_without_its_hidden_layers_a_network_returns_the_mean_of_the_map_that_scans_read():
    torch.manual_seed(0)
    mapped, images = backbone("mobilenetv3_small_050", "map"), torch.rand(2, *SHAPE)
    mean = backbone("mobilenetv3_small_050", hidden_layers=False)
    assert mean.read == "mean" and mean.grid == (1, 1)
    mean.load_state_dict(mapped.state_dict())  # the same parameters, none beside them
    with torch.no_grad():
        torch.testing.assert_close(mean(images), mapped(images).mean((1, 2)))


@pytest.mark.parametrize("name", [*WITH_HIDDEN_LAYERS, *WITHOUT])
def test_only_hidden_layers_after_the_global_pooling_are_removed(name):
    with torch.device("meta"):
        full, short = backbone(name), backbone(name, hidden_layers=False)
    removed = {key for key, _ in full.named_parameters()} - {key for key, _ in short.named_parameters()}
    assert bool(removed) == (name in WITH_HIDDEN_LAYERS) == (short.read == "mean")
    assert all("head" in key for key in removed)


def test_construction_does_not_change_the_network():
    network = timm.create_model("test_resnet", num_classes=0)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    Backbone(network, SHAPE)
    assert network.training
    assert all(not value.is_meta and torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_construction_keeps_shared_layers():
    module = Backbone(timm.create_model("coat_lite_tiny", num_classes=0, img_size=(64, 96)), SHAPE).eval()
    assert not any(parameter.is_meta for parameter in module.parameters())
    with torch.no_grad():
        assert module(torch.rand(1, *SHAPE)).shape == (1, module.num_features)


def test_a_network_without_a_single_feature_map_raises():
    network = timm.create_model("volo_d1_224", num_classes=0)
    with pytest.raises(ConfigError, match="do not form a grid"):
        Backbone(network, (3, 224, 224), read="map")
