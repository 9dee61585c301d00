import pytest
from hypothesis import given
from hypothesis import strategies as st

from tercet.ground.errors import ConfigError
from tercet.models.build import build
from tercet.models.matching import find_knob, match_parameters
from tercet.models.summary import count_parameters
from tercet.records.model_config import InputConfig, ModelConfig


def counter(network: str):  # type: ignore[no-untyped-def]
    def count(config: ModelConfig) -> int:
        built = build(network, num_classes=3, config=config, channels=1, image_size=(20, 20), load_weights=False)
        return count_parameters(built)

    return count


@pytest.mark.parametrize(
    ("network", "config", "knob"),
    [
        ("row-lstm", ModelConfig(), "units"),
        ("row-bilstm", ModelConfig(layers=3), "units"),
        ("row-gru", ModelConfig(bias="single"), "units"),
        ("test_resnet", ModelConfig(pretrained=False, recurrent="lstm", directions="both"), "units"),
        ("test_resnet", ModelConfig(pretrained=False, recurrent="rnn", layers=2, head="linear"), "units"),
        ("test_resnet", ModelConfig(pretrained=False), "dense"),
        ("test_resnet", ModelConfig(pretrained=False, head="mlp"), "dense"),
    ],
    ids=["lstm", "three layers", "single bias", "bilstm module", "two-layer module", "paper head", "mlp head"],
)
def test_the_nearest_width_is_found(network: str, config: ModelConfig, knob: str) -> None:
    count = counter(network)
    match = match_parameters(network, config, 600_000, count=count)
    assert match.knob == knob
    assert count(match.config) == match.parameters
    assert abs(match.parameters - 600_000) <= 0.05 * 600_000
    around = [count(ModelConfig(**{**vars(config), knob: match.width + step})) for step in (-1, 1)]
    assert abs(match.parameters - 600_000) <= min(abs(size - 600_000) for size in around)
    assert match.deviation == pytest.approx(match.parameters / 600_000 - 1)


@given(st.integers(1, 300))
def test_a_width_is_found_again(width: int) -> None:
    def count(config: ModelConfig) -> int:
        units = config.units or 0
        return 8 * units * units + 124 * units + 4321  # as an LSTM between two fixed layers

    target = count(ModelConfig(units=width))
    assert match_parameters("row-lstm", ModelConfig(), target, count=count).width == width


def test_a_network_with_nothing_to_turn_is_refused() -> None:
    config = ModelConfig(pretrained=False, head="linear", input=InputConfig(size=(32,)))
    assert find_knob("test_resnet", config) is None
    with pytest.raises(ConfigError, match="'test_resnet' cannot be brought to 1,000 parameters: neither --units"):
        match_parameters("test_resnet", config, 1000, count=counter("test_resnet"))


def test_a_size_out_of_reach_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"within 5 %: with --dense 1 it has [\d,]+"):
        match_parameters("small-cnn", ModelConfig(), 1000, count=counter("small-cnn"))
