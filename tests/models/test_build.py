"""Networks by name: input specs, parameter counts, outputs, and invalid options."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tercet.config.model import BackboneConfig, InputConfig, LabelsConfig, ModelConfig
from tercet.core.errors import ConfigError
from tercet.core.resize import scale
from tercet.core.types import InputSpec
from tercet.models.build import build, network_descriptions, network_names, options_of
from tercet.models.classifier import Classifier, Preprocess
from tercet.models.registry import NETWORKS
from tercet.models.summary import count_parameters

SCRATCH = {"pretrained": False}


def network(
    name: str, *, channels: int = 3, size: tuple[int, int] | None = None, num_classes: int = 4, **options
) -> Classifier:
    return build(name, num_classes=num_classes, config=ModelConfig(**options), channels=channels, image_size=size)


def small(name: str, **options) -> Classifier:
    return network(name, pretrained=False, input=InputConfig(size=(64,)), head_hidden_dim=16, **options)


@pytest.mark.parametrize("name", ["row-rnn", "row-gru", "row-lstm", "row-bilstm", "small-cnn"])
def test_own_networks_take_the_size_of_the_data_and_unnormalized_pixels(name):
    classifier = network(name, channels=2, size=(9, 7))
    assert classifier.spec == InputSpec(size=(9, 7), channels=2, mean=(0.0,), std=(1.0,))
    assert classifier(torch.rand(3, 2, 9, 7)).shape == (3, 4)
    assert classifier(torch.rand(3, 2, 30, 20)).shape == (3, 4)  # images of another size are scaled


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("row-lstm", {"num_biases": 1}, 216_426),
        ("row-lstm", {"num_biases": 1, "activation": "relu"}, 216_426),
        ("row-lstm", {}, 216_426 + 2 * 512),
        ("small-cnn", {}, 697_130),
    ],
)
def test_parameter_counts_of_the_notebook(name, options, expected):
    assert count_parameters(network(name, channels=1, size=(28, 28), num_classes=10, **options)) == expected


def test_row_sequences_run_from_top_to_bottom_with_channels_last():
    classifier = network("row-gru", channels=2, size=(3, 2))
    image = torch.arange(12.0).view(1, 2, 3, 2)
    rows = classifier.features(image)
    assert rows.tolist() == [[[0, 6, 1, 7], [2, 8, 3, 9], [4, 10, 5, 11]]]


@pytest.mark.parametrize("name", ["row-lstm", "row-bilstm"])
def test_row_classifiers_depend_on_the_order_of_rows(name):
    classifier = network(name, channels=1, size=(8, 8)).eval()
    image = torch.rand(2, 1, 8, 8)
    assert not torch.allclose(classifier(image), classifier(image.flip(2)), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("test_resnet", {}),
        ("test_resnet", {"recurrent": "lstm", "bidirectional": True, "hidden_size": 8}),
        ("test_resnet", {"recurrent": "gru", "reset_after": False, "scan": "rows", "hidden_size": 8, "head": "mlp"}),
        ("test_efficientnet_ln", {"recurrent": "lstm", "activation": "relu", "scan": "snake", "hidden_size": 8}),
        ("test_mambaout", {"recurrent": "rnn", "scan": "columns", "hidden_size": 8}),
        ("test_vit", {"recurrent": "gru", "scan": "cells", "hidden_size": 8, "num_biases": 1}),
    ],
)
def test_logits_do_not_depend_on_the_batch(name, options):
    classifier = small(name, **options).eval()
    images = torch.rand(3, 3, 64, 64)
    with torch.no_grad():
        batched = classifier(images)
        single = torch.cat([classifier(image[None]) for image in images])
    assert batched.shape == (3, 4)
    torch.testing.assert_close(batched, single, atol=1e-5, rtol=1e-5)


def test_every_parameter_of_a_scanning_classifier_gets_a_gradient():
    for name in ("test_convnext", "test_vit", "mobilenetv3_small_050"):
        classifier = small(name, recurrent="gru", scan="cells", hidden_size=8)
        classifier(torch.rand(2, 3, 64, 64)).square().sum().backward()
        without_gradient = [name for name, parameter in classifier.named_parameters() if parameter.grad is None]
        assert not without_gradient


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("vgg19", {}, 20_024_384 + 535_562),  # Keras' VGG19 without its top, dense 1024, 10 classes
        ("vgg16", {}, 14_714_688 + 535_562),
        ("vgg19", {"head": "mlp", "head_hidden_dim": 1024}, 20_024_384 + 535_562),
        ("vgg19", {"head": "linear"}, 139_570_240 + 40_970),
        ("vgg19", {"head": "logistic"}, 139_570_240 + 40_970),
        ("mobilenetv3_large_100", {}, 2_971_952 + 960 * 1024 + 1024 + 10_250),
    ],
)
def test_a_head_with_a_hidden_layer_replaces_those_of_the_network(name, options, expected):
    with torch.device("meta"):
        classifier = network(name, num_classes=10, **SCRATCH, **options)
    assert count_parameters(classifier) == expected


@pytest.mark.parametrize("name", ["vgg11", "mobilenetv3_small_050", "test_resnet", "test_mambaout"])
@pytest.mark.parametrize("head", ["paper", "linear"])
def test_recurrent_modules_read_the_same_features_whatever_the_scan(name, head):
    def parameters(scan: str) -> dict[str, torch.Size]:
        with torch.device("meta"):
            options = {"recurrent": "gru", "hidden_size": 8, "scan": scan, "head": head}
            classifier = network(name, input=InputConfig(size=(96,)), **SCRATCH, **options)
        return {key: value.shape for key, value in classifier.named_parameters()}

    assert parameters("pooled") == parameters("rows") == parameters("columns") == parameters("cells")


def test_a_pretrained_network_converts_grey_images_to_colour():
    classifier = build("resnet18", num_classes=2, channels=1, load_weights=False)
    assert classifier.spec.channels == 3
    assert len(classifier.spec.mean) == 3
    assert classifier.preprocess(torch.rand(1, 1, 224, 224)).shape == (1, 3, 224, 224)


def test_a_network_from_scratch_takes_the_channels_of_the_data_and_its_native_size():
    classifier = network("test_resnet", channels=1, pretrained=False)
    assert (classifier.spec.channels, classifier.spec.size) == (1, (160, 160))
    assert len(classifier.spec.mean) == 1


def test_input_options_override_the_input_spec():
    config = InputConfig(
        size=(48, 64), channels=1, mean=(0.3,), std=(0.4,), interpolation="nearest", crop_mode="border"
    )
    for name in ("test_vit", "row-lstm"):
        spec = network(name, pretrained=False, input=config).spec
        assert spec == InputSpec((48, 64), 1, (0.3,), (0.4,), "nearest", "border")


def test_a_network_of_fixed_size_is_built_for_input_size():
    classifier = network(
        "vit_tiny_patch16_224", input=InputConfig(size=(32, 48)), **SCRATCH, recurrent="rnn", scan="rows", hidden_size=4
    )
    assert classifier.features.grid == (2, 3)
    assert classifier(torch.rand(1, 3, 10, 10)).shape == (1, 4)


def test_preprocessing_resizes_then_normalizes_and_has_no_state():
    spec = InputSpec(size=(6, 8), channels=3, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4), interpolation="bicubic")
    images = torch.rand(2, 3, 12, 11)
    mean, std = torch.tensor(spec.mean).view(3, 1, 1), torch.tensor(spec.std).view(3, 1, 1)
    expected = (scale(images, (6, 8), "bicubic") - mean) / std
    preprocess = Preprocess(spec)
    torch.testing.assert_close(preprocess(images), expected)
    assert not preprocess.state_dict()


def test_backbone_args_are_passed_to_timm():
    classifier = small("mobilenetv2_035", backbone=BackboneConfig({"bn_eps": 0.02}))
    assert classifier.features.network.bn1.eps == 0.02


def test_a_network_is_rebuilt_from_its_input_spec():
    first = build("test_vit", num_classes=3, config=ModelConfig(head_hidden_dim=8), load_weights=False)
    input_config = InputConfig(**first.spec.to_dict())
    second = build(
        "test_vit",
        num_classes=3,
        config=ModelConfig(head_hidden_dim=8, pretrained=False, input=input_config),
        load_weights=False,
    )
    assert second.spec == first.spec
    second.load_state_dict(first.state_dict())
    images = torch.rand(1, 3, 40, 40)
    assert torch.equal(first.eval()(images), second.eval()(images))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet19", {}, "did you mean 'resnet18'"),
        ("resnet18.no_such_tag", {}, "unknown network"),
        ("row-lstm", {"recurrent": "gru", "noise": 0.2}, "--noise.*--recurrent has no effect on 'row-lstm'"),
        ("row-lstm", {"reset_after": False}, "--reset-after has no effect"),
        ("test_resnet", {"hidden_size": 7}, "--hidden-size has no effect on --recurrent none"),
        ("test_resnet", {"head": "linear", "head_hidden_dim": 7}, "--head-hidden-dim has no effect on --head linear"),
        ("test_resnet", {**SCRATCH, "backbone": BackboneConfig({"no_such_argument": 1})}, "no_such_argument"),
        (
            "test_resnet",
            {**SCRATCH, "recurrent": "gru", "scan": "rows", "input": InputConfig(size=(16,))},
            "1 x 1.*scan 'rows'",
        ),
        (
            "inception_v3",
            {**SCRATCH, "input": InputConfig(size=(20,))},
            r"inception_v3 does not accept images of 20 x 20 .* set --input.size 299,299, the size of its weights",
        ),
        (
            "nest_tiny",
            {**SCRATCH, "input": InputConfig(size=(50,))},
            r"images of 50 x 50 pixels: set --input.size 224,224",
        ),
        ("deit_tiny_patch16_224", {**SCRATCH, "input": InputConfig(size=(100, 240))}, "16 x 16.*such as 96,240"),
        ("sequencer2d_s", {**SCRATCH, "input": InputConfig(size=(100,))}, "7 x 7.*such as 98,98"),
        ("coat_tiny", {**SCRATCH, "recurrent": "gru", "scan": "rows"}, "use --scan pooled"),
    ],
)
def test_invalid_options_raise_in_one_line(name, options, message):
    with pytest.raises(ConfigError, match=message) as error:
        network(name, size=(8, 8), **options)
    assert "\n" not in str(error.value)


def test_unsupported_data_raise():
    with pytest.raises(ConfigError, match=r"images have 4 channels.*--input.channels 4"):
        build("test_resnet", num_classes=2, channels=4, load_weights=False)
    with pytest.raises(ConfigError, match="at least 4 x 4"):
        network("small-cnn", size=(3, 9))
    with pytest.raises(ConfigError, match=r"--input.size"):
        network("row-lstm")
    with pytest.raises(ConfigError, match="at least 2 classes"):
        network("small-cnn", size=(8, 8), num_classes=1)


def test_every_option_of_a_network_has_an_effect():
    changes = {
        "hidden_size": 9, "num_layers": 3, "activation": "relu", "num_biases": 1, "head_hidden_dim": 9,
        "recurrent_activation": "hard_sigmoid", "reset_after": False, "dropout": 0.7, "input": InputConfig(mean=(0.5,)),
        "labels": LabelsConfig(decoder="cnn-rnn"), "scan": "pixels", "bidirectional": True,
    }  # fmt: skip

    def fingerprint(name: str, **options) -> str:
        torch.manual_seed(0)
        size = (107, 107) if name == "leaf-cnn" else (6, 6)
        classifier = network(name, size=size, **options).eval()
        return repr(classifier) + str(count_parameters(classifier)) + str(classifier(torch.ones(1, 3, *size)).tolist())

    for name in NETWORKS:
        for option in options_of(name) - ({"num_biases"} if name == "small-cnn" else set()):
            assert fingerprint(name) != fingerprint(name, **{option: changes[option]}), (name, option)


def test_every_network_name_has_a_description():
    names, descriptions = network_names(), network_descriptions()
    assert names[: len(NETWORKS)] == list(NETWORKS)
    assert {"mobilenetv1_075", "resnet18", "row-bilstm", "wrn-16-4", "sequencer2d_m_gru"} <= set(names)
    assert list(descriptions) == names
    assert all(descriptions.values())


@settings(max_examples=8, deadline=None)
@given(height=st.integers(4, 20), width=st.integers(4, 20), channels=st.sampled_from([1, 3]))
def test_small_cnn_accepts_any_size(height, width, channels):
    classifier = network("small-cnn", channels=channels, size=(height, width))
    assert classifier(torch.rand(2, channels, height, width)).shape == (2, 4)
