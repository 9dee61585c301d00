"""The label decoder: beam search against exhaustive search, probabilities, and use in networks."""

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
    decoder = LabelDecoder(6, LABELS, LabelsConfig(decoder="cnn-rnn", embedding_dim=8, hidden_size=5)).eval()
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.mul_(4)  # so that the probabilities of sequences differ
    return decoder


@pytest.fixture
def features() -> Tensor:
    return torch.randn(7, 6, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def log_probability(decoder: LabelDecoder, features: Tensor, order: tuple[int, ...]) -> Tensor:
    """Return the log probability of a sequence and END for each image."""
    sequence = torch.tensor(order, dtype=torch.int64).expand(len(features), -1)
    steps = decoder(features, sequence).log_softmax(dim=2)
    return sum(steps[:, index, label] for index, label in enumerate((*order, LABELS)))


@torch.no_grad()
def greedy(decoder: LabelDecoder, image: Tensor) -> tuple[tuple[int, ...], float]:
    """Greedy search for a single image: the most probable label at each step, until END."""
    sequence: list[int] = []
    total = 0.0
    while True:
        step = decoder(image[None], torch.tensor([sequence], dtype=torch.int64))[0, -1].log_softmax(dim=0)
        label = int(step.argmax())
        total += float(step[label])
        if label == LABELS:
            return tuple(sequence), total
        sequence.append(label)


def label_sets(chosen: Tensor) -> list[set[int]]:
    return [set(torch.nonzero(row).flatten().tolist()) for row in chosen]


def test_the_probabilities_of_all_sequences_sum_to_one(decoder, features):
    total = torch.stack([log_probability(decoder, features, order) for order in ALL]).logsumexp(dim=0)
    torch.testing.assert_close(total, torch.zeros(len(features)), atol=1e-5, rtol=0)


def test_a_beam_of_all_sequences_is_exhaustive_search(decoder, features):
    log_probabilities = torch.stack([log_probability(decoder, features, order) for order in ALL])  # 65 B
    decoded = decoder.search(features, beam_size=len(ALL))
    torch.testing.assert_close(decoded.log_probability, log_probabilities.amax(dim=0))
    assert label_sets(decoded.chosen) == [set(ALL[index]) for index in log_probabilities.argmax(dim=0).tolist()]


def test_a_beam_of_one_is_greedy_search(decoder, features):
    decoded = decoder.search(features, beam_size=1)
    expected = [greedy(decoder, image) for image in features]
    assert label_sets(decoded.chosen) == [set(order) for order, _ in expected]
    torch.testing.assert_close(decoded.log_probability, torch.tensor([total for _, total in expected]))
    assert len({order for order, _ in expected}) > 1  # the sequences depend on the image


@pytest.mark.parametrize("beam", [1, 2, 3, 8])
def test_search_returns_the_probability_of_its_sequence(decoder, features, beam):
    decoded = decoder.search(features, beam_size=beam)
    log_probabilities = torch.stack([log_probability(decoder, features, order) for order in ALL])
    assert (decoded.log_probability <= log_probabilities.amax(dim=0) + 1e-5).all()
    for row, labels in enumerate(label_sets(decoded.chosen)):
        orders = [index for index, order in enumerate(ALL) if set(order) == labels]
        assert any(abs(log_probabilities[index, row] - decoded.log_probability[row]) < 1e-4 for index in orders)


def test_search_is_independent_per_image(decoder, features):
    together = decoder.search(features, beam_size=3)
    for row in range(len(features)):
        single = decoder.search(features[row : row + 1], beam_size=3)
        torch.testing.assert_close(single.peaks[0], together.peaks[row])
        assert torch.equal(single.chosen[0], together.chosen[row])


def test_logits_are_positive_for_the_chosen_labels_only(decoder, features):
    logits = decoder(features)
    decoded = decoder.search(features, beam_size=2)
    assert torch.equal(logits > 0, decoded.chosen) and torch.isfinite(logits).all()
    scores = logits.sigmoid()
    torch.testing.assert_close(scores[decoded.chosen], 0.5 + decoded.peaks[decoded.chosen] / 2, atol=1e-5, rtol=0)


def test_labels_of_the_prefix_have_probability_zero(decoder, features):
    steps = decoder(features, torch.tensor([[2, 0, LABELS]]).expand(len(features), -1))
    assert torch.isinf(steps[:, 1:, 2]).all() and torch.isinf(steps[:, 2:, 0]).all()
    assert torch.isfinite(steps[:, :, [1, 3, LABELS]]).all()


def test_sequences_are_ordered_by_frequency_and_padded_with_end():
    targets = torch.tensor([[1, 0, 1, 1], [0, 0, 0, 0], [0, 1, 0, 1]], dtype=torch.float32)
    assert LabelSequences([5, 1, 9, 7]).sequences(targets).tolist() == [[2, 3, 0], [4, 4, 4], [3, 1, 4]]
    assert LabelSequences([5, 1, 9, 7]).sequences(targets[1:2]).shape == (1, 0)


@pytest.mark.parametrize("network", ["small-cnn", "row-gru", "test_resnet"])
def test_every_kind_of_network_supports_the_decoder(network):
    options = {} if network != "test_resnet" else {"pretrained": False, "head": "linear"}
    config = ModelConfig(labels=LabelsConfig(decoder="cnn-rnn", embedding_dim=4, hidden_size=6), **options)
    classifier = build(network, num_classes=5, config=config, channels=1, image_size=(32, 32)).eval()
    assert classifier(torch.rand(3, 1, 32, 32)).shape == (3, 5)
    assert classifier(torch.rand(3, 1, 32, 32), torch.tensor([[1, 5], [0, 2], [5, 5]])).shape == (3, 3, 6)
    summary = summarize(classifier)
    assert summary["parameters"] == sum(parameter.numel() for parameter in classifier.parameters())
    assert summary["flops"] > 0 and summary["classes"] == 5
