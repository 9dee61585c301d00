"""Matching parameter counts by one width."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tercet.config.model import InputConfig, ModelConfig
from tercet.core.errors import ConfigError
from tercet.models.build import build
from tercet.models.summary import count_parameters, find_width_option, match_parameters


def counter(network: str):  # type: ignore[no-untyped-def]
    def count(config: ModelConfig) -> int:
        classifier = build(network, num_classes=3, config=config, channels=1, image_size=(20, 20), load_weights=False)
        return count_parameters(classifier)

    return count


@pytest.mark.parametrize(
    ("network", "config", "option"),
    [
        ("row-lstm", ModelConfig(), "hidden_size"),
        ("row-bilstm", ModelConfig(num_layers=3), "hidden_size"),
        ("row-gru", ModelConfig(num_biases=1), "hidden_size"),
        ("test_resnet", ModelConfig(pretrained=False, recurrent="lstm", bidirectional=True), "hidden_size"),
        ("test_resnet", ModelConfig(pretrained=False, recurrent="rnn", num_layers=2, head="linear"), "hidden_size"),
        ("test_resnet", ModelConfig(pretrained=False), "head_hidden_dim"),
        ("test_resnet", ModelConfig(pretrained=False, head="mlp"), "head_hidden_dim"),
    ],
    ids=["lstm", "three layers", "single bias", "bilstm module", "two-layer module", "paper head", "mlp head"],
)
def test_the_closest_width_is_chosen(network: str, config: ModelConfig, option: str) -> None:
    count = counter(network)
    match = match_parameters(network, config, 600_000, count=count)
    assert match.option == option
    assert count(match.config) == match.parameters
    assert abs(match.parameters - 600_000) <= 0.05 * 600_000
    around = [count(ModelConfig(**{**vars(config), option: match.width + step})) for step in (-1, 1)]
    assert abs(match.parameters - 600_000) <= min(abs(size - 600_000) for size in around)
    assert match.deviation == pytest.approx(match.parameters / 600_000 - 1)


@given(st.integers(1, 300))
def test_the_exact_width_is_recovered(width: int) -> None:
    def count(config: ModelConfig) -> int:
        size = config.hidden_size or 0
        return 8 * size * size + 124 * size + 4321  # as an LSTM between two fixed layers

    target = count(ModelConfig(hidden_size=width))
    assert match_parameters("row-lstm", ModelConfig(), target, count=count).width == width


def test_a_network_without_an_adjustable_width_raises() -> None:
    config = ModelConfig(pretrained=False, head="linear", input=InputConfig(size=(32,)))
    assert find_width_option("test_resnet", config) is None
    with pytest.raises(ConfigError, match="'test_resnet' has no adjustable width"):
        match_parameters("test_resnet", config, 1000, count=counter("test_resnet"))


def test_an_unreachable_count_raises_with_the_closest() -> None:
    with pytest.raises(ConfigError, match=r"within 5 %: with --head-hidden-dim 1 it has [\d,]+"):
        match_parameters("small-cnn", ModelConfig(), 1000, count=counter("small-cnn"))
