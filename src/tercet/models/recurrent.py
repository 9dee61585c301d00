"""Recurrent layers over sequences, and the module that scans a feature map with them.

The weights are those of `nn.RNN`, `nn.GRU` or `nn.LSTM`, whose fast kernels run for all options that they support. For
other options `tercet.models.cells` computes with the same weights, so that names and shapes do not depend on options.

Initial weights are those of Keras: Glorot-uniform kernels, orthogonal recurrent kernels (drawn as one matrix over all
gates), zero biases except for the forget gate of the LSTM, which starts at 1.

Shapes: B images, h x w feature map with N = h w cells, T steps, D input features, H units, F output features (H, or
2 H if bidirectional).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from tercet.core.errors import ConfigError
from tercet.models.cells import (
    ACTIVATIONS,
    RECURRENT_ACTIVATIONS,
    gru_after_steps,
    gru_before_steps,
    lstm_steps,
    rnn_steps,
)

Cell = Literal["rnn", "gru", "lstm"]
Scan = Literal["pooled", "rows", "columns", "cells", "snake"]
PixelScan = Literal["rows", "columns", "pixels"]
_KERNELS: dict[str, Callable[..., nn.RNNBase]] = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}


class RecurrentStack(nn.Module):
    """Stacked recurrent layers: B T D to the final state of the last layer, B F.

    Args:
        input_size: D.
        cell: Simple RNN, GRU or LSTM.
        hidden_size: H, per direction.
        num_layers: Number of layers.
        bidirectional: Concatenate the states of a forward and a backward layer.
        activation: Activation of the state: tanh, relu or sigmoid.
        recurrent_activation: Activation of the gates: sigmoid, or hard_sigmoid as in Keras 2.2.
        reset_after: Whether a GRU applies the reset gate after the recurrent product, or before it (equations 10-13).
        num_biases: Bias vectors per gate: 2 as in PyTorch, or 1 as in Keras, where the recurrent bias is a zero buffer
            that is neither trained nor saved. The two are equivalent except for a GRU with `reset_after`, whose
            candidate then has no bias inside the reset.
    """

    def __init__(
        self,
        input_size: int,
        *,
        cell: Cell,
        hidden_size: int,
        num_layers: int = 1,
        bidirectional: bool = False,
        activation: str = "tanh",
        recurrent_activation: str = "sigmoid",
        reset_after: bool = True,
        num_biases: Literal[1, 2] = 2,
    ) -> None:
        super().__init__()
        self.cell, self.activation = cell, activation
        self.recurrent_activation, self.reset_after = recurrent_activation, reset_after
        self.output_size = hidden_size * (2 if bidirectional else 1)
        options: dict[str, Any] = {"batch_first": True, "bidirectional": bidirectional}
        if cell == "rnn" and activation in ("tanh", "relu"):
            options["nonlinearity"] = activation
        self.kernel: nn.RNNBase = _KERNELS[cell](input_size, hidden_size, num_layers, **options)
        if num_biases == 1:
            _fix_recurrent_biases(self.kernel)
        _initialize(self.kernel)

    @property
    def fast(self) -> bool:
        """Whether PyTorch's kernel supports the options."""
        if self.cell == "rnn":
            return self.activation in ("tanh", "relu")
        default = self.activation == "tanh" and self.recurrent_activation == "sigmoid"
        return default and (self.cell == "lstm" or self.reset_after)

    def forward(self, sequence: Tensor) -> Tensor:
        """Map B T D to B F."""
        if not self.fast:
            return self._loop(sequence)
        final = self.kernel(sequence)[1]
        hidden = final[0] if isinstance(final, tuple) else final  # num_layers * directions, B, H
        return torch.cat((hidden[-2], hidden[-1]), 1) if self.kernel.bidirectional else hidden[-1]

    def single_step(self, vector: Tensor) -> Tensor:
        """Map B D to B F as a sequence of one step from the zero state, without the recurrent products.

        The recurrent weights have no effect; they get gradients of exact zeros, as they would in the full cell.
        """
        for layer in range(self.kernel.num_layers):
            states = [self._first_state(vector, *self._weights(layer, suffix)) for suffix in self._suffixes()]
            vector = torch.cat(states, 1)  # B F
        return vector

    def _suffixes(self) -> tuple[str, ...]:
        return ("", "_reverse") if self.kernel.bidirectional else ("",)

    def _weights(self, layer: int, suffix: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        names = ("weight_ih_l", "weight_hh_l", "bias_ih_l", "bias_hh_l")
        kernel, recurrent, bias, recurrent_bias = (getattr(self.kernel, f"{name}{layer}{suffix}") for name in names)
        return kernel, recurrent, bias, recurrent_bias

    def _first_state(
        self, vector: Tensor, kernel: Tensor, recurrent: Tensor, bias: Tensor, recurrent_bias: Tensor
    ) -> Tensor:
        act, gate = ACTIVATIONS[self.activation], RECURRENT_ACTIVATIONS[self.recurrent_activation]
        hidden_size = self.kernel.hidden_size
        if torch.is_grad_enabled() and recurrent.requires_grad and not torch.compiler.is_exporting():
            vector = vector + recurrent[:0].sum().to(vector.dtype)  # an empty sum is 0, with zero gradients
        total_bias = bias + recurrent_bias
        if self.cell == "rnn":
            return act(functional.linear(vector, kernel, total_bias))
        if self.cell == "lstm":  # the forget gate has no effect: c is zero
            i = functional.linear(vector, kernel[:hidden_size], total_bias[:hidden_size])
            rest = functional.linear(vector, kernel[2 * hidden_size :], total_bias[2 * hidden_size :])
            g, o = rest.chunk(2, 1)  # B H each
            return gate(o) * act(gate(i) * act(g))
        if not self.reset_after:
            z, n = functional.linear(vector, kernel[hidden_size:], total_bias[hidden_size:]).chunk(2, 1)
            return (1 - gate(z)) * act(n)
        r, z = functional.linear(vector, kernel[: 2 * hidden_size], total_bias[: 2 * hidden_size]).chunk(2, 1)
        n = functional.linear(vector, kernel[2 * hidden_size :], bias[2 * hidden_size :])
        return (1 - gate(z)) * act(n + gate(r) * recurrent_bias[2 * hidden_size :])

    def _loop(self, sequence: Tensor) -> Tensor:
        device = sequence.device.type
        if not (torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)):
            return self._layers(sequence)
        with torch.autocast(device, enabled=False):  # rounding errors of bf16 would add up over the steps
            return self._layers(sequence.to(cast("Tensor", self.kernel.weight_ih_l0).dtype))

    def _layers(self, sequence: Tensor) -> Tensor:
        steps = sequence.transpose(0, 1)  # T B D
        final: list[Tensor] = []
        for layer in range(self.kernel.num_layers):
            outputs, final = [], []
            for suffix in self._suffixes():
                ordered = steps.flip(0) if suffix else steps
                states = self._run(ordered, *self._weights(layer, suffix))  # T B H
                final.append(states[-1])
                outputs.append(states.flip(0) if suffix else states)
            steps = torch.cat(outputs, 2) if len(outputs) > 1 else outputs[0]  # T B F
        return torch.cat(final, 1) if len(final) > 1 else final[0]

    def _run(self, steps: Tensor, kernel: Tensor, recurrent: Tensor, bias: Tensor, recurrent_bias: Tensor) -> Tensor:
        """Map T B D to the states T B H of one layer in one direction."""
        options = {"activation": self.activation, "recurrent_activation": self.recurrent_activation}
        if self.cell == "gru" and self.reset_after:
            gate_rows = 2 * self.kernel.hidden_size
            bias = bias + functional.pad(recurrent_bias[:gate_rows], (0, gate_rows // 2))  # without the candidate's
            projected = functional.linear(steps, kernel, bias)
            return gru_after_steps(projected, recurrent, recurrent_bias[gate_rows:], **options)
        projected = functional.linear(steps, kernel, bias + recurrent_bias)
        if self.cell == "rnn":
            return rnn_steps(projected, recurrent, activation=self.activation)
        if self.cell == "lstm":
            return lstm_steps(projected, recurrent, **options)
        return gru_before_steps(projected, recurrent, **options)


class RecurrentModule(nn.Module):
    """The paper's recurrent module between a backbone and its head.

    The input is the pooled vector B D for the scan `pooled`, else the feature map B h w D, or tokens B N D in raster
    order with their grid. The output B F is the state after the last step.

    `pooled` is a single step, the pooled vector, as in the paper; its recurrent weights have no effect and get zero
    gradients. `rows` and `columns` have one step per row or column, whose input is the mean of its cells, because their
    concatenation would make the input w times as wide. `cells` has one step per cell in raster order; `snake` reverses
    every second row, so that successive steps are neighbouring cells.

    Args:
        input_size: D.
        cell: Simple RNN, GRU or LSTM.
        scan: The sequence.
        hidden_size: H, per direction (default 2048, or 1024 if bidirectional: F = 2048 as in the paper).
        num_layers: Number of layers (for this and the following options see `RecurrentStack`).
        bidirectional: Both directions.
        activation: Activation of the state.
        recurrent_activation: Activation of the gates.
        reset_after: Position of the reset gate of a GRU.
        num_biases: Bias vectors per gate.
    """

    def __init__(
        self,
        input_size: int,
        *,
        cell: Cell,
        scan: Scan = "pooled",
        hidden_size: int | None = None,
        num_layers: int = 1,
        bidirectional: bool = False,
        activation: str = "tanh",
        recurrent_activation: str = "sigmoid",
        reset_after: bool = True,
        num_biases: Literal[1, 2] = 2,
    ) -> None:
        super().__init__()
        self.scan: Scan = scan
        self.stack = RecurrentStack(
            input_size,
            cell=cell,
            hidden_size=hidden_size or (1024 if bidirectional else 2048),
            num_layers=num_layers,
            bidirectional=bidirectional,
            activation=activation,
            recurrent_activation=recurrent_activation,
            reset_after=reset_after,
            num_biases=num_biases,
        )
        self.output_size = self.stack.output_size

    def forward(self, features: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        """Map B D, B h w D, or B N D with `grid` = (h, w), to B F."""
        if self.scan == "pooled":
            return self.stack.single_step(features)
        if features.ndim == 3 and grid is not None:
            features = features.reshape(-1, *grid, features.shape[2])  # B h w D
        return self.stack(scan_sequence(features, self.scan))  # type: ignore[no-any-return]


def scan_sequence(feature_map: Tensor, scan: Scan) -> Tensor:
    """Return a feature map B h w D as a sequence B T D (see `RecurrentModule`)."""
    if feature_map.ndim != 4:
        raise ConfigError(f"scan '{scan}' needs a feature map B h w D, got {tuple(feature_map.shape)}")
    if scan in ("rows", "columns"):
        return feature_map.mean(2 if scan == "rows" else 1)  # B h D or B w D
    cells = feature_map.flatten(1, 2)  # B N D
    if scan == "cells":
        return cells
    height, width = feature_map.shape[1:3]
    order = torch.arange(height * width, device=cells.device).view(height, width)
    order[1::2] = order[1::2].flip(1)
    return cells[:, order.flatten()]


class PixelSequence(nn.Module):
    """Turns images B C H W into sequences of pixels: rows B H (W C), columns B W (H C), or pixels B (H W) C.

    Args:
        scan: Steps of the sequence; single pixels are in raster order.
    """

    def __init__(self, scan: PixelScan = "rows") -> None:
        super().__init__()
        self.scan: PixelScan = scan

    def num_inputs(self, channels: int, height: int, width: int) -> int:
        """Return the number of values of a step."""
        return {"rows": width, "columns": height, "pixels": 1}[self.scan] * channels

    def forward(self, images: Tensor) -> Tensor:
        """Map B C H W to B T D."""
        if self.scan == "pixels":
            return images.flatten(2).transpose(1, 2)  # B C (H W) to B (H W) C
        order = (0, 2, 3, 1) if self.scan == "rows" else (0, 3, 2, 1)
        return images.permute(order).flatten(2)  # B H W C to B H (W C), or B W H C to B W (H C)

    def to_pixels(self, sequence: Tensor, size: tuple[int, int]) -> Tensor:
        """Map B T D back to images B H W C of H x W pixels."""
        if self.scan == "columns":
            return sequence.reshape(len(sequence), size[1], size[0], -1).transpose(1, 2)  # B W H C to B H W C
        return sequence.reshape(len(sequence), *size, -1)

    def extra_repr(self) -> str:
        """Return the scan for `repr`."""
        return f"scan={self.scan}"


def _fix_recurrent_biases(kernel: nn.RNNBase) -> None:
    for name in [name for name, _ in kernel.named_parameters() if name.startswith("bias_hh")]:
        zero = torch.zeros_like(getattr(kernel, name).data)
        delattr(kernel, name)
        kernel.register_buffer(name, zero, persistent=False)
    kernel._init_flat_weights()  # the kernel's list still refers to the parameters


@torch.no_grad()
def _initialize(kernel: nn.RNNBase) -> None:
    for name, parameter in kernel.named_parameters():
        if name.startswith("weight_ih"):
            nn.init.xavier_uniform_(parameter)
        elif name.startswith("weight_hh"):
            nn.init.orthogonal_(parameter)
        else:
            parameter.zero_()
            if name.startswith("bias_ih") and isinstance(kernel, nn.LSTM):
                parameter[kernel.hidden_size : 2 * kernel.hidden_size] = 1.0
