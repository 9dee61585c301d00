"""The options of one network: backbone, recurrent module, head, and what it is shown."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from tercet.ground.errors import ConfigError, require
from tercet.records.freezing import read_rules


@dataclass(frozen=True)
class InputConfig:
    """What a network is shown, where it should differ from what its backbone announces."""

    size: tuple[int, ...] | None = None
    """Height and width in pixels, or one number for a square."""
    channels: int | None = None
    """Channels the network reads: 1 grey, 3 RGB."""
    mean: tuple[float, ...] | None = None
    """Mean to subtract, on the [0, 1] scale: one value, or one a channel."""
    std: tuple[float, ...] | None = None
    """Standard deviation to divide by, likewise."""
    interpolation: Literal["nearest", "bilinear", "bicubic"] | None = None
    """Resampling filter."""
    resize: Literal["squash", "shorter", "pad"] | None = None
    """How another aspect ratio is met: squash it, scale the shorter side and crop, or pad."""
    crop_fraction: float | None = None
    """Share of the resized image that the central crop keeps."""

    def __post_init__(self) -> None:
        require(
            [
                self.size is not None
                and len(self.size) not in (1, 2)
                and "input.size takes one number, or height and width"
            ]
        )


@dataclass(frozen=True)
class BackboneConfig:
    """Options of the timm network underneath."""

    args: dict[str, Any] = field(default_factory=dict)
    """Constructor arguments, such as '{pad_type: same, bn_eps: 0.001}'."""


@dataclass(frozen=True)
class LabelsConfig:
    """How a network answers with a set of labels, where images have sets."""

    decoder: Literal["sigmoid", "cnn-rnn"] = "sigmoid"
    """Every label by itself (sigmoid), or one after the other by an LSTM over those named so far (cnn-rnn)."""
    embedding: int = 64
    """cnn-rnn: width of a label's embedding, and of the joint space."""
    units: int = 512
    """cnn-rnn: state width of the LSTM."""
    beam: int = 2
    """cnn-rnn: label sequences that the search keeps; 1 is greedy."""

    def __post_init__(self) -> None:
        sizes = {"embedding": self.embedding, "units": self.units, "beam": self.beam}
        require(value < 1 and f"labels.{name} {value} must be positive" for name, value in sizes.items())
        changed = [name for name, value in sizes.items() if value != getattr(LabelsConfig, name)]
        require(
            self.decoder == "sigmoid" and f"labels.{name} has no effect on labels.decoder sigmoid" for name in changed
        )


@dataclass(frozen=True)
class ModelConfig:
    """One network: backbone, recurrent module, head. None means the network's own default."""

    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    """Options of the timm network underneath."""
    input: InputConfig = field(default_factory=InputConfig)
    """What the network is shown."""
    labels: LabelsConfig = field(default_factory=LabelsConfig)
    """How a set of labels is answered."""
    pretrained: bool = True
    """Start timm backbones from their published weights; false trains from scratch."""
    weights: str | None = None
    """File with the backbone's weights (safetensors, or a checkpoint that holds tensors only)."""
    recurrent: Literal["none", "rnn", "gru", "lstm"] = "none"
    """Recurrent module between backbone and head."""
    scan: Literal["pooled", "rows", "columns", "cells", "snake"] = "pooled"
    """What the recurrent module reads: the pooled vector as one step (the paper), or the feature map in this order."""
    directions: Literal["one", "both"] = "one"
    """Read the sequence forwards, or forwards and backwards."""
    units: int | None = None
    """State width of a direction (backbones: 2048, or 1024 in both directions; row classifiers: 128)."""
    layers: int | None = None
    """Stacked recurrent layers (backbones: 1; row classifiers: 2)."""
    activation: Literal["tanh", "relu", "sigmoid"] = "tanh"
    """Activation of the state: tanh runs on fast kernels; relu is the notebook's; sigmoid is the paper's equation 1."""
    gates: Literal["logistic", "hard_sigmoid"] = "logistic"
    """Activation of the gates: logistic, or Keras 2.2's clip(0.2x + 0.5, 0, 1)."""
    reset: Literal["after", "before"] = "after"
    """Where a GRU resets: after the recurrent product (PyTorch), or before it (the paper's equations 10-13)."""
    bias: Literal["double", "single"] = "double"
    """Bias vectors a gate: two (PyTorch) or one (Keras, the paper's parameter counts)."""
    head: Literal["paper", "linear", "mlp"] = "paper"
    """From features to classes: noise + dense + ReLU + linear, linear alone, or dense + ReLU + dropout + linear."""
    dense: int | None = None
    """Width of the dense layer in the head (backbones: 1024, mlp: 512, leaf CNN: 4096, others of our own: 32)."""
    noise: float = 0.1
    """Standard deviation of the Gaussian noise in the paper's head, in training only."""
    dropout: float | None = None
    """Drop probability (mlp head: 0.3; small CNN: 0.2; wide residual networks: 0)."""
    freeze: tuple[Any, ...] = ("none",)
    """What of a network with a timm backbone does not learn: none, backbone, all-but-last, or a list of
    'PATTERN: frozen' and 'PATTERN: open' over the names of its parameters; the first match wins."""

    def __post_init__(self) -> None:
        sizes = {"units": self.units, "layers": self.layers, "dense": self.dense}
        require(
            [
                *(
                    value is not None and value < 1 and f"{name} {value} must be positive"
                    for name, value in sizes.items()
                ),
                self.noise < 0 and f"noise {self.noise} must not be negative",
                self.dropout is not None and not 0 <= self.dropout < 1 and f"dropout {self.dropout} must lie in [0, 1)",
                self.recurrent == "none"
                and self.scan != "pooled"
                and f"scan '{self.scan}' needs --recurrent rnn, gru or lstm",
                _freeze_problem(self.freeze),
            ]
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelConfig:
        """Rebuild from `to_dict`'s result, lists standing for tuples."""
        shown: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values["input"].items()
        }
        nested: dict[str, Any] = {"backbone": BackboneConfig(**values["backbone"]), "input": InputConfig(**shown)}
        labels = LabelsConfig(**values.get("labels", {}))  # absent in bundles from before there were label sets
        return cls(**{**values, **nested, "labels": labels, "freeze": tuple(values.get("freeze", cls.freeze))})


def _freeze_problem(freeze: tuple[Any, ...]) -> str | None:
    try:
        read_rules(freeze)
    except ConfigError as error:
        return str(error)
    return None
