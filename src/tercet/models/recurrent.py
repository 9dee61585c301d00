"""Recurrent layers over any sequence, and the module that reads a feature map with them.

Weights live in `nn.RNN`, `nn.GRU` or `nn.LSTM`, whose kernels run whenever the options are those kernels' own; for
the others `tercet.models.cells` reads the same weights, so names and shapes never depend on the options.

Initial weights are Keras': Glorot-uniform kernels, orthogonal recurrent kernels (each drawn as one matrix over all its
gates, as Keras does), zero biases but for the LSTM's forget gate, which starts at 1.

Shapes: B images, N = h w cells of a feature map, T steps, D input features, H units, F output features
(H, or 2 H in both directions).
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
_KERNELS: dict[str, Callable[..., nn.RNNBase]] = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}


class RecurrentStack(nn.Module):
    """Stacked recurrent layers; `forward` maps B T D to the last layer's final state, B F.

    Args:
        input_size: D.
        cell: Simple RNN, GRU or LSTM.
        hidden_size: H, per direction.
        num_layers: Stacked layers.
        bidirectional: Read each layer's sequence forwards and backwards, and concatenate the states.
        activation: Of the state: tanh, relu or sigmoid.
        recurrent_activation: Of the gates: sigmoid, or Keras 2.2's hard_sigmoid.
        reset_after: Whether a GRU applies the reset gate after the recurrent product, or before it (equations 10-13).
        num_biases: Bias vectors per gate, 2 as in PyTorch or 1 as in Keras: the recurrent bias becomes a fixed zero, a
            buffer that is neither learnt nor stored. The functions are the same except for a GRU that resets after the
            product, whose candidate loses the bias within the reset.
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
        """Whether PyTorch's own kernel computes these options."""
        if self.cell == "rnn":
            return self.activation in ("tanh", "relu")
        plain = self.activation == "tanh" and self.recurrent_activation == "sigmoid"
        return plain and (self.cell == "lstm" or self.reset_after)

    def forward(self, sequence: Tensor) -> Tensor:
        """Map B T D to B F."""
        if not self.fast:
            return self._loop(sequence)
        final = self.kernel(sequence)[1]
        hidden = final[0] if isinstance(final, tuple) else final  # num_layers * directions, B, H
        return torch.cat((hidden[-2], hidden[-1]), 1) if self.kernel.bidirectional else hidden[-1]

    def single_step(self, vector: Tensor) -> Tensor:
        """Map B D to B F as a sequence of one step from the zero state, without the products with that state.

        The recurrent weights cannot act; they receive a gradient of exact zeros, as they would in the full cell.
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

    def _first_state(self, vector: Tensor, kernel: Tensor, recurrent: Tensor, bias: Tensor, extra: Tensor) -> Tensor:
        act, gate = ACTIVATIONS[self.activation], RECURRENT_ACTIVATIONS[self.recurrent_activation]
        hidden_size = self.kernel.hidden_size
        if torch.is_grad_enabled() and recurrent.requires_grad and not torch.compiler.is_exporting():
            vector = vector + recurrent[:0].sum().to(vector.dtype)  # the sum of nothing: its gradient is exact zeros
        total = bias + extra
        if self.cell == "rnn":
            return act(functional.linear(vector, kernel, total))
        if self.cell == "lstm":  # the forget gate multiplies a zero
            i = functional.linear(vector, kernel[:hidden_size], total[:hidden_size])
            g, o = functional.linear(vector, kernel[2 * hidden_size :], total[2 * hidden_size :]).chunk(
                2, 1
            )  # B H each
            return gate(o) * act(gate(i) * act(g))
        if not self.reset_after:
            z, n = functional.linear(vector, kernel[hidden_size:], total[hidden_size:]).chunk(2, 1)
            return (1 - gate(z)) * act(n)
        r, z = functional.linear(vector, kernel[: 2 * hidden_size], total[: 2 * hidden_size]).chunk(2, 1)
        n = functional.linear(vector, kernel[2 * hidden_size :], bias[2 * hidden_size :])
        return (1 - gate(z)) * act(n + gate(r) * extra[2 * hidden_size :])

    def _loop(self, sequence: Tensor) -> Tensor:
        device = sequence.device.type
        if not (torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)):
            return self._layers(sequence)
        with torch.autocast(device, enabled=False):  # a sum over many steps needs all the bits
            return self._layers(sequence.to(cast("Tensor", self.kernel.weight_ih_l0).dtype))

    def _layers(self, sequence: Tensor) -> Tensor:
        steps = sequence.transpose(0, 1)  # T B D
        final: list[Tensor] = []
        for layer in range(self.kernel.num_layers):
            outputs, final = [], []
            for suffix in self._suffixes():
                read = steps.flip(0) if suffix else steps
                states = self._run(read, *self._weights(layer, suffix))  # T B H
                final.append(states[-1])
                outputs.append(states.flip(0) if suffix else states)
            steps = torch.cat(outputs, 2) if len(outputs) > 1 else outputs[0]  # T B F
        return torch.cat(final, 1) if len(final) > 1 else final[0]

    def _run(self, steps: Tensor, kernel: Tensor, recurrent: Tensor, bias: Tensor, extra: Tensor) -> Tensor:
        options = {"activation": self.activation, "recurrent_activation": self.recurrent_activation}
        if self.cell == "lstm":
            projected = functional.linear(steps, kernel, bias + extra)
            return lstm_steps(projected, recurrent, **options)
        if self.cell == "rnn":
            return rnn_steps(functional.linear(steps, kernel, bias + extra), recurrent, activation=self.activation)
        if not self.reset_after:
            projected = functional.linear(steps, kernel, bias + extra)
            return gru_before_steps(projected, recurrent, **options)
        gate_rows = 2 * self.kernel.hidden_size
        projected = functional.linear(steps, kernel, bias + functional.pad(extra[:gate_rows], (0, gate_rows // 2)))
        return gru_after_steps(projected, recurrent, extra[gate_rows:], **options)


class RecurrentModule(nn.Module):
    """The paper's recurrent module between a backbone and its head.

    `forward` takes the pooled vector B D at scan `pooled`, else the feature map B h w D, or tokens B N D in raster
    order with their grid, and returns B F: the state after the last step, both directions concatenated.

    The scans: `pooled` is one step, the pooled vector (the paper; its recurrent weights never act and get a gradient
    of exact zeros). `rows` and `columns` take one step a row or column, whose input is the mean of its cells: the row
    laid out whole would make the input w times as wide. `cells` reads all cells in raster order, `snake` in raster
    order with every second row reversed, so that neighbouring steps are neighbouring cells.

    Args:
        input_size: D.
        cell: Simple RNN, GRU or LSTM.
        scan: What the sequence is.
        hidden_size: H, per direction (default 2048, or 1024 if bidirectional: F = 2048 as in the paper).
        num_layers: Stacked layers.
        bidirectional: See `RecurrentStack`.
        activation: See `RecurrentStack`.
        recurrent_activation: See `RecurrentStack`.
        reset_after: See `RecurrentStack`.
        num_biases: See `RecurrentStack`.
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
    """Lay a feature map B h w D out as a sequence B T D (see `RecurrentModule`)."""
    if feature_map.ndim != 4:
        raise ConfigError(f"scan '{scan}' reads a feature map B h w D, got {tuple(feature_map.shape)}")
    if scan in ("rows", "columns"):
        return feature_map.mean(2 if scan == "rows" else 1)  # B h D or B w D
    cells = feature_map.flatten(1, 2)  # B N D
    if scan == "cells":
        return cells
    height, width = feature_map.shape[1:3]
    order = torch.arange(height * width, device=cells.device).view(height, width)
    order[1::2] = order[1::2].flip(1)
    return cells[:, order.flatten()]


def _fix_recurrent_biases(kernel: nn.RNNBase) -> None:
    for name in [name for name, _ in kernel.named_parameters() if name.startswith("bias_hh")]:
        zero = torch.zeros_like(getattr(kernel, name).data)
        delattr(kernel, name)
        kernel.register_buffer(name, zero, persistent=False)
    kernel._init_flat_weights()  # the kernel's own list still held the parameters


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
