"""Pretrained weights of timm networks from files."""

from __future__ import annotations

import tercet.core.torchvision_ops  # noqa: F401  # isort: skip  (before timm and lightning)

import pickle
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from timm.models import adapt_input_conv, clean_state_dict, get_model_input_config
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


def load_backbone(network: nn.Module, tensors: Mapping[str, Tensor], *, source: str | Path, name: str) -> None:
    """Load a file's tensors into a timm network without classifier.

    The file's classifier is ignored. A first convolution with another number of channels is adapted as in timm (summed
    to one channel, or repeated and rescaled), and layouts that timm can convert are converted.

    Args:
        network: The network.
        tensors: From `read_weights`.
        source: The file, for messages.
        name: The network, for messages.

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
        raise ModelError(
            f"weights {source} are not those of '{name}': {'; '.join(problems)}; use another file, or name its network"
        )
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
