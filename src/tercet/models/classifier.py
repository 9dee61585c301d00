"""The classifier: preprocessing, backbone, recurrent module and head in one module that takes images of any size.

Freezing rules are matched against the names of the `state_dict`: those of parameters, and of the running statistics of
normalization layers.

Shapes: B images, C channels, H x W pixels, D and F features, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, cast

import torch
from torch import Tensor, nn

from tercet.config.model import FreezeRule
from tercet.core.errors import ConfigError
from tercet.core.resize import Interpolation, scale, to_channels
from tercet.core.types import InputSpec

_NUM_EXAMPLES = 3


class Preprocess(nn.Module):
    """Resizes images to the network's input size, converts their channels, and normalizes them.

    Maps B C H W in [0, 1], of any size, to B C' H' W'. Images that a loader has resized already are only normalized.
    The aspect ratio is not kept; if the spec's `crop_mode` requires it, loaders crop or pad first
    (`tercet.core.resize.fit_size`).

    Args:
        spec: Input spec of the network.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, spec: InputSpec) -> None:
        super().__init__()
        self.spec = spec
        for name, values in (("mean", spec.mean), ("std", spec.std)):
            self.register_buffer(name, torch.tensor(values).view(1, -1, 1, 1), persistent=False)
        self._normalize = any(spec.mean) or any(value != 1 for value in spec.std)

    def forward(self, images: Tensor) -> Tensor:
        """Map B C H W to B C' H' W'."""
        images = scale(images, self.spec.size, cast("Interpolation", self.spec.interpolation))
        images = to_channels(images, self.spec.channels)
        return (images - self.mean) / self.std if self._normalize else images

    def extra_repr(self) -> str:
        """Return the spec for `repr`."""
        return f"size={self.spec.size}, channels={self.spec.channels}, mean={self.spec.mean}, std={self.spec.std}"


@dataclass(frozen=True)
class FreezeMatch:
    """A rule, and the names for which it is the first to match."""

    rule: FreezeRule
    """The pattern, and whether it freezes."""
    names: tuple[str, ...]
    """Parameters and running statistics."""
    parameters: int
    """Number of parameters (elements) among them."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "pattern": self.rule.pattern,
            "state": self.rule.state,
            "parameters": self.parameters,
            "names": list(self.names),
        }


def match_rules(network: str, module: nn.Module, rules: Sequence[FreezeRule]) -> tuple[FreezeMatch, ...]:
    """Assign every parameter and running statistic to the first rule that matches its name.

    Args:
        network: Name of the network, for messages.
        module: The network.
        rules: Rules, in order.

    Raises:
        ConfigError: A name matches no pattern, a pattern matches no name, or nothing is left to train.
    """
    tensors = module.state_dict(keep_vars=True)
    matched: dict[FreezeRule, list[str]] = {rule: [] for rule in rules}
    uncovered: list[str] = []
    for name in tensors:
        first = next((rule for rule in rules if fnmatchcase(name, rule.pattern)), None)
        (uncovered if first is None else matched[first]).append(name)
    unmatched = [rule.pattern for rule in rules if not any(fnmatchcase(name, rule.pattern) for name in tensors)]
    if unmatched:
        raise ConfigError(
            f"freeze: '{unmatched[0]}' matches no parameter of '{network}', which has names such as "
            f"{_examples(list(tensors))}: 'tercet models {network}' lists its parts"
        )
    if uncovered:
        raise ConfigError(
            f"freeze: no pattern matches {len(uncovered)} parameters and statistics of '{network}', such as "
            f"{_examples(uncovered)}: end the list with '*: open' or '*: frozen'"
        )
    matches = tuple(
        FreezeMatch(
            rule,
            tuple(names),
            sum(tensors[name].numel() for name in names if isinstance(tensors[name], nn.Parameter)),
        )
        for rule, names in matched.items()
    )
    if not any(match.parameters for match in matches if not match.rule.frozen):
        raise ConfigError(f"freeze: nothing of '{network}' is left to train: keep 'head.classes*: open'")
    return matches


def apply_rules(module: nn.Module, matches: Sequence[FreezeMatch]) -> tuple[str, ...]:
    """Disable gradients of the frozen parameters; return the modules that must stay in evaluation mode.

    These are completely frozen modules, which thereby become fixed functions without dropout, and modules with frozen
    running statistics. Recurrent kernels are not among them: they compute the same in both modes, but on CUDA they
    pass gradients in training mode only.

    Args:
        module: The network.
        matches: From `match_rules`.
    """
    frozen = {name for match in matches if match.rule.frozen for name in match.names}
    for name, tensor in module.state_dict(keep_vars=True).items():
        if name in frozen and isinstance(tensor, nn.Parameter):
            tensor.requires_grad_(False)
    eval_modules: list[str] = []
    for name, part in module.named_modules():
        if isinstance(part, nn.RNNBase):
            continue
        prefix = f"{name}." if name else ""
        tensors = [f"{prefix}{key}" for key in part.state_dict()]
        statistics = {f"{prefix}{key}" for key, _ in part.named_buffers(recurse=False)}
        inner = not tensors and any(name.startswith(f"{outer}.") for outer in eval_modules)  # dropout in a frozen block
        if (tensors and frozen.issuperset(tensors)) or statistics & frozen or inner:
            eval_modules.append(name)
    return tuple(eval_modules)


def _examples(names: list[str]) -> str:
    return ", ".join(names[-_NUM_EXAMPLES:])


class Classifier(nn.Module):
    """A network from images to logits: `preprocess`, `features`, `recurrent`, `head`.

    Args:
        network: Name of the network.
        spec: Input spec; `preprocess` converts images to it.
        num_classes: K.
        features: Backbone: maps B C H W to the input of `recurrent`.
        recurrent: Maps it to the features B F; None is the identity.
        head: Maps the features to logits B K.
        custom: Whether the network is the caller's, which a bundle names but cannot build.
    """

    def __init__(
        self,
        network: str,
        *,
        spec: InputSpec,
        num_classes: int,
        features: nn.Module,
        head: nn.Module,
        recurrent: nn.Module | None = None,
        custom: bool = False,
    ) -> None:
        super().__init__()
        self.custom = custom
        self.network, self.spec, self.num_classes = network, spec, num_classes
        self.preprocess = Preprocess(spec)
        self.features = features
        self.recurrent = recurrent or nn.Identity()
        self.head = head
        self.freezing: tuple[FreezeMatch, ...] = ()
        self._eval_modules: tuple[str, ...] = ()

    def freeze(self, rules: Sequence[FreezeRule]) -> None:
        """Freeze parameters and running statistics by name patterns; `freezing` then lists what each rule matched.

        Args:
            rules: From `tercet.config.model.read_rules`.

        Raises:
            ConfigError: The rules do not cover every name, have a pattern without a match, or leave nothing to train.
        """
        self.freezing = match_rules(self.network, self, rules)
        self._eval_modules = apply_rules(self, self.freezing)
        self.train(self.training)

    def train(self, mode: bool = True) -> Classifier:
        """Set the mode of all modules except frozen ones, which stay in evaluation mode."""
        super().train(mode)
        for name in self._eval_modules:
            self.get_submodule(name).training = False
        return self

    @property
    def frozen_backbone(self) -> bool:
        """Whether nothing of `features` is trained, so that an image always has the same features."""
        return "features" in self._eval_modules or not self.features.state_dict()

    def embed(self, images: Tensor) -> Tensor:
        """Map images B C H W in [0, 1] to the features B F that the head takes."""
        return cast("Tensor", self.recurrent(self.features(self.preprocess(images))))

    def forward(self, images: Tensor, sequence: Tensor | None = None) -> Tensor:
        """Map images B C H W, floats in [0, 1] of any size, to logits B K.

        Args:
            images: The images.
            sequence: B T, label sequence for teacher forcing of a label decoder; None for other heads.
        """
        features = self.embed(images)
        return cast("Tensor", self.head(features) if sequence is None else self.head(features, sequence))
