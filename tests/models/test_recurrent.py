"""Recurrent layers against a slow reference, and the scans of the recurrent module."""

import copy
import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tercet.core.errors import ConfigError
from tercet.models.recurrent import RecurrentModule, RecurrentStack, scan_sequence

OPTIONS = [
    *({"cell": "rnn", "activation": activation} for activation in ("tanh", "relu", "sigmoid")),
    *(
        {"cell": "lstm", "activation": activation, "recurrent_activation": gates}
        for activation, gates in itertools.product(("tanh", "relu", "sigmoid"), ("sigmoid", "hard_sigmoid"))
    ),
    *(
        {"cell": "gru", "activation": activation, "recurrent_activation": gates, "reset_after": after}
        for activation, gates, after in itertools.product(("tanh", "relu"), ("sigmoid", "hard_sigmoid"), (True, False))
    ),
]
SCANS = ("rows", "columns", "cells", "snake")
CELLS = ("rnn", "gru", "lstm")


def label(value: dict[str, Any] | int) -> str:
    return "-".join(map(str, value.values())) if isinstance(value, dict) else f"{value} biases"


def randomized(module: nn.Module) -> nn.Module:
    """Set every parameter, including biases, to random values."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.uniform_(-0.6, 0.6)
    return module.double()


def reference_step(
    options: dict[str, Any], weights: list[Tensor], x: Tensor, h: Tensor, c: Tensor
) -> tuple[Tensor, Tensor]:
    """One step of one sample, gate by gate as in the equations."""
    activation = {"tanh": torch.tanh, "relu": torch.relu, "sigmoid": torch.sigmoid}[options["activation"]]
    hard = options.get("recurrent_activation") == "hard_sigmoid"
    gate = (lambda v: (0.2 * v + 0.5).clamp(0, 1)) if hard else torch.sigmoid
    w, u, b, a = weights
    n = len(h)

    def gate_sum(k: int, state: Tensor) -> Tensor:
        rows = slice(k * n, (k + 1) * n)
        return w[rows] @ x + b[rows] + u[rows] @ state + a[rows]

    if options["cell"] == "rnn":
        return activation(gate_sum(0, h)), c
    if options["cell"] == "lstm":
        c = gate(gate_sum(1, h)) * c + gate(gate_sum(0, h)) * activation(gate_sum(2, h))
        return gate(gate_sum(3, h)) * activation(c), c
    r, z = gate(gate_sum(0, h)), gate(gate_sum(1, h))
    if not options["reset_after"]:
        candidate = activation(gate_sum(2, r * h))
    else:
        candidate = activation(w[2 * n :] @ x + b[2 * n :] + r * (u[2 * n :] @ h + a[2 * n :]))
    return (1 - z) * candidate + z * h, c


def reference(stack: RecurrentStack, options: dict[str, Any], sequences: Tensor) -> Tensor:
    """The final states of B sequences, sample by sample, step by step."""
    suffixes = ("", "_reverse") if stack.kernel.bidirectional else ("",)
    names = ("weight_ih_l", "weight_hh_l", "bias_ih_l", "bias_hh_l")
    results = []
    for sequence in sequences:
        inputs = list(sequence)
        for layer in range(stack.kernel.num_layers):
            outputs, final = [], []
            for suffix in suffixes:
                weights = [getattr(stack.kernel, f"{name}{layer}{suffix}") for name in names]
                h = c = torch.zeros(stack.kernel.hidden_size, dtype=sequence.dtype)
                states = []
                for x in inputs[::-1] if suffix else inputs:
                    h, c = reference_step(options, weights, x, h, c)
                    states.append(h)
                final.append(h)
                outputs.append(states[::-1] if suffix else states)
            inputs = [torch.cat(step) for step in zip(*outputs, strict=True)]
        results.append(torch.cat(final))
    return torch.stack(results)


@pytest.mark.parametrize(
    ("options", "num_biases"),
    [*((options, 2) for options in OPTIONS), *((options, 1) for options in OPTIONS if options["activation"] == "tanh")],
    ids=label,
)
def test_layers_equal_the_equations(options, num_biases):
    stack = randomized(
        RecurrentStack(3, hidden_size=4, num_layers=2, bidirectional=True, num_biases=num_biases, **options)
    )
    sequences = torch.randn(2, 5, 3, dtype=torch.double)
    torch.testing.assert_close(stack(sequences), reference(stack, options, sequences))


@pytest.mark.parametrize("options", OPTIONS, ids=label)
def test_a_single_step_equals_the_full_cell_with_zero_recurrent_gradients(options):
    stack = randomized(RecurrentStack(3, hidden_size=4, num_layers=2, bidirectional=True, **options))
    vectors = torch.randn(2, 3, dtype=torch.double)
    output = stack.single_step(vectors)
    output.square().sum().backward()
    gradients = {name: parameter.grad.clone() for name, parameter in stack.kernel.named_parameters()}
    stack.zero_grad()
    full = stack(vectors.unsqueeze(1))
    torch.testing.assert_close(output, full)
    full.square().sum().backward()
    for name, parameter in stack.kernel.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, msg=name)
        assert name.startswith("weight_hh") != bool(gradients[name].any()), name


@pytest.mark.parametrize("options", [option for option in OPTIONS if option["activation"] != "relu"], ids=label)
def test_gradients_equal_finite_differences(options):
    stack = randomized(RecurrentStack(2, hidden_size=2, **options))
    names = [name for name, _ in stack.named_parameters()]

    def run(sequence: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(stack, dict(zip(names, values, strict=True)), (sequence,))

    values = [parameter.detach().clone().requires_grad_() for parameter in stack.parameters()]
    assert torch.autograd.gradcheck(run, (torch.randn(2, 3, 2, dtype=torch.double, requires_grad=True), *values))


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("scan", SCANS)
def test_scans_depend_on_order_and_train_the_recurrent_weights(cell, scan):
    module = RecurrentModule(5, cell=cell, scan=scan, hidden_size=6, bidirectional=True)
    feature_map = torch.randn(2, 3, 4, 5)
    output = module(feature_map)
    assert output.shape == (2, 12)
    assert not torch.allclose(output, module(feature_map.flip(1, 2)), atol=1e-4)
    output.sum().backward()
    assert all(p.grad.abs().sum() > 0 for name, p in module.named_parameters() if "weight_hh" in name)


@pytest.mark.parametrize("cell", CELLS)
def test_bidirectional_concatenates_forward_and_backward_states(cell):
    bidirectional = RecurrentStack(3, cell=cell, hidden_size=4, bidirectional=True)
    forward, backward = (RecurrentStack(3, cell=cell, hidden_size=4) for _ in range(2))
    weights = bidirectional.kernel.state_dict()
    forward.kernel.load_state_dict({name: value for name, value in weights.items() if "reverse" not in name})
    backward.kernel.load_state_dict(
        {name.removesuffix("_reverse"): value for name, value in weights.items() if "reverse" in name}
    )
    sequence = torch.randn(2, 5, 3)
    torch.testing.assert_close(bidirectional(sequence), torch.cat((forward(sequence), backward(sequence.flip(1))), 1))


@settings(max_examples=15, deadline=None)
@given(height=st.integers(1, 5), width=st.integers(1, 5))
def test_scans_have_the_documented_order(height, width):
    cells = torch.arange(height * width, dtype=torch.float).view(1, height, width, 1)
    grid = cells[0, :, :, 0]
    assert torch.equal(scan_sequence(cells, "cells")[0, :, 0], grid.flatten())
    torch.testing.assert_close(scan_sequence(cells, "rows")[0, :, 0], grid.mean(1))
    torch.testing.assert_close(scan_sequence(cells, "columns")[0, :, 0], grid.mean(0))
    snake = scan_sequence(cells, "snake")[0, :, 0].long()
    assert sorted(snake.tolist()) == list(range(height * width))
    rows, columns = snake // width, snake % width
    assert bool(((rows.diff().abs() + columns.diff().abs()) == 1).all())  # successive cells are neighbours


def test_tokens_with_a_grid_equal_the_feature_map():
    module = RecurrentModule(5, cell="gru", scan="snake", hidden_size=4)
    feature_map = torch.randn(2, 3, 4, 5)
    assert torch.equal(module(feature_map.flatten(1, 2), (3, 4)), module(feature_map))


def test_a_scan_without_a_feature_map_raises():
    with pytest.raises(ConfigError, match="feature map"):
        RecurrentModule(5, cell="gru", scan="rows", hidden_size=4)(torch.randn(2, 5))


@pytest.mark.parametrize(
    ("cell", "width", "expected"),
    [("rnn", 1024, 6_293_504), ("rnn", 2048, 8_390_656), ("gru", 1024, 18_880_512), ("gru", 1536, 22_026_240)],
)
def test_parameter_counts_of_the_paper(cell, width, expected):
    with torch.device("meta"):
        module = RecurrentModule(width, cell=cell, num_biases=1, reset_after=False)
    assert module.output_size == 2048
    assert sum(parameter.numel() for parameter in module.parameters()) == expected


@pytest.mark.parametrize(("width", "expected"), [(1024, 16_785_408), (1536, 20_979_712), (2048, 25_174_016)])
def test_parameter_counts_of_the_bidirectional_lstm(width, expected):
    for num_biases, extra in ((1, 0), (2, 8_192)):
        with torch.device("meta"):
            module = RecurrentModule(width, cell="lstm", bidirectional=True, num_biases=num_biases)
        assert module.output_size == 2048
        assert sum(parameter.numel() for parameter in module.parameters()) == expected + extra


@pytest.mark.parametrize("cell", CELLS)
def test_a_single_bias_survives_copies_casts_and_training(cell):
    stack = RecurrentStack(3, cell=cell, hidden_size=4, num_biases=1, bidirectional=True)
    sequence = torch.randn(2, 5, 3)
    expected = stack(sequence)
    assert not any("bias_hh" in name for name in [*dict(stack.named_parameters()), *stack.state_dict()])

    loaded = RecurrentStack(3, cell=cell, hidden_size=4, num_biases=1, bidirectional=True)
    loaded.load_state_dict(stack.state_dict())
    torch.testing.assert_close(loaded(sequence), expected)
    torch.testing.assert_close(copy.deepcopy(stack)(sequence), expected)
    cast = copy.deepcopy(stack).double()
    torch.testing.assert_close(cast(sequence.double()), expected.double(), atol=1e-6, rtol=1e-5)
    assert cast.kernel.bias_hh_l0.dtype == torch.double

    optimizer = torch.optim.SGD(stack.parameters(), lr=0.5)
    stack(sequence).square().sum().backward()
    optimizer.step()
    assert not stack.kernel.bias_hh_l0.any()
    assert not torch.allclose(stack(sequence), expected)


@pytest.mark.parametrize("options", [{"cell": "lstm"}, {"cell": "lstm", "activation": "relu"}], ids=label)
def test_autocast_gives_close_outputs(options):
    stack = RecurrentStack(3, hidden_size=4, **options)
    sequence = torch.randn(2, 5, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert stack.single_step(sequence[:, 0]).shape == (2, 4)
        if stack.fast and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            with pytest.raises(RuntimeError, match="primitive"):  # `choose_precision` tries this before training
                stack(sequence)
            return
        output = stack(sequence)
    torch.testing.assert_close(output.float(), stack(sequence), atol=2e-2, rtol=2e-2)


def test_initial_weights_equal_those_of_keras():
    stack = RecurrentStack(20, cell="lstm", hidden_size=30)
    kernel = stack.kernel
    limit = (6 / (20 + 4 * 30)) ** 0.5
    assert 0.9 * limit < kernel.weight_ih_l0.abs().max() <= limit
    torch.testing.assert_close(kernel.weight_hh_l0.T @ kernel.weight_hh_l0, torch.eye(30), atol=1e-5, rtol=0)
    assert torch.equal(kernel.bias_ih_l0, torch.cat((torch.zeros(30), torch.ones(30), torch.zeros(60))))
    assert not kernel.bias_hh_l0.any()
