"""The recurrent equations, step by step, for the activations that the fast kernels do not have.

Every function takes the input's part of all steps, computed beforehand in one product, and adds the state's part
step by step. Gates are stacked as PyTorch stacks them: LSTM i f g o, GRU r z n.

Shapes: T steps, B sequences, H units, G gates (1 simple RNN, 3 GRU, 4 LSTM).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Pointwise = Callable[[Tensor], Tensor]


def hard_sigmoid(values: Tensor) -> Tensor:
    """Return clip(0.2 x + 0.5, 0, 1), the gate of Keras 2.2 (PyTorch's `hardsigmoid` has slope 1/6)."""
    return (0.2 * values + 0.5).clamp(0.0, 1.0)


ACTIVATIONS: dict[str, Pointwise] = {"tanh": torch.tanh, "relu": torch.relu, "sigmoid": torch.sigmoid}
RECURRENT_ACTIVATIONS: dict[str, Pointwise] = {"sigmoid": torch.sigmoid, "hard_sigmoid": hard_sigmoid}


def rnn_steps(projected: Tensor, recurrent: Tensor, *, activation: str) -> Tensor:
    """Simple RNN (equation 1): h = act(x + W h).

    Args:
        projected: T B H, the input's part with every bias.
        recurrent: H H.
        activation: Name in `ACTIVATIONS`.

    Returns:
        The states, T B H.
    """
    act, weight = ACTIVATIONS[activation], recurrent.t()
    state = projected.new_zeros(projected.shape[1], recurrent.shape[1])
    states = []
    for step in projected.unbind(0):
        state = act(torch.addmm(step, state, weight))
        states.append(state)
    return torch.stack(states)


def lstm_steps(projected: Tensor, recurrent: Tensor, *, activation: str, recurrent_activation: str) -> Tensor:
    """LSTM (equations 4-9): c = f c + i act(g), h = o act(c); autograd follows every step.

    Args:
        projected: T B 4H, the input's part with every bias.
        recurrent: 4H H.
        activation: Name in `ACTIVATIONS`, for the candidate and for the cell's output.
        recurrent_activation: Name in `RECURRENT_ACTIVATIONS`.

    Returns:
        The states, T B H.
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
    """GRU that resets after the recurrent product: n = act(x_n + r (W_n h + b_n)), as PyTorch and Keras 3 do.

    Args:
        projected: T B 3H, the input's part with every bias but `candidate_bias`.
        recurrent: 3H H.
        candidate_bias: H, the bias b_n that the reset gate multiplies.
        activation: Name in `ACTIVATIONS`.
        recurrent_activation: Name in `RECURRENT_ACTIVATIONS`.

    Returns:
        The states, T B H, with h = (1 - z) n + z h.
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
    """GRU that resets before the recurrent product (equations 10-13, Keras 2.2): n = act(x_n + W_n (r h)).

    The paper prints h = (1 - z) h + z n; here, as in Keras and PyTorch, h = (1 - z) n + z h. The two differ by the
    sign of the update gate's weights alone.

    Args:
        projected: T B 3H, the input's part with every bias.
        recurrent: 3H H.
        activation: Name in `ACTIVATIONS`.
        recurrent_activation: Name in `RECURRENT_ACTIVATIONS`.

    Returns:
        The states, T B H.
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
