"""Backbone weights from a file: read without running code, compared name by name, and loaded whole or not at all."""

from __future__ import annotations

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

from tercet.ground.errors import ModelError

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
