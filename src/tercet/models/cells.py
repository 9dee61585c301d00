"""Recurrent cells step by step, for activations that PyTorch's kernels do not have.

Every function takes the products of all inputs with the input weights, computed beforehand in one matrix product, and
adds the recurrent part step by step. Gates are stacked in PyTorch's order: LSTM i f g o, GRU r z n. The numbers of the
equations are the paper's.

Shapes: T steps, B sequences, H units, G gates (1 simple RNN, 3 GRU, 4 LSTM).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Pointwise = Callable[[Tensor], Tensor]


def hard_sigmoid(values: Tensor) -> Tensor:
    """Return clip(0.2 x + 0.5, 0, 1), the gate activation of Keras 2.2; PyTorch's `hardsigmoid` has slope 1/6."""
    return (0.2 * values + 0.5).clamp(0.0, 1.0)


ACTIVATIONS: dict[str, Pointwise] = {"tanh": torch.tanh, "relu": torch.relu, "sigmoid": torch.sigmoid}
RECURRENT_ACTIVATIONS: dict[str, Pointwise] = {"sigmoid": torch.sigmoid, "hard_sigmoid": hard_sigmoid}


def rnn_steps(projected: Tensor, recurrent: Tensor, *, activation: str) -> Tensor:
    """Simple RNN (equation 1): h = act(W x + U h).

    Args:
        projected: T B H, W x with all biases.
        recurrent: H H.
        activation: Name in `ACTIVATIONS`.

    Returns:
        States, T B H.
    """
    act, weight = ACTIVATIONS[activation], recurrent.t()
    state = projected.new_zeros(projected.shape[1], recurrent.shape[1])
    states = []
    for step in projected.unbind(0):
        state = act(torch.addmm(step, state, weight))
        states.append(state)
    return torch.stack(states)


def lstm_steps(projected: Tensor, recurrent: Tensor, *, activation: str, recurrent_activation: str) -> Tensor:
    """LSTM (equations 4-9): c = f c + i act(g), h = o act(c).

    Args:
        projected: T B 4H, W x with all biases.
        recurrent: 4H H.
        activation: Name in `ACTIVATIONS`, of the candidate g and of the cell state c.
        recurrent_activation: Name in `RECURRENT_ACTIVATIONS`.

    Returns:
        States, T B H.
    """
    act, gate, weight = ACTIVATIONS[activation], RECURRENT_ACTIVATIONS[recurrent_activation], recurrent.t()
    state = cell = projected.new_zeros(projected.shape[1], recurrent.shape[1])
    states = []
    for step in projected.unbind(0):
        i, f, g, o = torch.addmm(step, state, weight).chunk(4, 1)  # B H each
        cell = gate(f) * cell + gate(i) * act(g)
        state = gate(o) * act(cell)
        states.append(state)
    return torch.stack(states)


def gru_after_steps(
    projected: Tensor, recurrent: Tensor, candidate_bias: Tensor, *, activation: str, recurrent_activation: str
) -> Tensor:
    """GRU with the reset gate after the recurrent product, as in PyTorch and Keras 3: n = act(W x + r (U h + b)).

    Args:
        projected: T B 3H, W x with all biases except `candidate_bias`.
        recurrent: 3H H.
        candidate_bias: H, the recurrent bias b of the candidate n, which the reset gate multiplies.
        activation: Name in `ACTIVATIONS`.
        recurrent_activation: Name in `RECURRENT_ACTIVATIONS`.

    Returns:
        States, T B H, with h = (1 - z) n + z h.
    """
    act, gate, weight = ACTIVATIONS[activation], RECURRENT_ACTIVATIONS[recurrent_activation], recurrent.t()
    hidden_size = recurrent.shape[1]
    state = projected.new_zeros(projected.shape[1], hidden_size)
    states = []
    for step in projected.unbind(0):
        product = state @ weight  # B 3H
        r, z = gate(step[:, : 2 * hidden_size] + product[:, : 2 * hidden_size]).chunk(2, 1)
        candidate = act(step[:, 2 * hidden_size :] + r * (product[:, 2 * hidden_size :] + candidate_bias))
        state = torch.lerp(candidate, state, z)
        states.append(state)
    return torch.stack(states)


def gru_before_steps(projected: Tensor, recurrent: Tensor, *, activation: str, recurrent_activation: str) -> Tensor:
    """GRU with the reset gate before the recurrent product (equations 10-13, Keras 2.2): n = act(W x + U (r h)).

    The paper prints h = (1 - z) h + z n; here, as in Keras and PyTorch, h = (1 - z) n + z h. The two differ
    only in the sign of the update gate's weights.

    Args:
        projected: T B 3H, W x with all biases.
        recurrent: 3H H.
        activation: Name in `ACTIVATIONS`.
        recurrent_activation: Name in `RECURRENT_ACTIVATIONS`.

    Returns:
        States, T B H.
    """
    act, gate = ACTIVATIONS[activation], RECURRENT_ACTIVATIONS[recurrent_activation]
    hidden_size = recurrent.shape[1]
    gate_weight, candidate_weight = recurrent[: 2 * hidden_size].t(), recurrent[2 * hidden_size :].t()
    state = projected.new_zeros(projected.shape[1], hidden_size)
    states = []
    for step in projected.unbind(0):
        r, z = gate(torch.addmm(step[:, : 2 * hidden_size], state, gate_weight)).chunk(2, 1)
        candidate = act(torch.addmm(step[:, 2 * hidden_size :], r * state, candidate_weight))
        state = torch.lerp(candidate, state, z)
        states.append(state)
    return torch.stack(states)
