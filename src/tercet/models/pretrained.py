"""Pretrained weights from files and from the Hugging Face hub."""

from __future__ import annotations

import tercet.core.torchvision_ops  # noqa: F401  # isort: skip  (before timm and lightning)

import pickle
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import huggingface_hub
import safetensors.torch
import torch
from huggingface_hub.errors import EntryNotFoundError
from safetensors import SafetensorError
from timm.models import PretrainedCfg, adapt_input_conv, clean_state_dict, get_model_input_config
from torch import Tensor, nn

from tercet.core.errors import ModelError

_CHECKPOINT_KEYS = ("state_dict", "model", "model_state_dict", "state_dict_ema", "model_ema")
_NUM_EXAMPLES = 3


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file or PyTorch checkpoint; no code in the file is executed.

    The format is detected from the content. Checkpoints may have the weights under `state_dict` or `model`.

    Raises:
        ModelError: The file is missing, damaged, of another format, or contains more than tensors.
    """
    try:
        with open(path, "rb") as stream:
            start = stream.read(9)
        if start[8:9] == b"{":  # eight bytes of header length, then JSON
            tensors = safetensors.torch.load_file(path)
        else:
            tensors = _unnest(torch.load(path, map_location="cpu", weights_only=True))
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path} is not a weights file, or contains more than tensors and was not loaded: use safetensors, or a "
            "checkpoint saved with torch.save(model.state_dict(), ...)"
        ) from error
    except OSError as error:
        raise ModelError(f"cannot read weights {path}: {error.strerror or error}") from error
    except (SafetensorError, RuntimeError, EOFError, ValueError, KeyError, TypeError, IndexError) as error:
        reason = str(error).strip().split("\n")[0][:160]
        raise ModelError(
            f"weights {path} are damaged, or neither safetensors nor a PyTorch checkpoint ({reason}): use another file"
        ) from error
    if not tensors:
        raise ModelError(f"weights {path} contain no tensors: use another file")
    return tensors


def _unnest(content: Any) -> dict[str, Tensor]:
    for key in _CHECKPOINT_KEYS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping):
        return {}
    return {str(name): value for name, value in content.items() if isinstance(value, Tensor)}


def load_backbone(network: nn.Module, tensors: Mapping[str, Tensor], *, source: str | Path) -> None:
    """Load a file's tensors into a timm network without classifier.

    The file's classifier is ignored. A first convolution with another number of channels is adapted as in timm (summed
    to one channel, or repeated and rescaled), and layouts that timm can convert are converted.

    Args:
        network: The network.
        tensors: From `read_weights`.
        source: The file, for messages.

    Raises:
        ModelError: Names are missing or unexpected, shapes differ, or values are not finite; the network is unchanged.
    """
    weights = _adapt_first_convolution(network, _without_classifier(network, clean_state_dict(dict(tensors))))
    problems = _differences(network.state_dict(), weights)
    if problems:
        converted = _convert_layout(network, tensors)
        if converted is not None and not _differences(network.state_dict(), converted):
            weights, problems = converted, []
    if problems:
        raise ModelError(f"weights {source} do not fit {type(network).__name__}: {'; '.join(problems)}")
    non_finite = [name for name, value in weights.items() if value.is_floating_point() and not value.isfinite().all()]
    if non_finite:
        raise ModelError(f"weights {source} have values that are not finite: {_join(non_finite)}; use another file")
    network.load_state_dict(weights, strict=False)  # compared above; only batch counters may be missing


def _without_classifier(network: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    classifier = getattr(network, "pretrained_cfg", {}).get("classifier") or ()
    names = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    prefixes = tuple(f"{name}." for name in names)
    expected = network.state_dict().keys()
    return {name: value for name, value in tensors.items() if name in expected or not name.startswith(prefixes)}


def _adapt_first_convolution(network: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    expected, config = network.state_dict(), get_model_input_config(network)
    first, channels = config["first_conv"] or (), config["input_size"][0]
    adapted = dict(tensors)
    for name in (first,) if isinstance(first, str) else first:
        key = f"{name}.weight"
        if key not in tensors or key not in expected or tensors[key].ndim != 4:
            continue
        source, target = tensors[key], expected[key]  # O I h w
        if source.shape[1] != target.shape[1] == channels and source.shape[2:] == target.shape[2:]:
            adapted[key] = adapt_input_conv(channels, source, base_chans=source.shape[1])
    return adapted


def _convert_layout(network: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """Return the tensors after timm's filter for this family (older layouts, other image sizes); None if it fails."""
    convert = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return None
    try:
        converted = convert(dict(tensors), network)
    except Exception:  # the filter may raise anything for unknown names; the differences are reported instead
        return None
    return _adapt_first_convolution(network, _without_classifier(network, converted))


def _differences(expected: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> list[str]:
    missing = [name for name in expected if name not in weights and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in weights if name not in expected]
    shapes = [
        f"{name} is {tuple(weights[name].shape)}, not {tuple(expected[name].shape)}"
        for name in expected
        if name in weights and weights[name].shape != expected[name].shape
    ]
    kinds = (("missing", missing), ("unexpected", unexpected), ("wrong shape", shapes))
    return [f"{len(names)} {kind}: {_join(names)}" for kind, names in kinds if names]


def _join(names: list[str]) -> str:
    return ", ".join(names[:_NUM_EXAMPLES]) + (", ..." if len(names) > _NUM_EXAMPLES else "")


_CONNECT_TIMEOUT = 4.0  # seconds
_HUB_FILES = ("model.safetensors", "pytorch_model.bin")


def hub_file(network: str, config: PretrainedCfg) -> Path:
    """Return the local file with a network's pretrained weights, downloading it if necessary.

    Local caches are searched first. Before a download, the host must respond within a few seconds, because the hub's
    client would retry for minutes on a machine without internet access.

    Args:
        network: Name of the network, for messages.
        config: timm's description of the weights.

    Raises:
        ModelError: No weights are published, or they are neither cached nor reachable.
    """
    cached = _cached(config)
    if cached is not None:
        return cached
    if not config.has_weights:
        raise _unavailable(network, "none are published")
    host = huggingface_hub.constants.ENDPOINT if config.hf_hub_id else _origin(_url(config))
    if config.hf_hub_id and huggingface_hub.constants.HF_HUB_OFFLINE:
        raise _unavailable(network, "HF_HUB_OFFLINE is set and they are not in the local cache")
    reason = _unreachable(host)
    if reason is not None:
        raise _unavailable(network, f"they are not in the local cache and {host} cannot be reached ({reason})")
    try:
        return _download(config)
    except Exception as error:  # the client and the network may fail in any way, with the same remedy
        raise _unavailable(network, f"the download failed ({str(error).strip().splitlines()[0][:160]})") from error


def _unavailable(network: str, reason: str) -> ModelError:
    return ModelError(
        f"no pretrained weights for '{network}': {reason}; set --weights FILE, or train from scratch with "
        "--pretrained false"
    )


def _url(config: PretrainedCfg) -> str:
    return str(config.url if isinstance(config.url, str) or config.url is None else config.url[0])


def _origin(url: str) -> str:
    parts = urlparse(url)
    return f"{parts.scheme}://{parts.netloc}"


def _hub_arguments(config: PretrainedCfg) -> tuple[dict[str, Any], tuple[str, ...]]:
    repository, _, revision = str(config.hf_hub_id).partition("@")
    files = (config.hf_hub_filename,) if config.hf_hub_filename else _HUB_FILES
    return {"repo_id": repository, "revision": revision or None}, files


def _url_cache(config: PretrainedCfg) -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(_url(config)).path).name


def _cached(config: PretrainedCfg) -> Path | None:
    if config.file:
        return Path(config.file)
    if config.hf_hub_id:
        arguments, files = _hub_arguments(config)
        for name in files:
            path = huggingface_hub.try_to_load_from_cache(filename=name, **arguments)
            if isinstance(path, str):
                return Path(path)
    if config.url and _url_cache(config).is_file():
        return _url_cache(config)
    return None


def _download(config: PretrainedCfg) -> Path:
    if not config.hf_hub_id:
        target = _url_cache(config)
        target.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(_url(config), str(target), progress=False)
        return target
    arguments, files = _hub_arguments(config)
    for name in files[:-1]:
        try:
            return Path(huggingface_hub.hf_hub_download(filename=name, **arguments))
        except EntryNotFoundError:
            continue
    return Path(huggingface_hub.hf_hub_download(filename=files[-1], **arguments))


def _unreachable(host: str) -> str | None:
    """Return why `host` does not respond within a few seconds, or None if it does."""
    results: list[str | None] = []

    def connect() -> None:
        try:
            with urllib.request.urlopen(urllib.request.Request(host, method="HEAD"), timeout=_CONNECT_TIMEOUT):
                results.append(None)
        except urllib.error.HTTPError as error:
            error.close()
            results.append(None)  # any response will do
        except (OSError, ValueError) as error:
            results.append(str(getattr(error, "reason", error)))

    thread = threading.Thread(target=connect, daemon=True)  # a thread, because DNS lookups have no time limit
    thread.start()
    thread.join(_CONNECT_TIMEOUT + 1)
    return results[0] if results else f"no response within {_CONNECT_TIMEOUT:g} s"
