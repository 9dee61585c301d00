"""Class-activation maps, layers by name, filters and feature maps; networks stay unchanged."""

import pytest
import torch
from torch import Tensor, nn

from tercet.config.model import BackboneConfig, InputConfig, LabelsConfig, ModelConfig
from tercet.core.errors import ConfigError
from tercet.explain import hooks
from tercet.explain.attention_rollout import attention_rollout
from tercet.explain.grad_cam import activation_map
from tercet.explain.hooks import UnsupportedExplanation, require_captum
from tercet.explain.layers import conv_filters, feature_maps, find_layer, first_filters, layer_names, network_layers
from tercet.explain.layout import Layout, last_feature_map
from tercet.explain.step_attribution import step_contributions
from tercet.models.build import build
from tercet.models.classifier import Classifier

TINY = {"layers": [1, 1], "patch_sizes": [7, 2], "embed_dims": [8, 12], "hidden_sizes": [4, 6], "mlp_ratios": [2, 2]}
SEQUENCER = {"backbone": BackboneConfig(TINY), "input": InputConfig(size=(84, 56))}
SCANNED = {"recurrent": "gru", "scan": "cells", "hidden_size": 4}


def network(
    name: str, *, size: tuple[int, int] = (32, 32), channels: int = 3, classes: int = 4, **options
) -> Classifier:
    torch.manual_seed(0)
    config = ModelConfig(pretrained=False, **options)
    return build(name, num_classes=classes, config=config, channels=channels, image_size=size)


def random_image(classifier: Classifier) -> Tensor:
    return torch.rand(1, classifier.spec.channels, *classifier.spec.size)


def state_of(classifier: Classifier) -> list[object]:
    """Return everything that an explanation may change temporarily."""
    num_hooks = [len(module._forward_hooks) + len(module._backward_hooks) for module in classifier.modules()]
    modes = [module.training for module in classifier.modules()]
    fused = [getattr(module, "fused_attn", None) for module in classifier.modules()]
    gradients = [(name, weight.requires_grad, weight.grad is None) for name, weight in classifier.named_parameters()]
    return [num_hooks, modes, fused, gradients, torch.backends.cudnn.enabled, torch.is_grad_enabled()]


def square_detector() -> tuple[Classifier, Tensor, list[tuple[int, int]]]:
    """Return a network trained to detect bright squares in noise, images with squares, and their corners."""
    generator = torch.Generator().manual_seed(1)
    classifier = network("wrn-10-1", size=(24, 24), channels=1, classes=2)

    def draw(count: int) -> tuple[Tensor, Tensor, list[tuple[int, int]]]:
        images = 0.4 * torch.rand(count, 1, 24, 24, generator=generator)
        labels = torch.arange(count) % 2
        corners = [tuple(torch.randint(0, 17, (2,), generator=generator).tolist()) for _ in range(count)]
        for image, label, (top, left) in zip(images, labels, corners, strict=True):
            if label:
                image[0, top : top + 8, left : left + 8] += 0.6
        return images, labels, corners

    optimizer = torch.optim.Adam(classifier.parameters(), lr=3e-3)
    for _ in range(40):
        images, labels, _ = draw(24)
        optimizer.zero_grad()
        nn.functional.cross_entropy(classifier(images), labels).backward()
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    with torch.no_grad():
        for _ in range(20):
            classifier(draw(24)[0])  # update the running statistics
    images, _, corners = draw(16)
    return classifier.eval(), images[1::2], corners[1::2]


def test_the_map_of_a_square_detector_peaks_inside_the_square() -> None:
    classifier, images, corners = square_detector()
    assert (classifier(images).argmax(1) == 1).sum() >= 6
    for image, (top, left) in zip(images, corners, strict=True):
        cells = activation_map(classifier, image[None], 1).cells
        row, column = divmod(int(cells.argmax()), cells.shape[1])
        down, right = 24 * (row + 0.5) / cells.shape[0], 24 * (column + 0.5) / cells.shape[1]
        assert top <= down <= top + 8 and left <= right <= left + 8


def test_with_global_average_pooling_the_map_is_the_weighted_sum_of_features() -> None:
    classifier = network("test_resnet", head="linear", input=InputConfig(size=(96,)))
    image = random_image(classifier)
    result = activation_map(classifier, image, 2)
    assert result.layer == "features.network.layer4"
    features = classifier.eval().features.network.forward_features(classifier.preprocess(image))[0]
    weights = classifier.head.classes.weight[2]
    expected = torch.relu(torch.einsum("d,dhw->hw", weights, features)) / features[0].numel()
    torch.testing.assert_close(result.cells, expected.detach())


@pytest.mark.parametrize(
    ("name", "options", "layer", "grid"),
    [
        ("small-cnn", {}, "features.pooling", (15, 15)),
        ("wrn-10-1", {}, "features.activation", (8, 8)),
        ("test_resnet", {"input": InputConfig(size=(160,))}, "features.network.layer4", (5, 5)),
        ("test_resnet", {"input": InputConfig(size=(64,))}, "features.network.layer3", (4, 4)),
        ("test_resnet", {"input": InputConfig(size=(96, 128)), **SCANNED}, "features.network.layer4", (3, 4)),
        ("test_vit", {}, "features.network.blocks.5.norm1", (10, 10)),
        ("test_vit", {"recurrent": "gru", "scan": "rows", "hidden_size": 4}, "features.network.norm", (10, 10)),
        ("sequencer2d_s", SEQUENCER, "features.network.norm", (6, 4)),
    ],
)  # fmt: skip
def test_the_default_layer_is_the_last_with_a_fine_map(
    name: str, options: dict, layer: str, grid: tuple[int, int]
) -> None:
    classifier = network(name, **options)
    for parameter in classifier.parameters():
        parameter.requires_grad_(False)  # frozen networks are supported too
    result = activation_map(classifier, random_image(classifier), 1)
    assert (result.layer, tuple(result.cells.shape)) == (layer, grid)
    assert (result.cells >= 0).all()


@pytest.mark.parametrize("form", ["channels first", "channels last", "tokens"])
def test_splitting_and_merging_a_layout_is_lossless(form: str) -> None:
    layout = Layout(form, (2, 3), 1 if form == "tokens" else 0)  # type: ignore[arg-type]
    output = torch.rand(1, *{"channels first": (5, 2, 3), "channels last": (2, 3, 5), "tokens": (7, 5)}[form])
    cells = layout.split(output)
    assert cells.shape == (1, 5, 2, 3)
    assert torch.equal(layout.merge(output, cells), output)


def test_a_named_layer_must_return_a_feature_map() -> None:
    classifier = network("test_vit")
    image = random_image(classifier)
    result = activation_map(classifier, image, 0, layer=find_layer(classifier, "blocks.2"))
    assert result.layer == "features.network.blocks.2" and result.cells.any()
    with pytest.raises(
        ConfigError, match=r"'head.classes' of 'test_vit' does not return a feature map \(4\).*--layers"
    ):
        activation_map(classifier, image, 0, layer="head.classes")
    with pytest.raises(ConfigError, match="does not return a feature map"):
        feature_maps(classifier, image, "head")


def test_unsupported_explanations_give_a_reason() -> None:
    rows = network("row-gru", channels=1, hidden_size=4, num_layers=1)
    with pytest.raises(UnsupportedExplanation, match="no layer of 'row-gru' returns a feature map"):
        activation_map(rows, random_image(rows), 0)
    with pytest.raises(UnsupportedExplanation, match="no convolution that reads the image"):
        first_filters(rows)
    decoder = network("small-cnn", labels=LabelsConfig(decoder="cnn-rnn", hidden_size=4, embedding_dim=4))
    for method in (activation_map, step_contributions):
        with pytest.raises(UnsupportedExplanation, match=r"no gradient|no recurrent module"):
            method(decoder, random_image(decoder), 0)
    with pytest.raises(UnsupportedExplanation, match=r"no gradient.*feature maps"):
        activation_map(decoder, random_image(decoder), 0)
    with pytest.raises(UnsupportedExplanation, match="no global attention"):
        attention_rollout(decoder, random_image(decoder))


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize(
    "method", [activation_map, attention_rollout, step_contributions], ids=lambda method: method.__name__
)
def test_an_explanation_leaves_the_network_unchanged(method, mode) -> None:
    classifier = network("test_vit", recurrent="gru", scan="rows", hidden_size=4)
    classifier.features.eval()  # modules may be in different modes
    next(classifier.parameters()).requires_grad_(False)
    image = random_image(classifier)
    with mode():
        before = state_of(classifier)
        method(classifier, image) if method is attention_rollout else method(classifier, image, 1)
        assert state_of(classifier) == before


def test_an_error_leaves_the_network_unchanged() -> None:
    classifier = network("test_vit")
    before = state_of(classifier)
    for method in (
        lambda image: attention_rollout(classifier, image),
        lambda image: last_feature_map(classifier, image, 0),
    ):
        with pytest.raises(ValueError, match="7 channels"):
            method(torch.rand(1, 7, 160, 160))
    assert state_of(classifier) == before


def test_layers_are_found_with_and_without_the_backbone_prefix() -> None:
    classifier = network("test_resnet")
    assert find_layer(classifier, "layer4.0") == find_layer(classifier, "features.network.layer4.0")
    assert find_layer(classifier, "head.dense") == "head.dense"
    with pytest.raises(ConfigError, match=r"'test_resnet' has no layer 'layr4', did you mean 'layer4'.*--layers"):
        find_layer(classifier, "layr4")
    with pytest.raises(ConfigError, match=r"has no layer 'zzz': --layers lists all"):
        find_layer(classifier, "zzz")


def test_layers_are_listed_with_their_output_shapes() -> None:
    classifier = network("small-cnn", channels=1)
    listed = {layer.name: layer for layer in network_layers(classifier)}
    assert list(listed) == layer_names(classifier)
    assert (listed["features.pooling"].type, listed["features.pooling"].shape) == ("MaxPool2d", (32, 15, 15))
    assert listed["head.classes"].shape == (4,)
    row = {
        layer.name: layer.shape for layer in network_layers(network("row-gru", channels=1, hidden_size=4, num_layers=1))
    }
    assert row["features"] == (32, 32) and row["recurrent.kernel"] is None  # returns a tuple


def test_filters_and_feature_maps_equal_weights_and_outputs() -> None:
    classifier = network("small-cnn", channels=1).eval()
    first = first_filters(classifier)
    assert first.layer == "features.convolution" and torch.equal(first.weights, classifier.features.convolution.weight)
    assert conv_filters(classifier, "features.pooling") is None
    image = random_image(classifier)
    maps = feature_maps(classifier, image, "features.activation")
    assert torch.equal(maps, torch.relu(classifier.features.convolution(image))[0])


def test_feature_maps_are_copied_before_in_place_operations() -> None:
    classifier = network("test_resnet")
    image = random_image(classifier)
    assert classifier.features.network.layer1[0].act1.inplace
    assert (feature_maps(classifier, image, find_layer(classifier, "layer1.0.act1")) >= 0).all()
    assert (feature_maps(classifier, image, find_layer(classifier, "layer1.0.bn1")) < 0).any()


def test_without_captum_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    require_captum()
    monkeypatch.setattr(hooks, "captum_attr", None)
    with pytest.raises(ConfigError, match=r"needs captum.*pip install 'tercet\[explain\]'"):
        require_captum()
