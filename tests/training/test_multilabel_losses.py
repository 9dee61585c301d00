"""What is minimised where images have sets of labels."""

import torch
from torch import Tensor, nn

from tercet.core.types import Batch
from tercet.training.losses import BinaryCrossEntropy, CrossEntropy, LabelSequences, count_correct

SETS = torch.tensor([[1, 0, 1], [0, 0, 0], [0, 1, 1]])


class Follower(nn.Module):
    """Gives the next label's logits from the images alone, B T+1 4, or for BCE B 3."""

    def forward(self, images: Tensor, sequence: Tensor | None = None) -> Tensor:
        logits = images.flatten(1)
        return logits[:, :3] if sequence is None else logits[:, None].expand(-1, sequence.shape[1] + 1, -1)


def batch() -> Batch:
    images = torch.randn(3, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    return Batch(images, SETS.float(), ("a", "b", "c"), SETS)


def test_every_label_by_itself_is_a_sum_over_labels_and_a_mean_over_images() -> None:
    loss, logits = BinaryCrossEntropy()(Follower(), batch())
    share = logits.sigmoid()
    by_hand = -torch.where(SETS > 0, share.log(), (1 - share).log()).sum(dim=1).mean()
    torch.testing.assert_close(loss, by_hand)


def test_a_sequence_costs_its_negative_log_probability() -> None:
    objective = LabelSequences([1, 5, 9])  # label 2 first, then 1, then 0
    loss, _ = objective(Follower(), batch())
    steps = batch().images.flatten(1).log_softmax(dim=1)
    spoken = [(2, 0, 3), (3,), (2, 1, 3)]
    by_hand = -sum(steps[row, label] for row, labels in enumerate(spoken) for label in labels) / 3
    torch.testing.assert_close(loss, by_hand)


def test_parts_of_a_batch_add_up_to_the_whole() -> None:
    for objective in (BinaryCrossEntropy(), LabelSequences([1, 5, 9])):
        whole, _ = objective(Follower(), batch())
        first, _ = objective(Follower(), batch().rows(slice(0, 2)))
        last, _ = objective(Follower(), batch().rows(slice(2, 3)))
        torch.testing.assert_close(first * 2 / 3 + last / 3, whole)


def test_a_batch_of_empty_sets_only_says_end() -> None:
    loss, logits = LabelSequences([1, 5, 9])(Follower(), batch().rows(slice(1, 2)))
    torch.testing.assert_close(loss, -batch().images.flatten(1).log_softmax(dim=1)[1, 3])
    assert logits.shape == (1, 3)


def test_right_is_the_class_or_the_whole_set() -> None:
    one_class = Batch(torch.zeros(2, 1), torch.tensor([1, 0]), ("a", "b"))
    assert count_correct(torch.tensor([[0.0, 1.0], [0.0, 1.0]]), one_class) == 1
    assert count_correct(torch.tensor([[1.0, -1.0, 1.0], [1.0, -1.0, -1.0], [-1.0, 1.0, 1.0]]), batch()) == 2
    assert count_correct(torch.zeros(2, 2), Batch(torch.zeros(2, 1), torch.full((2, 2), 0.5), ("a", "b"))) == 0
    assert CrossEntropy()(nn.Flatten(), Batch(torch.zeros(2, 2), torch.tensor([1, 0]), ("a", "b")))[0] > 0
