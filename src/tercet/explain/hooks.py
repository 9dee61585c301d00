"""Looking into a network without leaving a trace."""

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
"""Captum's attribution methods; None where it is not installed."""

CapturedOutput = Callable[[str, Any], None]
"""Takes a layer's name and what it returned."""


class UnsupportedExplanation(ModelError):
    """A way to explain that makes no sense for a network; says why, and what does."""


def require_captum() -> None:
    """Refuse to go on without captum.

    Raises:
        ConfigError: It is not installed.
    """
    if captum_attr is None:
        raise ConfigError("tercet explain needs captum, which is not installed: pip install 'tercet[explain]'")


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """Within the block a module is in evaluation mode and gradients can be taken; afterwards all is as it was.

    cuDNN's recurrent kernels have no gradient in evaluation mode, so PyTorch's own take their place.
    """
    modes = {part: part.training for part in module.modules()}
    cudnn, torch.backends.cudnn.enabled = torch.backends.cudnn.enabled, False
    module.eval()
    try:
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        torch.backends.cudnn.enabled = cudnn
        for part, training in modes.items():
            part.training = training


@contextmanager
def capture_outputs(layers: Sequence[tuple[str, nn.Module]], seen: CapturedOutput) -> Iterator[None]:
    """Within the block `seen` is told what the layers return, in the order in which they do."""

    def hook_of(name: str) -> Callable[..., None]:
        return lambda module, inputs, output: seen(name, output)

    handles = [layer.register_forward_hook(hook_of(name)) for name, layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def input_leaf(image: Tensor) -> Tensor:
    """Return a copy of an image from which gradients can be followed, even into a frozen network."""
    return image.detach().clone().requires_grad_()
