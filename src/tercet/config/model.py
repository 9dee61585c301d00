"""Configuration of a network: input, backbone, recurrent module, head, and frozen parameters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal

from tercet.config.fields import Config, bounded
from tercet.core.errors import ConfigError, Problem, problems_of
from tercet.core.registry import did_you_mean

ATTENTION = "attention"
"""Name of the head that reads the feature map."""


@dataclass(frozen=True)
class FreezeRule:
    """Freezes or opens the parameters whose names match a pattern."""

    pattern: str
    """Glob over names such as `features.network.layer4.0.conv1.weight`."""
    frozen: bool
    """Whether matching parameters and buffers stay bit-identical; else they are open (trained)."""

    @property
    def state(self) -> str:
        """`frozen` or `open`."""
        return "frozen" if self.frozen else "open"


FREEZE_PRESETS: dict[str, tuple[FreezeRule, ...]] = {
    "none": (FreezeRule("*", False),),
    "backbone": (FreezeRule("features.*", True), FreezeRule("*", False)),
    "all-but-last": (FreezeRule("head.classes*", False), FreezeRule("*", True)),
}
"""Named rules: freeze nothing, everything before recurrent module and head, or all but the last layer."""


def read_rules(freeze: Sequence[Any]) -> tuple[FreezeRule, ...]:
    """Return the rules that the option `freeze` defines.

    Args:
        freeze: Names of presets, texts `PATTERN: frozen` or `PATTERN: open`, or mappings from patterns to these states;
            the first matching rule applies.

    Raises:
        ConfigError: An element has another form, or there are no elements.
    """
    rules = tuple(rule for element in freeze for rule in _read_element(element))
    if not rules:
        raise ConfigError("freeze is empty: give none, or PATTERN: frozen|open")
    return rules


def _read_element(element: Any) -> Iterator[FreezeRule]:
    if isinstance(element, Mapping):
        for pattern, state in element.items():
            yield _rule(pattern, state)
    elif isinstance(element, str) and element in FREEZE_PRESETS:
        yield from FREEZE_PRESETS[element]
    elif isinstance(element, str) and ":" in element:
        pattern, _, state = element.rpartition(":")
        yield _rule(pattern.strip(), state.strip())
    else:
        hint = did_you_mean(element, FREEZE_PRESETS) if isinstance(element, str) else ""
        raise ConfigError(
            f"freeze: expected {', '.join(FREEZE_PRESETS)} or PATTERN: frozen|open, got {element!r}{hint}"
        )


def _rule(pattern: Any, state: Any) -> FreezeRule:
    if not isinstance(pattern, str) or not pattern or state not in ("frozen", "open"):
        raise ConfigError(f"freeze: expected PATTERN: frozen|open, got '{pattern}: {state}'")
    return FreezeRule(pattern, state == "frozen")


@dataclass(frozen=True)
class InputConfig(Config):
    """Preprocessing of a network's input; unset values come from the backbone's pretrained configuration."""

    size: tuple[int, ...] | None = None
    """Input height and width in pixels, or one number for a square."""
    channels: int | None = None
    """Input channels: 1 for grayscale, 3 for RGB."""
    mean: tuple[float, ...] | None = None
    """Mean for normalization, on the [0, 1] scale: one value, or one per channel."""
    std: tuple[float, ...] | None = None
    """Standard deviation for normalization: one value, or one per channel."""
    interpolation: Literal["nearest", "bilinear", "bicubic"] | None = None
    """Interpolation for resizing."""
    crop_mode: Literal["squash", "center", "border"] | None = None
    """How to reach the aspect ratio of the input: squash distorts, center crops, border pads with border pixels."""
    crop_pct: float | None = None
    """Fraction of the image's height and width that the center crop keeps (squash and center)."""

    def _rules(self) -> Iterable[Problem]:
        if self.size is not None and len(self.size) not in (1, 2):
            yield Problem("input.size takes one number, or height and width", "size")


@dataclass(frozen=True)
class BackboneConfig:
    """Options of a timm backbone."""

    args: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments for timm.create_model, such as '{pad_type: same, bn_eps: 0.001}'."""


@dataclass(frozen=True)
class LabelsConfig(Config):
    """Multi-label output of a network."""

    section: ClassVar[str] = "labels"
    decoder: Literal["sigmoid", "cnn-rnn"] = "sigmoid"
    """Multi-label decoder: sigmoid scores each label independently; cnn-rnn predicts labels one by one with an LSTM."""
    embedding_dim: int = bounded(64, above=0)
    """cnn-rnn: dimension of the label embedding and of the joint space."""
    hidden_size: int = bounded(512, above=0)
    """cnn-rnn: hidden size of the LSTM."""
    beam_size: int = bounded(2, above=0)
    """cnn-rnn: beam size of the search; 1 is greedy."""

    def _rules(self) -> Iterable[Problem]:
        for name in ("embedding_dim", "hidden_size", "beam_size"):
            if self.decoder == "sigmoid" and getattr(self, name) != getattr(LabelsConfig, name):
                yield Problem(f"labels.{name} has no effect on labels.decoder sigmoid", name, "decoder")


@dataclass(frozen=True)
class ModelConfig(Config):
    """One network: backbone, recurrent module, head; unset values default to those of the network."""

    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    """Options of a timm backbone."""
    input: InputConfig = field(default_factory=InputConfig)
    """Input size and preprocessing."""
    labels: LabelsConfig = field(default_factory=LabelsConfig)
    """Multi-label output."""
    pretrained: bool = True
    """Load pretrained weights for timm backbones; false trains from scratch."""
    weights: str | None = None
    """Load the backbone's weights from this file (safetensors, or a PyTorch checkpoint of tensors only)."""
    recurrent: Literal["none", "rnn", "gru", "lstm"] = "none"
    """Recurrent module between backbone and head."""
    scan: Literal["pooled", "rows", "columns", "cells", "snake", "pixels"] = "pooled"
    """Input sequence of the recurrent module: the pooled vector as a single step (paper), or the feature map in this
    order; row classifiers: pixel rows (default), columns or single pixels of the image."""
    bidirectional: bool = False
    """Make the recurrent module, or a row classifier, bidirectional."""
    hidden_size: int | None = bounded(None, above=0)
    """Hidden size per direction (backbones: 2048, or 1024 if bidirectional; row classifiers: 128)."""
    num_layers: int | None = bounded(None, above=0)
    """Number of stacked recurrent layers (backbones: 1; row classifiers: 2)."""
    activation: Literal["tanh", "relu", "sigmoid"] = "tanh"
    """Activation of the recurrent state: tanh uses PyTorch's fast kernels, relu is the notebook's, sigmoid the paper's
    equation 1."""
    recurrent_activation: Literal["sigmoid", "hard_sigmoid"] = "sigmoid"
    """Activation of the gates: sigmoid, or the hard sigmoid of Keras 2.2, clip(0.2x + 0.5, 0, 1)."""
    reset_after: bool = True
    """GRU: apply the reset gate after the recurrent product (PyTorch); false applies it before (the paper's equations
    10-13)."""
    num_biases: Literal[1, 2] = 2
    """Bias vectors per gate: 2 (PyTorch) or 1 (Keras and the paper's parameter counts)."""
    head: str = field(default="paper", metadata={"registry": "head"})
    """Classification head: noise + dense + ReLU + linear (paper), linear, dense + ReLU + dropout + linear (mlp),
    attention pooling of the feature map + linear (attention); or fitted on features of the frozen backbone: logistic or
    ridge regression, nearest neighbours (knn), class means (prototype)."""
    head_hidden_dim: int | None = bounded(None, above=0)
    """Hidden dimension of the head (paper: 1024, mlp: 512, leaf-cnn: 4096, small-cnn and row classifiers: 32)."""
    noise: float = bounded(0.1, least=0)
    """Standard deviation of the Gaussian noise in the paper's head (training only)."""
    dropout: float | None = bounded(None, least=0, below=1)
    """Dropout probability (mlp head: 0.3; small-cnn: 0.2; wide residual networks: 0)."""
    freeze: tuple[Any, ...] = ("none",)
    """Parameters of a timm network to freeze: none, backbone, all-but-last, or a list of 'PATTERN: frozen' and
    'PATTERN: open' over parameter names, of which the first match applies."""

    def _rules(self) -> Iterable[Problem]:
        if self.recurrent != "none" and self.head == ATTENTION:
            yield Problem(
                f"head attention reads the feature map, of which --recurrent {self.recurrent} leaves one vector: use "
                "--recurrent none, or another --head",
                "head",
                "recurrent",
            )
        yield from problems_of(lambda: read_rules(self.freeze), "freeze")

    @property
    def reads_map(self) -> bool:
        """Whether a timm backbone returns its feature map, not the pooled vector."""
        return self.scan != "pooled" or self.head == ATTENTION

    @property
    def freezes_backbone(self) -> bool:
        """Whether a preset freezes the whole backbone."""
        return self.freeze in (("backbone",), ("all-but-last",))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelConfig:
        """Rebuild from the result of `to_dict`, also if JSON turned its tuples into lists."""
        inputs: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values["input"].items()
        }
        nested: dict[str, Any] = {"backbone": BackboneConfig(**values["backbone"]), "input": InputConfig(**inputs)}
        labels = LabelsConfig(**values.get("labels", {}))  # absent in bundles from before multi-label support
        return cls(**{**values, **nested, "labels": labels, "freeze": tuple(values.get("freeze", cls.freeze))})
