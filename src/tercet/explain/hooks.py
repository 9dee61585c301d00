"""Forward hooks and gradients that leave the network unchanged, and the optional captum import."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tercet.core.errors import ConfigError, ModelError

try:
    import captum.attr as _captum
except ImportError:  # an extra: `pip install tercet[explain]`
    _captum = None

captum_attr: Any = _captum
"""Captum's attribution methods; None if captum is not installed."""

CapturedOutput = Callable[[str, Any], None]
"""Takes a layer's name and its output."""


class UnsupportedExplanation(ModelError):
    """The network does not support an explanation method; the message gives the reason."""


def require_captum() -> None:
    """Raise ConfigError if captum is not installed."""
    if captum_attr is None:
        raise ConfigError("tercet explain needs captum, which is not installed: pip install 'tercet[explain]'")


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """Switch a module to evaluation mode with gradients enabled; restore everything afterwards.

    cuDNN is off within the block: its recurrent kernels have no backward pass in evaluation mode.
    """
    modes = {layer: layer.training for layer in module.modules()}
    cudnn, torch.backends.cudnn.enabled = torch.backends.cudnn.enabled, False
    module.eval()
    try:
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        torch.backends.cudnn.enabled = cudnn
        for layer, training in modes.items():
            layer.training = training


@contextmanager
def capture_outputs(layers: Sequence[tuple[str, nn.Module]], callback: CapturedOutput) -> Iterator[None]:
    """Call `callback` with name and output of each layer, in the order in which the layers run."""

    def hook_of(name: str) -> Callable[..., None]:
        return lambda module, inputs, output: callback(name, output)

    handles = [layer.register_forward_hook(hook_of(name)) for name, layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def input_leaf(image: Tensor) -> Tensor:
    """Return a copy of an image that requires gradients, so that they flow even through a frozen network."""
    return image.detach().clone().requires_grad_()
