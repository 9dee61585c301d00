import json
import re
from pathlib import Path
from typing import Any

import pytest
from tests.models.hub import COMMIT, add_to_cache, isolate, repository_files

from tercet.config.model import BackboneConfig, InputConfig, ModelConfig
from tercet.config.run import FusionConfig
from tercet.core.errors import ConfigError
from tercet.experiments.catalog import describe_dataset, describe_model, list_datasets, list_models
from tercet.models.build import build

KEYS = {"network", "parameters", "trainable", "buffers", "flops", "input", "classes", "layers", "freezing", "weights"}


@pytest.mark.parametrize(
    ("name", "options", "parameters"),
    [
        ("row-lstm", {"config": ModelConfig(num_biases=1), "image_size": (28, 28), "channels": 1}, 216_426),
        ("row-lstm", {"image_size": (28, 28), "channels": 1}, 216_426 + 2 * 4 * 128),  # PyTorch's second bias vectors
        ("small-cnn", {"image_size": (28, 28), "channels": 1}, 697_130),
        ("e2e", {"num_members": 3}, 167_946),
        ("e2e", {"num_members": 3, "num_classes": 5}, 86_021),
        ("e2e", {"num_members": 3, "num_classes": 100}, 1_642_596),
        ("e2e", {"num_members": 3, "fusion": FusionConfig(width=0)}, 300),  # equation 19: one matrix, 30 x 10
    ],
)
def test_published_parameter_counts(name: str, options: dict[str, Any], parameters: int) -> None:
    document = describe_model(name, **{"num_classes": 10, **options}).document
    assert document["parameters"] == document["trainable"] == parameters


@pytest.mark.slow
def test_published_size_of_seresnext101() -> None:
    document = describe_model("seresnext101_32x4d", num_classes=10, config=ModelConfig(head_hidden_dim=2048)).document
    assert (document["parameters"], document["buffers"]) == (51_123_258, 137_856)


def test_published_size_of_a_frozen_transformer_and_its_freezing_table() -> None:
    config = ModelConfig(head="mlp", freeze=("backbone",))
    result = describe_model("deit_tiny_patch16_224", num_classes=176, config=config)
    document = result.document
    assert (document["trainable"], document["parameters"]) == (189_104, 5_713_520)
    frozen, rest = document["freezing"]
    assert (frozen["pattern"], frozen["state"], frozen["parameters"]) == ("features.*", "frozen", 5_524_416)
    assert (rest["pattern"], rest["state"], rest["parameters"]) == ("*", "open", 189_104)
    assert rest["names"] == ["head.dense.weight", "head.dense.bias", "head.classes.weight", "head.classes.bias"]
    assert re.search(r"features\.\* +frozen +\d+ names +5,524,416\n +\* +open +4 names +189,104\n", result.text)
    assert "freezing" not in describe_model("test_resnet", num_classes=3).text


def test_a_description_equals_the_built_network() -> None:
    config = ModelConfig(
        pretrained=False,
        recurrent="gru",
        scan="rows",
        hidden_size=8,
        input=InputConfig(size=(64, 96)),
        head_hidden_dim=16,
    )
    result = describe_model("test_resnet", num_classes=7, config=config, channels=1)
    document = result.document
    network = build("test_resnet", num_classes=7, config=config, channels=1)
    assert document.keys() == KEYS
    assert document["parameters"] == sum(parameter.numel() for parameter in network.parameters())
    assert document["input"] == network.spec.to_dict()
    assert document["classes"] == 7
    for layer in document["layers"]:
        module = network.get_submodule(layer["name"])
        assert type(module).__name__ == layer["type"]
        assert sum(parameter.numel() for parameter in module.parameters()) == layer["parameters"]
    for text in (f"{document['parameters']:,}", "64 x 96 pixels, 1 channel", "recurrent"):
        assert text in result.text
    json.dumps(document, allow_nan=False)


def test_a_description_does_not_read_weights(tmp_path: Any) -> None:
    result = describe_model("test_resnet", config=ModelConfig(weights=str(tmp_path / "absent.safetensors")))
    assert result.document["parameters"] > 0


def test_weights_are_described_with_licence_and_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = isolate(tmp_path, monkeypatch)
    absent = describe_model("test_resnet")
    assert absent.document["weights"] == {
        "source": "hf-hub:timm/test_resnet.r160_in1k",
        "revision": None,
        "licence": "apache-2.0",
        "sha256": None,
        "cached": False,
    }
    assert "licence apache-2.0, not in the local cache\n" in absent.text
    files, _ = repository_files("test_resnet")
    add_to_cache(cache, "timm/test_resnet.r160_in1k", files)
    add_to_cache(cache, "acme/net", files)
    present, other = describe_model("test_resnet"), describe_model("hf-hub:acme/net")
    assert present.document["weights"]["cached"] and present.document["weights"]["revision"] == COMMIT
    assert other.document["weights"]["licence"] is None
    assert "hf-hub:acme/net, licence unknown, in the local cache (revision 0123" in other.text
    assert describe_model("mobilenetv1_075").document["weights"] is None
    assert describe_model("small-cnn", image_size=(28, 28)).document["weights"] is None
    networks = list_models("test_resnet").document
    assert networks["test_resnet"].endswith("pretrained weights, in the local cache")
    assert list_models("test_vit").document["test_vit"].endswith(", pretrained weights")


def test_flops_are_proportional_to_the_number_of_pixels() -> None:
    small, large = (
        describe_model("test_resnet", config=ModelConfig(pretrained=False, input=InputConfig(size=size))).document
        for size in ((64, 64), (64, 128))
    )
    assert large["parameters"] == small["parameters"]
    assert 1.5 < large["flops"] / small["flops"] < 2.5


def test_the_list_contains_networks_of_tercet_and_timm() -> None:
    result = list_models()
    assert {
        "row-lstm",
        "small-cnn",
        "mobilenetv1_075",
        "legacy_xception",
        "inception_resnet_v2",
    } <= result.document.keys()
    assert len(result.document) > 1000
    assert f"{len(result.document)} networks" in result.text
    assert all(re.search(r"\w", line) for line in result.document.values())


def test_a_partial_name_lists_the_networks_that_contain_it() -> None:
    result = describe_model("seresnext101")
    assert "seresnext101_32x4d" in result.document
    assert all("seresnext101" in name for name in result.document)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("smal-cnn", {}, "did you mean 'small-cnn'"),
        ("small-cnn", {"config": ModelConfig(recurrent="lstm")}, "--recurrent has no effect"),
        ("test_resnet", {"config": ModelConfig(backbone=BackboneConfig({"no_such": 1}))}, "no_such"),
        ("small-cnn", {"num_classes": 1}, "at least 2"),
        ("e2e", {"num_members": 0}, "members"),
    ],
)
def test_invalid_descriptions_raise(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        describe_model(name, **options)
    assert error.value.exit_code == 2


def test_data_sets_are_listed_and_described() -> None:
    result = list_datasets()
    names = [info["name"] for info in result.document]
    assert names == sorted(names) and {"digits", "mnist", "fashion-mnist"} <= set(names)
    for info in result.document:
        description = describe_dataset(info["name"])
        text, document = description.text, description.document
        assert document == info
        assert info["page"].startswith("http") and info["licence"] and info["num_classes"] >= 2
        for file in info["files"]:
            assert file["name"] in text
            assert f"{file['size']:,}" in text if file["size"] else "size not published" in text
            for kind, digits in (("sha256", 64), ("md5", 32)):
                if file[kind]:
                    assert re.fullmatch(f"[0-9a-f]{{{digits}}}", file[kind]) and file[kind] in text
        for line in (info["by_hand"], *info["mirrors"], *info["remarks"]):
            assert line in text
        assert sum(info["images"].values()) > 0
        assert info["name"] in result.text


def test_files_of_fashion_mnist_have_their_official_names() -> None:
    names = {file["name"] for file in describe_dataset("fashion-mnist").document["files"]}
    assert names == {
        f"{part}-{kind}.gz" for part in ("train", "t10k") for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")
    }


def test_an_unknown_data_set_raises_with_a_suggestion() -> None:
    with pytest.raises(ConfigError, match="did you mean 'fashion-mnist'"):
        describe_dataset("fashion-mnits")
