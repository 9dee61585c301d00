"""Networks of the hub are built from its files, and from a bundle without them."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from tests.models.hub import COMMIT, add_to_cache, hub_server, isolate, repository_files, set_endpoint

from tercet.config.model import BackboneConfig, InputConfig, ModelConfig
from tercet.core.errors import ConfigError, ModelError
from tercet.core.files import read_json
from tercet.ensemble.bundle import Bundle, Member, load_bundle
from tercet.models.backbone import backbone_origin
from tercet.models.build import build, check_build, check_network
from tercet.models.encoder import encoder_key

NAME = "hf-hub:acme/leaf-net"
CARD = "---\nlicense: other\nlicense_name: acme-research\n---\n# Leaf net\n"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    set_endpoint(monkeypatch, "http://127.0.0.1:9")  # nothing listens there
    return isolate(tmp_path, monkeypatch)


def test_a_cached_repository_is_built_with_its_arguments_and_weights(cache: Path) -> None:
    files, weights = repository_files(
        "test_resnet", args={"act_layer": "silu"}, card=CARD, mean=[0.1, 0.2, 0.3], input_size=[3, 96, 128]
    )
    add_to_cache(cache, "acme/leaf-net", files)
    classifier = build(NAME, num_classes=3)
    assert classifier.network == NAME
    assert classifier.spec.size == (96, 128) and classifier.spec.mean == (0.1, 0.2, 0.3)
    assert any(isinstance(module, torch.nn.SiLU) for module in classifier.features.modules())
    for name, value in classifier.features.network.state_dict().items():
        assert torch.equal(value, weights[name]), name
    origin = backbone_origin(classifier)
    assert origin is not None and origin.weights == {
        "source": NAME,
        "revision": COMMIT,
        "licence": "acme-research",
        "sha256": hashlib.sha256(files["model.safetensors"]).hexdigest(),
    }


def test_a_revision_selects_its_files(cache: Path) -> None:
    commits = {"main": "a" * 40, "v1.0": "b" * 40}
    expected = {}
    for revision, commit in commits.items():
        files, expected[revision] = repository_files("test_resnet")
        add_to_cache(cache, "acme/leaf-net", files, revision=revision, commit=commit)
    for name, revision in ((NAME, "main"), (f"{NAME}@v1.0", "v1.0"), (f"{NAME}@{'b' * 40}", "v1.0")):
        classifier = build(name, num_classes=3)
        origin = backbone_origin(classifier)
        assert origin is not None and origin.weights is not None
        assert (origin.weights["source"], origin.weights["revision"]) == (name, commits[revision])
        assert origin.weights["licence"] is None  # not stated
        name, value = next(iter(classifier.features.network.state_dict().items()))
        assert torch.equal(value, expected[revision][name])


@pytest.mark.parametrize(
    ("architecture", "args", "config"),
    [
        ("test_resnet", {"act_layer": "silu"}, ModelConfig()),
        ("test_resnet", {"in_chans": 1}, ModelConfig(backbone=BackboneConfig({"act_layer": "gelu"}))),
        ("test_vit", {"img_size": 96, "class_token": False, "global_pool": "avg"}, ModelConfig()),
        ("test_vit", {"img_size": 96}, ModelConfig(input=InputConfig(size=(64,)))),
        ("vit_tiny_patch16_224", {"depth": 1}, ModelConfig(input=InputConfig(size=(64,)))),
    ],
)
def test_a_bundle_needs_neither_the_hub_nor_its_cache(
    cache: Path, tmp_path: Path, architecture: str, args: dict[str, object], config: ModelConfig
) -> None:
    files, _ = repository_files(architecture, args=args)
    add_to_cache(cache, "acme/leaf-net", files)
    classifier = build(NAME, num_classes=3, config=config).eval()
    bundle = Bundle(("a", "b", "c"), (Member("leaf", classifier, config),))
    bundle.save(tmp_path / "bundle")
    shutil.rmtree(cache)
    loaded = load_bundle(tmp_path / "bundle")
    images = torch.rand(2, 3, 70, 60)
    with torch.inference_mode():
        assert torch.equal(loaded.members[0].classifier(images), classifier(images))
    assert encoder_key(loaded.members[0].classifier) == encoder_key(classifier)
    loaded.save(tmp_path / "again")
    entries = [read_json(tmp_path / name / "manifest.json")["members"] for name in ("bundle", "again")]
    assert entries[0] == entries[1]
    assert entries[0][0]["network"] == architecture
    assert entries[0][0]["pretrained"]["source"] == NAME and entries[0][0]["pretrained"]["revision"] == COMMIT


def test_the_encoder_key_depends_on_weights_and_arguments(cache: Path) -> None:
    keys = set()
    for index, args in enumerate(({}, {}, {"act_layer": "silu"})):
        torch.manual_seed(min(index, 1))  # the last two have the same weights
        add_to_cache(cache, f"acme/net-{index}", repository_files("test_resnet", args=args)[0])
        keys.add(encoder_key(build(f"hf-hub:acme/net-{index}", num_classes=3)))
    assert len(keys) == 3


def test_repositories_of_timm_are_those_of_its_registry(cache: Path) -> None:
    files, weights = repository_files("test_resnet")
    del files["config.json"]  # timm itself caches weights only
    add_to_cache(cache, "timm/test_resnet.r160_in1k", files)
    for name in (
        "test_resnet",
        "test_resnet.r160_in1k",
        "timm/test_resnet.r160_in1k",
        "hf-hub:timm/test_resnet.r160_in1k",
    ):
        classifier = build(name, num_classes=3)
        origin = backbone_origin(classifier)
        assert origin is not None and origin.weights is not None
        assert origin.weights["revision"] == COMMIT and origin.weights["licence"] == "apache-2.0"
        assert torch.equal(classifier.features.network.conv1[0].weight, weights["conv1.0.weight"])


def test_weights_that_timm_publishes_in_two_formats_are_read_from_the_hub(cache: Path) -> None:
    """timm's description names a reader for the NumPy archive at the URL; the hub has safetensors."""
    files, weights = repository_files("vit_tiny_patch16_224", args={"num_classes": 21843})
    add_to_cache(cache, "timm/vit_tiny_patch16_224.augreg_in21k", files)
    network = build("vit_tiny_patch16_224.augreg_in21k", num_classes=3).features.network
    assert torch.equal(network.cls_token, weights["cls_token"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("acme/leaf-net", "write hf-hub:acme/leaf-net"),
        ("hf_hub:acme/leaf-net", "write hf-hub:acme/leaf-net"),
        ("timm/no_such_net", "write hf-hub:timm/no_such_net"),
        ("hf-hub:leaf-net", "write hf-hub:ORG/NAME"),
        ("hf-hub:acme/leaf-net@../../secret", "write hf-hub:ORG/NAME"),
        ("resnet18.no_such_tag", "unknown network"),
    ],
)
def test_malformed_names_raise(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_network(name)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "does not describe one"),
        (b"[]", "does not describe one"),
        (b"{}", "no 'architecture'"),
        (b'{"architecture": "test_resnet", "pretrained_cfg": {"input_size": [3]}}', "does not describe one"),
        (b'{"architecture": "bert"}', "architecture 'bert', which this version of timm does not have"),
        (b'{"model_type": "vit"}', "no 'architecture'"),
    ],
)
def test_other_repositories_raise(cache: Path, content: bytes, message: str) -> None:
    add_to_cache(cache, "acme/leaf-net", {"config.json": content})
    with pytest.raises(ModelError, match=message) as error:
        build(NAME, num_classes=3, load_weights=False)
    assert "\n" not in str(error.value)


def test_a_repository_cannot_set_where_weights_come_from(cache: Path, tmp_path: Path) -> None:
    files, weights = repository_files("test_resnet")
    config = json.loads(files["config.json"])
    config["model_args"] |= {"checkpoint_path": str(tmp_path / "other.pth"), "pretrained": True}
    config["pretrained_cfg"] |= {"file": str(tmp_path / "other.pth"), "custom_load": True}
    add_to_cache(cache, "acme/leaf-net", {**files, "config.json": json.dumps(config).encode()})
    network = build(NAME, num_classes=3).features.network
    assert torch.equal(network.conv1[0].weight, weights["conv1.0.weight"])


def test_weights_that_fit_one_size_only_name_it(cache: Path) -> None:
    files, _ = repository_files("gmlp_ti16_224")
    add_to_cache(cache, "acme/leaf-net", files)
    with pytest.raises(ConfigError, match=r"images of 96 x 96 pixels: set --input.size 224,224") as error:
        check_build(NAME, ModelConfig(input=InputConfig(size=(96,))))
    assert "\n" not in str(error.value)


def test_files_are_downloaded_with_the_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    isolate(tmp_path, monkeypatch)
    files, weights = repository_files("test_resnet", card=CARD)
    with hub_server({"acme/leaf-net": files}) as (address, requests):
        set_endpoint(monkeypatch, address)
        classifier = build(f"{NAME}@main", num_classes=3)
        assert torch.equal(classifier.features.network.conv1[0].weight, weights["conv1.0.weight"])
        origin = backbone_origin(classifier)
        assert origin is not None and origin.weights is not None
        assert (origin.weights["licence"], origin.weights["revision"]) == ("acme-research", COMMIT)
        count = len(requests)
        build(f"{NAME}@main", num_classes=3)
        assert len(requests) == count  # the caches have all of it
        with pytest.raises(ModelError, match="no such repository, or it is private"):
            build("hf-hub:acme/absent", num_classes=3)
