"""Weights from files: loaded whole, or refused with the names; and never silently random."""

import socket
from pathlib import Path

import huggingface_hub
import pytest
import safetensors.torch
import timm
import torch

from tercet.config.model import InputConfig, ModelConfig
from tercet.core.errors import ConfigError, ModelError
from tercet.models import pretrained as published
from tercet.models.build import build
from tercet.models.pretrained import load_backbone, read_weights

NAME = "test_efficientnet"


@pytest.fixture
def trained() -> dict[str, torch.Tensor]:
    """Weights of the network with its classifier, all different from a fresh one's."""
    network = timm.create_model(NAME, num_classes=7)
    return {
        name: torch.rand_like(value) if value.is_floating_point() else value
        for name, value in network.state_dict().items()
    }


def load(path: Path, **options):
    return build(NAME, num_classes=3, config=ModelConfig(weights=str(path), head_hidden_dim=8, **options))


def saved(path: Path, tensors: dict[str, torch.Tensor], nest: str | None = None) -> Path:
    if path.suffix == ".safetensors":
        safetensors.torch.save_file({name: value.contiguous() for name, value in tensors.items()}, path)
    else:
        torch.save({nest: tensors, "epoch": 3} if nest else tensors, path)
    return path


@pytest.mark.parametrize(
    ("file", "nest"),
    [("w.safetensors", None), ("w.pth", None), ("w.pth", "state_dict"), ("w.pt", "model"), ("w.safetensors.bin", None)],
)
def test_a_file_is_loaded_whole_but_for_its_classifier(tmp_path, trained, file, nest):
    network = load(saved(tmp_path / file, trained, nest)).features.network
    for name, value in network.state_dict().items():
        assert torch.equal(value, trained[name]), name


def test_prefixes_of_wrappers_are_removed(tmp_path, trained):
    wrapped = {f"module.{name}": value for name, value in trained.items()}
    network = load(saved(tmp_path / "w.pth", wrapped)).features.network
    assert torch.equal(network.conv_stem.weight, trained["conv_stem.weight"])


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_the_first_convolution_is_adapted_to_other_channels(tmp_path, trained, channels):
    classifier = build(
        NAME,
        num_classes=3,
        config=ModelConfig(weights=str(saved(tmp_path / "w.pth", trained)), input=InputConfig(channels=channels)),
        channels=channels,
    )
    weight, given = classifier.features.network.conv_stem.weight, trained["conv_stem.weight"]
    assert weight.shape[1] == channels
    if channels == 1:
        torch.testing.assert_close(weight, given.sum(1, keepdim=True))
    else:
        torch.testing.assert_close(weight[:, :2], given[:, :2] * 3 / channels)


def test_differences_are_listed_by_name_and_number(tmp_path, trained):
    other = dict(trained)
    for name in [name for name in other if name.startswith("blocks.0")]:
        del other[name]
    other["surplus.weight"] = torch.zeros(1)
    other["conv_stem.weight"] = torch.zeros(5, 3, 3, 3)
    with pytest.raises(
        ModelError, match=r"missing: blocks\.0.*1 surplus: surplus.weight.*conv_stem.weight is \(5, 3, 3, 3\)"
    ) as caught:
        load(saved(tmp_path / "w.pth", other))
    assert "\n" not in str(caught.value)


def test_values_that_are_not_finite_are_refused_and_nothing_is_loaded(trained):
    network = timm.create_model(NAME, num_classes=0)
    before = network.conv_stem.weight.clone()
    trained["blocks.0.0.conv.weight"][0] = float("nan")
    with pytest.raises(ModelError, match=r"not finite: blocks\.0\.0\.conv\.weight"):
        load_backbone(network, trained, source="w.pth")
    assert torch.equal(network.conv_stem.weight, before)


class Attack:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return (Path.touch, (self.target,))


def test_a_file_never_runs_code(tmp_path):
    torch.save({"state_dict": Attack(tmp_path / "ran")}, tmp_path / "attack.pth")
    with pytest.raises(ModelError, match="was not opened"):
        read_weights(tmp_path / "attack.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("file", ["w.safetensors", "w.pth"])
def test_damaged_files_are_refused(tmp_path, trained, file):
    whole = saved(tmp_path / file, trained).read_bytes()
    for share in (0.0, 0.5, 0.999):
        (tmp_path / file).write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(ModelError, match=file):
            read_weights(tmp_path / file)


def test_other_files_are_refused(tmp_path):
    (tmp_path / "text.pth").write_text("no weights at all\n" * 9)
    torch.save([1, 2], tmp_path / "list.pth")
    for name in ("text.pth", "list.pth", "absent.pth", ""):
        with pytest.raises(ModelError) as caught:
            read_weights(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_older_layouts_are_translated_by_timm(tmp_path):
    network = timm.create_model("convnext_atto", num_classes=0)
    shown = network.state_dict()
    older = {}
    for name, value in shown.items():  # the authors' own names
        name = name.replace("head.norm.", "norm.").replace("stem.", "downsample_layers.0.")
        for index in range(4):
            name = name.replace(f"stages.{index}.downsample.", f"downsample_layers.{index}.")
            name = name.replace(f"stages.{index}.blocks.", f"stages.{index}.")
        name = name.replace("conv_dw", "dwconv").replace("mlp.fc1", "pwconv1").replace("mlp.fc2", "pwconv2")
        older[name] = torch.rand_like(value)
    fresh = timm.create_model("convnext_atto", num_classes=0)
    load_backbone(fresh, older, source="older.pth")
    assert torch.equal(fresh.stem[0].weight, older["downsample_layers.0.0.weight"])


@pytest.fixture
def no_caches(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch"))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_without_a_network_pretrained_weights_fail_before_a_download_is_tried(no_caches, monkeypatch):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", None)  # it tries again and again
    with pytest.raises(ModelError, match=r"--weights FILE.*--pretrained false"):
        build("resnet18", num_classes=3)


def test_a_host_that_never_answers_does_not_hang(no_caches, monkeypatch):
    monkeypatch.setattr(published, "_PATIENCE_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(ModelError, match=r"cannot be reached.*(timed out|no answer within 0.5 s)"):
            build("resnet18", num_classes=3)


def test_offline_by_environment_is_said(no_caches, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE is set"):
        build("resnet18", num_classes=3)


def test_weights_that_nobody_published_are_never_random(no_caches):
    with pytest.raises(ModelError, match="none are published"):
        build("mobilenetv1_075", num_classes=3)


def test_published_weights_come_from_the_local_cache(no_caches, trained):
    announced = timm.get_pretrained_cfg(NAME)
    repository = no_caches / "hub" / f"models--{announced.hf_hub_id.replace('/', '--')}"
    (repository / "snapshots" / "abc").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    full = {name: value for name, value in trained.items() if not name.startswith("classifier")}
    saved(repository / "snapshots" / "abc" / "model.safetensors", full)
    network = build(NAME, num_classes=3).features.network
    assert all(torch.equal(value, trained[name]) for name, value in network.state_dict().items())


def test_without_loading_nothing_is_looked_for(no_caches):
    assert build("resnet18", num_classes=3, load_weights=False).spec.size == (224, 224)


def test_a_wrong_number_of_channels_is_a_configuration_error(tmp_path, trained):
    with pytest.raises(ConfigError, match="4 channels"):
        build(NAME, num_classes=3, config=ModelConfig(weights=str(saved(tmp_path / "w.pth", trained))), channels=4)
