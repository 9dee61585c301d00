"""The label decoder: its search against exhaustive search, its probabilities, and its place in a network."""

import itertools

import pytest
import torch
from torch import Tensor

from tercet.config.model import LabelsConfig, ModelConfig
from tercet.models.build import build
from tercet.models.label_decoder import LabelDecoder
from tercet.models.summary import summarize
from tercet.training.losses import LabelSequences

LABELS = 4
ALL = [order for size in range(LABELS + 1) for order in itertools.permutations(range(LABELS), size)]  # 65 sequences


@pytest.fixture
def decoder() -> LabelDecoder:
    torch.manual_seed(3)
    made = LabelDecoder(6, LABELS, LabelsConfig(decoder="cnn-rnn", embedding_dim=8, hidden_size=5)).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(4)  # far from even, so that sequences differ
    return made


@pytest.fixture
def features() -> Tensor:
    return torch.randn(7, 6, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def log_probability(decoder: LabelDecoder, features: Tensor, order: tuple[int, ...]) -> Tensor:
    """Return the log probability of one sequence and its END for each image, label by label."""
    sequence = torch.tensor(order, dtype=torch.int64).expand(len(features), -1)
    steps = decoder(features, sequence).log_softmax(dim=2)
    return sum(steps[:, place, label] for place, label in enumerate((*order, LABELS)))


@torch.no_grad()
def greedy(decoder: LabelDecoder, image: Tensor) -> tuple[tuple[int, ...], float]:
    """Name the most probable label until END is it: one image, the plain way."""
    named: list[int] = []
    total = 0.0
    while True:
        step = decoder(image[None], torch.tensor([named], dtype=torch.int64))[0, -1].log_softmax(dim=0)
        label = int(step.argmax())
        total += float(step[label])
        if label == LABELS:
            return tuple(named), total
        named.append(label)


def chosen(found: Tensor) -> list[set[int]]:
    return [set(torch.nonzero(row).flatten().tolist()) for row in found]


def test_the_probabilities_of_all_sequences_sum_to_one(decoder, features):
    total = torch.stack([log_probability(decoder, features, order) for order in ALL]).logsumexp(dim=0)
    torch.testing.assert_close(total, torch.zeros(len(features)), atol=1e-5, rtol=0)


def test_a_wide_beam_is_exhaustive(decoder, features):
    every = torch.stack([log_probability(decoder, features, order) for order in ALL])  # 65 B
    found = decoder.search(features, beam_size=len(ALL))
    torch.testing.assert_close(found.log_probability, every.amax(dim=0))
    assert chosen(found.chosen) == [set(ALL[index]) for index in every.argmax(dim=0).tolist()]


def test_a_beam_of_one_is_greedy(decoder, features):
    found = decoder.search(features, beam_size=1)
    plain = [greedy(decoder, image) for image in features]
    assert chosen(found.chosen) == [set(order) for order, _ in plain]
    torch.testing.assert_close(found.log_probability, torch.tensor([total for _, total in plain]))
    assert len({order for order, _ in plain}) > 1  # the images are told apart


@pytest.mark.parametrize("beam", [1, 2, 3, 8])
def test_what_is_found_has_the_probability_that_is_told(decoder, features, beam):
    found = decoder.search(features, beam_size=beam)
    every = torch.stack([log_probability(decoder, features, order) for order in ALL])
    assert (found.log_probability <= every.amax(dim=0) + 1e-5).all()
    for row, said in enumerate(chosen(found.chosen)):
        orders = [index for index, order in enumerate(ALL) if set(order) == said]
        assert any(abs(every[index, row] - found.log_probability[row]) < 1e-4 for index in orders)


def test_images_do_not_disturb_each_other(decoder, features):
    together = decoder.search(features, beam_size=3)
    for row in range(len(features)):
        alone = decoder.search(features[row : row + 1], beam_size=3)
        torch.testing.assert_close(alone.peaks[0], together.peaks[row])
        assert torch.equal(alone.chosen[0], together.chosen[row])


def test_logits_are_positive_for_the_chosen_labels_only(decoder, features):
    logits = decoder(features)
    found = decoder.search(features, beam_size=2)
    assert torch.equal(logits > 0, found.chosen) and torch.isfinite(logits).all()
    scores = logits.sigmoid()
    torch.testing.assert_close(scores[found.chosen], 0.5 + found.peaks[found.chosen] / 2, atol=1e-5, rtol=0)


def test_what_is_named_is_never_named_again(decoder, features):
    steps = decoder(features, torch.tensor([[2, 0, LABELS]]).expand(len(features), -1))
    assert torch.isinf(steps[:, 1:, 2]).all() and torch.isinf(steps[:, 2:, 0]).all()
    assert torch.isfinite(steps[:, :, [1, 3, LABELS]]).all()


def test_sequences_are_frequent_first_and_padded_with_end():
    sets = torch.tensor([[1, 0, 1, 1], [0, 0, 0, 0], [0, 1, 0, 1]], dtype=torch.float32)
    assert LabelSequences([5, 1, 9, 7]).sequences(sets).tolist() == [[2, 3, 0], [4, 4, 4], [3, 1, 4]]
    assert LabelSequences([5, 1, 9, 7]).sequences(sets[1:2]).shape == (1, 0)


@pytest.mark.parametrize("network", ["small-cnn", "row-gru", "test_resnet"])
def test_every_network_can_carry_it(network):
    options = {} if network != "test_resnet" else {"pretrained": False, "head": "linear"}
    config = ModelConfig(labels=LabelsConfig(decoder="cnn-rnn", embedding_dim=4, hidden_size=6), **options)
    made = build(network, num_classes=5, config=config, channels=1, image_size=(32, 32)).eval()
    assert made(torch.rand(3, 1, 32, 32)).shape == (3, 5)
    assert made(torch.rand(3, 1, 32, 32), torch.tensor([[1, 5], [0, 2], [5, 5]])).shape == (3, 3, 6)
    summary = summarize(made)
    assert summary["parameters"] == sum(parameter.numel() for parameter in made.parameters())
    assert summary["flops"] > 0 and summary["classes"] == 5
