"""Pretrained weights: files and the Hugging Face hub."""

from __future__ import annotations

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

_NESTS = ("state_dict", "model", "model_state_dict", "state_dict_ema", "model_ema")
_SHOWN = 3


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file or of a checkpoint that holds tensors only.

    Which of the two it is follows from the content, not the name. Checkpoints may keep the weights under `state_dict`
    or `model`. Nothing in the file is ever executed.

    Raises:
        ModelError: The file is absent, damaged, of another kind, would run code, or holds values that are not finite.
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
            f"{path} is no weights file, or holds more than tensors and was not opened: give safetensors, or a "
            "checkpoint saved with torch.save(model.state_dict(), ...)"
        ) from error
    except OSError as error:
        raise ModelError(f"cannot read weights {path}: {error.strerror or error}") from error
    except (SafetensorError, RuntimeError, EOFError, ValueError, KeyError, TypeError, IndexError) as error:
        reason = str(error).strip().split("\n")[0][:160]
        raise ModelError(
            f"weights {path} are damaged, or neither safetensors nor a PyTorch checkpoint ({reason}): give another file"
        ) from error
    if not tensors:
        raise ModelError(f"weights {path} hold no tensors: give another --weights")
    return tensors


def _unnest(content: Any) -> dict[str, Tensor]:
    for key in _NESTS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping):
        return {}
    return {str(name): value for name, value in content.items() if isinstance(value, Tensor)}


def load_backbone(network: nn.Module, tensors: Mapping[str, Tensor], *, source: str | Path) -> None:
    """Load a file's tensors into a timm network that was created without classifier.

    The file's classifier is left out. A first convolution for another number of channels is adapted as timm does
    (summed to one channel, or repeated and rescaled). A file in a layout that timm can translate is translated.

    Args:
        network: The network.
        tensors: From `read_weights`.
        source: The file, for messages.

    Raises:
        ModelError: Names are missing or left over, shapes differ, or values are not finite; the network is unchanged.
    """
    given = _adapt_first_convolution(network, _without_classifier(network, clean_state_dict(dict(tensors))))
    problems = _differences(network.state_dict(), given)
    if problems:
        translated = _translate(network, tensors)
        if translated is not None and not _differences(network.state_dict(), translated):
            given, problems = translated, []
    if problems:
        raise ModelError(f"weights {source} do not fit {type(network).__name__}: {'; '.join(problems)}")
    broken = [name for name, value in given.items() if value.is_floating_point() and not value.isfinite().all()]
    if broken:
        raise ModelError(f"weights {source} hold values that are not finite: {_listed(broken)}; give another --weights")
    network.load_state_dict(given, strict=False)  # compared above; only batch counters may be absent


def _without_classifier(network: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    announced = getattr(network, "pretrained_cfg", {}).get("classifier") or ()
    names = (announced,) if isinstance(announced, str) else tuple(announced)
    prefixes = tuple(f"{name}." for name in names)
    kept = network.state_dict().keys()
    return {name: value for name, value in tensors.items() if name in kept or not name.startswith(prefixes)}


def _adapt_first_convolution(network: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    wanted, config = network.state_dict(), get_model_input_config(network)
    first, channels = config["first_conv"] or (), config["input_size"][0]
    adapted = dict(tensors)
    for name in (first,) if isinstance(first, str) else first:
        key = f"{name}.weight"
        if key not in tensors or key not in wanted or tensors[key].ndim != 4:
            continue
        have, want = tensors[key], wanted[key]
        if have.shape[1] != want.shape[1] == channels and have.shape[2:] == want.shape[2:]:
            adapted[key] = adapt_input_conv(channels, have, base_chans=have.shape[1])
    return adapted


def _translate(network: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """Return the tensors as timm's own filter for this family would (older layouts, other image sizes), or None."""
    translate = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    if translate is None:
        return None
    try:
        translated = translate(dict(tensors), network)
    except Exception:  # a foreign function on foreign names may fail in any way; the differences are then reported
        return None
    return _adapt_first_convolution(network, _without_classifier(network, translated))


def _differences(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[str]:
    missing = [name for name in wanted if name not in given and not name.endswith("num_batches_tracked")]
    surplus = [name for name in given if name not in wanted]
    shapes = [
        f"{name} is {tuple(given[name].shape)}, not {tuple(wanted[name].shape)}"
        for name in wanted
        if name in given and given[name].shape != wanted[name].shape
    ]
    kinds = (("missing", missing), ("surplus", surplus), ("wrong shape", shapes))
    return [f"{len(names)} {kind}: {_listed(names)}" for kind, names in kinds if names]


def _listed(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")


_PATIENCE_SECONDS = 4.0
_HUB_FILES = ("model.safetensors", "pytorch_model.bin")


def hub_file(network: str, announced: PretrainedCfg) -> Path:
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
