"""A hub for tests: repositories in a local cache, and a server on this machine."""

import http.server
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import safetensors.torch
import timm
import torch

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def isolate(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Use empty caches below a folder and no proxies, also in child processes; return the cache of the hub."""
    cache = folder / "hub"
    for key in ("HF_HUB_CACHE", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(key, {"HF_HUB_CACHE": str(cache)}.get(key, ""))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(folder / "torch"))
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return cache


def set_endpoint(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    """Let the hub's client use another host."""
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


def repository_files(
    architecture: str, *, args: Mapping[str, Any] | None = None, card: str = "", **pretrained: Any
) -> tuple[dict[str, bytes], dict[str, torch.Tensor]]:
    """Return the files of a repository as timm writes them, and the weights."""
    network = timm.create_model(architecture, **{"num_classes": 7, **(args or {})})
    weights = {
        name: torch.rand_like(value) * 0.1 if value.is_floating_point() else value.clone()
        for name, value in network.state_dict().items()
    }
    described = {key: value for key, value in network.pretrained_cfg.items() if key not in ("url", "hf_hub_id")}
    config = {
        "architecture": architecture,
        "num_classes": network.num_classes,
        "model_args": {"num_classes": network.num_classes, **(args or {})},
        "pretrained_cfg": {**described, "license": None, **pretrained},
    }
    files = {"config.json": json.dumps(config).encode(), "model.safetensors": safetensors.torch.save(weights)}
    return {**files, **({"README.md": card.encode()} if card else {})}, weights


def add_to_cache(
    cache: Path, repository: str, files: Mapping[str, bytes], *, revision: str = "main", commit: str = COMMIT
) -> None:
    """Write files into the hub's cache, as its client does."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    snapshot = folder / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir(exist_ok=True)
    (folder / "refs" / revision).write_text(commit)
    for name, content in files.items():
        (snapshot / name).write_bytes(content)


@contextmanager
def hub_server(repositories: Mapping[str, Mapping[str, bytes]]) -> Iterator[tuple[str, list[str]]]:
    """Serve repositories; yield the address and the list of requests."""
    requests: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.reply(body=False)

        def do_GET(self) -> None:
            self.reply(body=True)

        def reply(self, *, body: bool) -> None:
            requests.append(f"{self.command} {self.path}")
            repository, _, rest = self.path.strip("/").partition("/resolve/")
            files = repositories.get(repository, {})
            content = files.get(rest.partition("/")[2])
            self.send_response(404 if content is None else 200)
            self.send_header("X-Repo-Commit", COMMIT)
            if content is None:
                self.send_header("X-Error-Code", "EntryNotFound" if files else "RepoNotFound")
            self.send_header("ETag", f'"{len(content or b"")}"')
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            if body:
                self.wfile.write(content or b"")

        def log_message(self, *arguments: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", requests
        finally:
            server.shutdown()
            thread.join()
