"""Weights of all members are found at once, with one error for all of them."""

import socket
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
from tests.models.hub import add_to_cache, hub_server, isolate, repository_files, set_endpoint

from tercet.config.model import ModelConfig
from tercet.config.run import MemberConfig
from tercet.core.errors import ConfigError, ModelError
from tercet.experiments.train import train
from tercet.models import hub
from tercet.models.weight_check import check_weights, missing_weights


def member(network: str, **options: object) -> MemberConfig:
    return MemberConfig(network, network, ModelConfig(**options))  # type: ignore[arg-type]


PHOTOS = tuple(member(name) for name in ("mobilenetv2_100", "efficientnet_b0", "resnet18"))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return isolate(tmp_path, monkeypatch)


@pytest.fixture
def silent(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A hub that accepts connections and never answers."""
    monkeypatch.setattr(hub, "CONNECT_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server:
        set_endpoint(monkeypatch, f"http://127.0.0.1:{server.getsockname()[1]}")
        yield server


def test_one_error_lists_all_members_and_tries_the_host_once(
    silent: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = []
    request = hub._request
    monkeypatch.setattr(hub, "_request", lambda host: (requests.append(host), request(host)))
    with pytest.raises(ModelError) as error:
        check_weights(PHOTOS)
    first, *lines, last = str(error.value).splitlines()
    assert first == "no pretrained weights for 3 members:"
    assert [line.split("'")[1] for line in lines] == [entry.name for entry in PHOTOS]
    assert all("cannot be reached" in line for line in lines)
    for advice in ("weights: FILE", "small-cnn", "--pretrained false"):
        assert advice in last
    assert error.value.problems == (first, *lines, last)  # the command line prints them as lines
    assert len(requests) == 1


def test_a_network_and_its_probe_are_one_problem(tmp_path: Path) -> None:
    config = ModelConfig(weights=str(tmp_path / "absent.pt"))
    members = [MemberConfig(name, "resnet18", config) for name in ("a-probe", "a")]
    with pytest.raises(ModelError, match=r"no pretrained weights for 'a' \(resnet18\): weights file") as error:
        check_weights(members)
    assert len(error.value.problems) == 1


def test_hosts_are_tried_at_the_same_time(silent: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        url = f"http://127.0.0.1:{other.getsockname()[1]}/weights.pth"
        files = [hub.RemoteFile(("model.safetensors",), "acme/net"), hub.RemoteFile(url=url)]
        paths, reasons = hub.fetch(files)
    assert not paths
    assert all("cannot be reached" in reasons[file] for file in files)


def test_available_weights_are_not_missing(silent: socket.socket, cache: Path, tmp_path: Path) -> None:
    files, _ = repository_files("test_resnet")
    add_to_cache(cache, "acme/net", files)
    add_to_cache(cache, "acme/unfinished", {"config.json": files["config.json"]})
    (tmp_path / "w.safetensors").write_bytes(files["model.safetensors"])
    members = [
        member("small-cnn"),
        member("hf-hub:acme/net"),
        member("resnet18", weights=str(tmp_path / "w.safetensors")),
        member("resnet34", pretrained=False),
        member("hf-hub:acme/unfinished", pretrained=False),
    ]
    assert missing_weights(members) == {}
    check_weights(members)
    absent = [
        member("hf-hub:acme/unfinished"),
        member("mobilenetv1_075"),
        member("resnet18", weights=str(tmp_path / "absent.pth")),
        member("hf-hub:acme/absent", pretrained=False),
    ]
    reasons = missing_weights([*members[:2], *absent])
    assert list(reasons) == ["hf-hub:acme/unfinished", "mobilenetv1_075", "resnet18", "hf-hub:acme/absent"]
    assert reasons["mobilenetv1_075"] == "none are published"
    assert "absent.pth does not exist" in reasons["resnet18"]


def test_offline_no_host_is_tried(silent: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "_request", None)
    assert all("HF_HUB_OFFLINE is set" in reason for reason in missing_weights(PHOTOS).values())


def test_proxies_are_used(silent: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that only a proxy can reach is reached: the proxy is the server, which gets the complete address."""
    monkeypatch.setattr(hub, "CONNECT_SECONDS", 20.0)
    with hub_server({}) as (address, requests):
        monkeypatch.setenv("http_proxy", address)
        monkeypatch.setenv("no_proxy", "")
        huggingface_hub.close_session()  # it reads the variables when it is created
        try:
            assert hub._unreachable({"http://weights.invalid"}) == {}
            set_endpoint(monkeypatch, "http://hub.invalid")
            assert hub._unreachable({"http://hub.invalid"}) == {}
        finally:
            huggingface_hub.close_session()
    assert [request.rstrip("/") for request in requests] == ["HEAD http://weights.invalid", "HEAD http://hub.invalid"]


def test_failed_downloads_are_reasons(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, _ = repository_files("test_resnet")
    with hub_server({"acme/net": files, "acme/empty": {"config.json": files["config.json"]}}) as (address, _):
        set_endpoint(monkeypatch, address)
        reasons = missing_weights([member(f"hf-hub:acme/{name}") for name in ("net", "empty", "absent")])
    assert list(reasons) == ["hf-hub:acme/empty", "hf-hub:acme/absent"]
    assert "it has no model.safetensors or pytorch_model.bin" in reasons["hf-hub:acme/empty"]
    assert "no such repository" in reasons["hf-hub:acme/absent"]


def test_one_file_is_not_that_of_two_networks(tmp_path: Path) -> None:
    file = str(tmp_path / "w.pth")
    Path(file).write_bytes(b"")
    with pytest.raises(ConfigError, match=r"--members '\{model: resnet18, weights: FILE\}, \{model: resnet34") as error:
        check_weights([member("resnet18", weights=file), member("resnet34", weights=file)])
    assert "\n" not in str(error.value)
    check_weights([member("resnet18", weights=file), member("resnet18.a1_in1k", weights=file), member("small-cnn")])


@pytest.mark.parametrize(
    "options",
    [
        {"members": ["resnet18", "mobilenetv2_100"]},
        {"preset": "paper"},  # the default members
        {"head": "linear", "weights": "absent.pth"},
    ],
)
def test_a_run_without_weights_leaves_no_folder(
    silent: socket.socket, tree, tmp_path: Path, options: dict[str, object]
) -> None:
    data = tree(*(f"{name}/{index}.png" for name in "ab" for index in range(6)), size=(70, 70))
    with pytest.raises(ModelError, match="no pretrained weights for"):
        train(data, output=str(tmp_path / "run"), console=False, **options)  # type: ignore[arg-type]
    assert not (tmp_path / "run").exists()
