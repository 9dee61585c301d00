"""Row classifiers over rows, columns and single pixels, in one or both directions."""

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tercet.config.model import InputConfig, ModelConfig
from tercet.config.training import TrainingConfig
from tercet.core.errors import ConfigError
from tercet.models.build import build
from tercet.models.classifier import Classifier
from tercet.models.members import resolve_members
from tercet.models.recurrent import PixelSequence
from tercet.models.summary import count_parameters

CELLS = {"row-rnn": 1, "row-gru": 3, "row-lstm": 4}
SCANS = ("rows", "columns", "pixels")


def network(name: str, *, channels: int = 2, size: tuple[int, int] = (6, 4), **options) -> Classifier:
    return build(name, num_classes=5, config=ModelConfig(**options), channels=channels, image_size=size)


@pytest.mark.parametrize(("name", "scan", "both"), list(product(CELLS, SCANS, (False, True))))
def test_parameter_counts_follow_from_the_steps(name: str, scan: str, both: bool) -> None:
    classifier = network(name, scan=scan, bidirectional=both, hidden_size=7, head_hidden_dim=3, num_biases=1)
    inputs, directions = {"rows": 4, "columns": 6, "pixels": 1}[scan] * 2, 2 if both else 1
    layers = [inputs, 7 * directions]
    expected = sum(directions * CELLS[name] * 7 * (width + 7 + 1) for width in layers)
    assert count_parameters(classifier) == expected + (7 * directions + 1) * 3 + (3 + 1) * 5


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("row-lstm", {"scan": "pixels"}, 203_626),
        ("row-lstm", {"bidirectional": True}, 565_610),
        ("row-bilstm", {}, 565_610),
        ("row-gru", {"bidirectional": True}, 426_346),
        ("row-rnn", {"bidirectional": True}, 147_818),
    ],
)
def test_documented_parameter_counts(name: str, options: dict, expected: int) -> None:
    classifier = build(name, num_classes=10, config=ModelConfig(**options), channels=1, image_size=(28, 28))
    assert count_parameters(classifier) == expected


@settings(max_examples=20, deadline=None)
@given(scan=st.sampled_from(SCANS), channels=st.integers(1, 3), height=st.integers(1, 6), width=st.integers(1, 6))
def test_steps_hold_the_values_of_their_pixels(scan: str, channels: int, height: int, width: int) -> None:
    images = torch.arange(2.0 * channels * height * width).view(2, channels, height, width)
    sequence = PixelSequence(scan)
    steps = sequence(images)
    assert steps.shape[2] == sequence.num_inputs(channels, height, width)
    for row, column in product(range(height), range(width)):
        step, place = {"rows": (row, column), "columns": (column, row), "pixels": (row * width + column, 0)}[scan]
        pixel = images[:, :, row, column]
        assert torch.equal(steps[:, step, place * channels : (place + 1) * channels], pixel)
    assert torch.equal(sequence.to_pixels(steps, (height, width)), images.permute(0, 2, 3, 1))


@pytest.mark.parametrize("name", CELLS)
def test_columns_are_the_rows_of_the_transposed_image(name: str) -> None:
    by_row, by_column = (network(name, size=(5, 5), scan=scan).eval() for scan in ("rows", "columns"))
    by_column.load_state_dict(by_row.state_dict())
    images = torch.rand(3, 2, 5, 5)
    torch.testing.assert_close(by_column(images), by_row(images.transpose(2, 3)))


def test_both_directions_are_those_of_the_bidirectional_network() -> None:
    option, name = network("row-lstm", bidirectional=True), network("row-bilstm")
    name.load_state_dict(option.state_dict())
    images = torch.rand(2, 2, 6, 4)
    assert torch.equal(option(images), name(images))


def test_rows_are_the_default() -> None:
    assert network("row-gru").features.scan == network("row-gru", scan="rows").features.scan == "rows"


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "row-lstm",
            {"scan": "snake"},
            r"--scan has no effect on 'row-lstm' if it is snake: .* rows, columns or pixels",
        ),
        ("row-bilstm", {"bidirectional": True}, "--bidirectional has no effect on 'row-bilstm'"),
        ("small-cnn", {"scan": "rows"}, "--scan has no effect on 'small-cnn'$"),
        (
            "test_resnet",
            {"recurrent": "gru", "scan": "pixels"},
            "--scan has no effect on 'test_resnet' if it is pixels: .* pooled, rows, columns, cells or snake",
        ),
        ("test_resnet", {"scan": "rows"}, "--scan has no effect on --recurrent none"),
    ],
)
def test_scans_of_other_networks_raise(name: str, options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        network(name, **options)


def test_the_scan_of_a_run_applies_to_the_members_that_have_it() -> None:
    config = ModelConfig(
        pretrained=False, recurrent="gru", scan="cells", bidirectional=True, input=InputConfig(size=(64,))
    )
    rows, backbone = resolve_members(("row-lstm", "test_resnet"), config, TrainingConfig())
    assert (rows.model.scan, rows.model.bidirectional) == ("pooled", True)
    assert (backbone.model.scan, backbone.model.bidirectional) == ("cells", True)


def test_a_scan_that_no_member_takes_is_an_error_with_what_it_needs() -> None:
    with pytest.raises(ConfigError, match="--scan has no effect on any member: it needs --recurrent rnn, gru or lstm"):
        resolve_members(("test_resnet",), ModelConfig(pretrained=False, scan="rows"), TrainingConfig())
