import json
import re
from typing import Any

import pytest

from tercet.config.model import BackboneConfig, InputConfig, ModelConfig
from tercet.config.run import FusionConfig
from tercet.core.errors import ConfigError
from tercet.experiments.catalog import describe_dataset, describe_model, list_datasets, list_models
from tercet.models.build import build

KEYS = {"network", "parameters", "trainable", "buffers", "flops", "input", "classes", "layers", "freezing"}


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


def test_the_papers_largest_network() -> None:
    document = describe_model("seresnext101_32x4d", num_classes=10, config=ModelConfig(head_hidden_dim=2048)).document
    assert (document["parameters"], document["buffers"]) == (51_123_258, 137_856)


def test_the_leaf_reports_frozen_transformer_and_its_table() -> None:
    config = ModelConfig(head="mlp", freeze=("backbone",))
    answer = describe_model("deit_tiny_patch16_224", num_classes=176, config=config)
    document = answer.document
    assert (document["trainable"], document["parameters"]) == (189_104, 5_713_520)
    frozen, rest = document["freezing"]
    assert (frozen["pattern"], frozen["state"], frozen["parameters"]) == ("features.*", "frozen", 5_524_416)
    assert (rest["pattern"], rest["state"], rest["parameters"]) == ("*", "open", 189_104)
    assert rest["names"] == ["head.dense.weight", "head.dense.bias", "head.classes.weight", "head.classes.bias"]
    assert re.search(r"features\.\* +frozen +\d+ names +5,524,416\n +\* +open +4 names +189,104\n", answer.text)
    assert "freezing" not in describe_model("test_resnet", num_classes=3).text


def test_a_description_holds_for_the_network_it_describes() -> None:
    config = ModelConfig(
        pretrained=False,
        recurrent="gru",
        scan="rows",
        hidden_size=8,
        input=InputConfig(size=(64, 96)),
        head_hidden_dim=16,
    )
    answer = describe_model("test_resnet", num_classes=7, config=config, channels=1)
    document = answer.document
    network = build("test_resnet", num_classes=7, config=config, channels=1)
    assert document.keys() == KEYS
    assert document["parameters"] == sum(one.numel() for one in network.parameters())
    assert document["input"] == network.spec.to_dict()
    assert document["classes"] == 7
    for layer in document["layers"]:
        part = network.get_submodule(layer["name"])
        assert type(part).__name__ == layer["type"]
        assert sum(one.numel() for one in part.parameters()) == layer["parameters"]
    for shown in (f"{document['parameters']:,}", "64 x 96 pixels, 1 channel", "recurrent"):
        assert shown in answer.text
    json.dumps(document, allow_nan=False)


def test_no_weights_are_needed_or_looked_for(tmp_path: Any) -> None:
    described = describe_model("test_resnet", config=ModelConfig(weights=str(tmp_path / "absent.safetensors")))
    assert described.document["parameters"] > 0


def test_twice_the_pixels_are_twice_the_operations() -> None:
    small, large = (
        describe_model("test_resnet", config=ModelConfig(pretrained=False, input=InputConfig(size=size))).document
        for size in ((64, 64), (64, 128))
    )
    assert large["parameters"] == small["parameters"]
    assert 1.5 < large["flops"] / small["flops"] < 2.5


def test_the_list_holds_our_networks_and_timms() -> None:
    answer = list_models()
    assert {
        "row-lstm",
        "small-cnn",
        "mobilenetv1_075",
        "legacy_xception",
        "inception_resnet_v2",
    } <= answer.document.keys()
    assert len(answer.document) > 1000
    assert f"{len(answer.document)} networks" in answer.text
    assert all(re.search(r"\w", line) for line in answer.document.values())


def test_part_of_a_name_lists_what_contains_it() -> None:
    answer = describe_model("seresnext101")
    assert "seresnext101_32x4d" in answer.document
    assert all("seresnext101" in name for name in answer.document)


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
def test_what_cannot_be_described(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        describe_model(name, **options)
    assert error.value.exit_code == 2


def test_the_data_sets_and_where_they_come_from() -> None:
    answer = list_datasets()
    names = [card["name"] for card in answer.document]
    assert names == sorted(names) and {"digits", "mnist", "fashion-mnist"} <= set(names)
    for card in answer.document:
        described = describe_dataset(card["name"])
        assert described.document == card
        assert card["page"].startswith("http") and card["licence"] and card["num_classes"] >= 2
        for file in card["files"]:
            assert file["name"] in described.text
            assert f"{file['size']:,}" in described.text if file["size"] else "size not published" in described.text
            for kind, digits in (("sha256", 64), ("md5", 32)):
                if file[kind]:
                    assert re.fullmatch(f"[0-9a-f]{{{digits}}}", file[kind]) and file[kind] in described.text
        for told in (card["by_hand"], *card["mirrors"], *card["remarks"]):
            assert told in described.text
        assert sum(card["images"].values()) > 0
        assert card["name"] in answer.text


def test_the_files_of_the_mnist_family_are_named_officially() -> None:
    names = {file["name"] for file in describe_dataset("fashion-mnist").document["files"]}
    assert names == {
        f"{part}-{kind}.gz" for part in ("train", "t10k") for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")
    }


def test_an_unknown_data_set_suggests_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'fashion-mnist'"):
        describe_dataset("fashion-mnits")
