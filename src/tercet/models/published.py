"""Published weights of timm's networks: from the local caches, else from the network, and quickly refused offline."""

from __future__ import annotations

import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import huggingface_hub
import torch
from huggingface_hub.errors import EntryNotFoundError
from timm.models import PretrainedCfg

from tercet.ground.errors import ModelError

_PATIENCE_SECONDS = 4.0
_HUB_FILES = ("model.safetensors", "pytorch_model.bin")


def published_file(network: str, announced: PretrainedCfg) -> Path:
    """Return the local file with a network's published weights, downloading it where that is possible.

    Local caches are searched first. Before a download the host must answer within a few seconds: the hub's own client
    would retry for minutes on a machine without a network.

    Args:
        network: The network's name, for messages.
        announced: What timm knows about its weights.

    Raises:
        ModelError: None are published, or they are neither here nor reachable; it names the two ways out.
    """
    cached = _cached(announced)
    if cached is not None:
        return cached
    if not announced.has_weights:
        raise _unavailable(network, "none are published")
    host = huggingface_hub.constants.ENDPOINT if announced.hf_hub_id else _origin(_url(announced))
    if announced.hf_hub_id and huggingface_hub.constants.HF_HUB_OFFLINE:
        raise _unavailable(network, "HF_HUB_OFFLINE is set and they are not in the local cache")
    reason = _unreachable(host)
    if reason is not None:
        raise _unavailable(network, f"they are not in the local cache and {host} cannot be reached ({reason})")
    try:
        return _download(announced)
    except Exception as error:  # a foreign client over a network may fail in any way; all end in the same two ways out
        raise _unavailable(network, f"the download failed ({str(error).strip().splitlines()[0][:160]})") from error


def _unavailable(network: str, reason: str) -> ModelError:
    return ModelError(
        f"no pretrained weights for '{network}': {reason}; give a file with --weights FILE, or train from scratch with "
        "--pretrained false"
    )


def _url(announced: PretrainedCfg) -> str:
    return str(announced.url if isinstance(announced.url, str) or announced.url is None else announced.url[0])


def _origin(url: str) -> str:
    parts = urlparse(url)
    return f"{parts.scheme}://{parts.netloc}"


def _hub_arguments(announced: PretrainedCfg) -> tuple[dict[str, Any], tuple[str, ...]]:
    repository, _, revision = str(announced.hf_hub_id).partition("@")
    files = (announced.hf_hub_filename,) if announced.hf_hub_filename else _HUB_FILES
    return {"repo_id": repository, "revision": revision or None}, files


def _cache_of_urls(announced: PretrainedCfg) -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(_url(announced)).path).name


def _cached(announced: PretrainedCfg) -> Path | None:
    if announced.file:
        return Path(announced.file)
    if announced.hf_hub_id:
        arguments, files = _hub_arguments(announced)
        for name in files:
            found = huggingface_hub.try_to_load_from_cache(filename=name, **arguments)
            if isinstance(found, str):
                return Path(found)
    if announced.url and _cache_of_urls(announced).is_file():
        return _cache_of_urls(announced)
    return None


def _download(announced: PretrainedCfg) -> Path:
    if not announced.hf_hub_id:
        target = _cache_of_urls(announced)
        target.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(_url(announced), str(target), progress=False)
        return target
    arguments, files = _hub_arguments(announced)
    for name in files[:-1]:
        try:
            return Path(huggingface_hub.hf_hub_download(filename=name, **arguments))
        except EntryNotFoundError:
            continue
    return Path(huggingface_hub.hf_hub_download(filename=files[-1], **arguments))


def _unreachable(host: str) -> str | None:
    """Return why `host` does not answer within a few seconds, or None where it does."""
    answer: list[str | None] = []

    def ask() -> None:
        try:
            with urllib.request.urlopen(urllib.request.Request(host, method="HEAD"), timeout=_PATIENCE_SECONDS):
                answer.append(None)
        except urllib.error.HTTPError as error:
            error.close()
            answer.append(None)  # it answers
        except (OSError, ValueError) as error:
            answer.append(str(getattr(error, "reason", error)))

    asking = threading.Thread(target=ask, daemon=True)  # looking a name up has no time limit of its own
    asking.start()
    asking.join(_PATIENCE_SECONDS + 1)
    return answer[0] if answer else f"no answer within {_PATIENCE_SECONDS:g} s"
