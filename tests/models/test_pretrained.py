"""Pretrained weights: loaded completely or an error that lists the names, never silently random."""

import socket
from pathlib import Path

import huggingface_hub
import pytest
import safetensors.torch
import timm
import torch

from tercet.config.model import InputConfig, ModelConfig
from tercet.core.errors import ConfigError, ModelError
from tercet.models import hub
from tercet.models.build import build
from tercet.models.pretrained import load_backbone, read_weights

NAME = "test_efficientnet"


@pytest.fixture
def trained() -> dict[str, torch.Tensor]:
    """Weights of the network with its classifier, all different from initial ones."""
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
def test_a_file_is_loaded_except_for_its_classifier(tmp_path, trained, file, nest):
    network = load(saved(tmp_path / file, trained, nest)).features.network
    for name, value in network.state_dict().items():
        assert torch.equal(value, trained[name]), name


def test_prefixes_of_wrappers_are_removed(tmp_path, trained):
    wrapped = {f"module.{name}": value for name, value in trained.items()}
    network = load(saved(tmp_path / "w.pth", wrapped)).features.network
    assert torch.equal(network.conv_stem.weight, trained["conv_stem.weight"])


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_the_first_convolution_is_adapted_to_the_channels(tmp_path, trained, channels):
    classifier = build(
        NAME,
        num_classes=3,
        config=ModelConfig(weights=str(saved(tmp_path / "w.pth", trained)), input=InputConfig(channels=channels)),
        channels=channels,
    )
    weight, original = classifier.features.network.conv_stem.weight, trained["conv_stem.weight"]
    assert weight.shape[1] == channels
    if channels == 1:
        torch.testing.assert_close(weight, original.sum(1, keepdim=True))
    else:
        torch.testing.assert_close(weight[:, :2], original[:, :2] * 3 / channels)


def test_differences_are_listed_with_counts_and_names(tmp_path, trained):
    other = dict(trained)
    for name in [name for name in other if name.startswith("blocks.0")]:
        del other[name]
    other["extra.weight"] = torch.zeros(1)
    other["conv_stem.weight"] = torch.zeros(5, 3, 3, 3)
    with pytest.raises(
        ModelError, match=r"missing: blocks\.0.*1 unexpected: extra.weight.*conv_stem.weight is \(5, 3, 3, 3\)"
    ) as error:
        load(saved(tmp_path / "w.pth", other))
    assert "\n" not in str(error.value)


def test_non_finite_values_raise_and_nothing_is_loaded(trained):
    network = timm.create_model(NAME, num_classes=0)
    before = network.conv_stem.weight.clone()
    trained["blocks.0.0.conv.weight"][0] = float("nan")
    with pytest.raises(ModelError, match=r"not finite: blocks\.0\.0\.conv\.weight"):
        load_backbone(network, trained, source="w.pth", name=NAME)
    assert torch.equal(network.conv_stem.weight, before)


class TouchesOnUnpickling:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return (Path.touch, (self.target,))


def test_loading_runs_no_code(tmp_path):
    torch.save({"state_dict": TouchesOnUnpickling(tmp_path / "ran")}, tmp_path / "attack.pth")
    with pytest.raises(ModelError, match="was not loaded"):
        read_weights(tmp_path / "attack.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("file", ["w.safetensors", "w.pth"])
def test_damaged_files_raise(tmp_path, trained, file):
    content = saved(tmp_path / file, trained).read_bytes()
    for fraction in (0.0, 0.5, 0.999):
        (tmp_path / file).write_bytes(content[: int(len(content) * fraction)])
        with pytest.raises(ModelError, match=file):
            read_weights(tmp_path / file)


def test_other_files_raise_in_one_line(tmp_path):
    (tmp_path / "text.pth").write_text("no weights at all\n" * 9)
    torch.save([1, 2], tmp_path / "list.pth")
    for name in ("text.pth", "list.pth", "absent.pth", ""):
        with pytest.raises(ModelError) as error:
            read_weights(tmp_path / name)
        assert "\n" not in str(error.value)


def test_older_layouts_are_converted_by_timm(tmp_path):
    network = timm.create_model("convnext_atto", num_classes=0)
    older = {}
    for name, value in network.state_dict().items():  # the names of the original code
        name = name.replace("head.norm.", "norm.").replace("stem.", "downsample_layers.0.")
        for index in range(4):
            name = name.replace(f"stages.{index}.downsample.", f"downsample_layers.{index}.")
            name = name.replace(f"stages.{index}.blocks.", f"stages.{index}.")
        name = name.replace("conv_dw", "dwconv").replace("mlp.fc1", "pwconv1").replace("mlp.fc2", "pwconv2")
        older[name] = torch.rand_like(value)
    fresh = timm.create_model("convnext_atto", num_classes=0)
    load_backbone(fresh, older, source="older.pth", name="convnext_atto")
    assert torch.equal(fresh.stem[0].weight, older["downsample_layers.0.0.weight"])


@pytest.fixture
def no_caches(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch"))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_an_unreachable_host_raises_before_a_download(no_caches, monkeypatch):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", None)  # it would retry for minutes
    with pytest.raises(ModelError, match=r"--weights FILE.*--pretrained false"):
        build("resnet18", num_classes=3)


def test_a_silent_host_times_out(no_caches, monkeypatch):
    monkeypatch.setattr(hub, "CONNECT_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(ModelError, match=r"cannot be reached.*(timed out|no response within 0.5 s)"):
            build("resnet18", num_classes=3)


def test_hf_hub_offline_is_reported(no_caches, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE is set"):
        build("resnet18", num_classes=3)


def test_missing_pretrained_weights_raise(no_caches):
    with pytest.raises(ModelError, match="none are published"):
        build("mobilenetv1_075", num_classes=3)


def test_pretrained_weights_are_taken_from_the_local_cache(no_caches, trained):
    config = timm.get_pretrained_cfg(NAME)
    repository = no_caches / "hub" / f"models--{config.hf_hub_id.replace('/', '--')}"
    (repository / "snapshots" / "abc").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    weights = {name: value for name, value in trained.items() if not name.startswith("classifier")}
    saved(repository / "snapshots" / "abc" / "model.safetensors", weights)
    network = build(NAME, num_classes=3).features.network
    assert all(torch.equal(value, trained[name]) for name, value in network.state_dict().items())


def test_without_load_weights_no_weights_are_searched(no_caches):
    assert build("resnet18", num_classes=3, load_weights=False).spec.size == (224, 224)


def test_a_wrong_number_of_channels_raises(tmp_path, trained):
    with pytest.raises(ConfigError, match="4 channels"):
        build(NAME, num_classes=3, config=ModelConfig(weights=str(saved(tmp_path / "w.pth", trained))), channels=4)
