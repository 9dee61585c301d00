"""Losses for multi-label images."""

import dataclasses

import torch
from torch import Tensor, nn

from tercet.core.types import Batch
from tercet.training.losses import BinaryCrossEntropy, LabelSequences, SingleLabel, count_correct

TARGETS = torch.tensor([[1, 0, 1], [0, 0, 0], [0, 1, 1]])


class PixelLogits(nn.Module):
    """Returns the pixels as logits: B 3, or with a sequence B T+1 4."""

    def forward(self, images: Tensor, sequence: Tensor | None = None) -> Tensor:
        logits = images.flatten(1)
        return logits[:, :3] if sequence is None else logits[:, None].expand(-1, sequence.shape[1] + 1, -1)


def batch() -> Batch:
    images = torch.randn(3, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    return Batch(images, TARGETS.float(), ("a", "b", "c"), TARGETS)


def test_binary_cross_entropy_sums_labels_and_averages_images() -> None:
    loss, logits = BinaryCrossEntropy()(PixelLogits(), batch())
    probabilities = logits.sigmoid()
    expected = -torch.where(TARGETS > 0, probabilities.log(), (1 - probabilities).log()).sum(dim=1).mean()
    torch.testing.assert_close(loss, expected)


def test_the_loss_of_a_sequence_is_its_negative_log_probability() -> None:
    objective = LabelSequences([1, 5, 9])  # label 2 first, then 1, then 0
    loss, _ = objective(PixelLogits(), batch())
    steps = batch().images.flatten(1).log_softmax(dim=1)
    sequences = [(2, 0, 3), (3,), (2, 1, 3)]
    expected = -sum(steps[row, label] for row, labels in enumerate(sequences) for label in labels) / 3
    torch.testing.assert_close(loss, expected)


def test_losses_of_micro_batches_add_up() -> None:
    for objective in (BinaryCrossEntropy(), LabelSequences([1, 5, 9])):
        expected, _ = objective(PixelLogits(), batch())
        first, _ = objective(PixelLogits(), batch().rows(slice(0, 2)))
        last, _ = objective(PixelLogits(), batch().rows(slice(2, 3)))
        torch.testing.assert_close(first * 2 / 3 + last / 3, expected)


def test_weights_multiply_the_losses_of_the_images() -> None:
    weights = torch.tensor([0.5, 2.0, 1.0])
    for objective in (BinaryCrossEntropy(), LabelSequences([1, 5, 9])):
        losses = torch.stack([objective(PixelLogits(), batch().rows(slice(row, row + 1)))[0] for row in range(3)])
        weighted, _ = objective(PixelLogits(), dataclasses.replace(batch(), weights=weights))
        torch.testing.assert_close(weighted, (losses * weights).mean())


def test_images_without_labels_have_the_loss_of_end_alone() -> None:
    loss, logits = LabelSequences([1, 5, 9])(PixelLogits(), batch().rows(slice(1, 2)))
    torch.testing.assert_close(loss, -batch().images.flatten(1).log_softmax(dim=1)[1, 3])
    assert logits.shape == (1, 3)


def test_correct_means_the_class_or_all_labels() -> None:
    single_label = Batch(torch.zeros(2, 1), torch.tensor([1, 0]), ("a", "b"))
    assert count_correct(torch.tensor([[0.0, 1.0], [0.0, 1.0]]), single_label) == 1
    assert count_correct(torch.tensor([[1.0, -1.0, 1.0], [1.0, -1.0, -1.0], [-1.0, 1.0, 1.0]]), batch()) == 2
    assert count_correct(torch.zeros(2, 2), Batch(torch.zeros(2, 1), torch.full((2, 2), 0.5), ("a", "b"))) == 0
    assert SingleLabel()(nn.Flatten(), Batch(torch.zeros(2, 2), torch.tensor([1, 0]), ("a", "b")))[0] > 0
