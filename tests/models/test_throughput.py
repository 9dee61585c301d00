import torch
from torch import nn

from tercet.core.types import Batch
from tercet.models.forward import images_per_second


class Slow(nn.Module):
    """Counts its passes, and whether each was in evaluation mode without gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)
        self.passes: list[bool] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.passes.append(not self.training and not torch.is_grad_enabled())
        return self.layer(images)  # type: ignore[no-any-return]


def test_a_few_passes_are_timed_and_nothing_is_left_changed() -> None:
    module = Slow().train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    speed = images_per_second(module, Batch(torch.rand(8, 4), None, tuple("abcdefgh")))
    assert speed > 0
    assert 5 <= len(module.passes) <= 22 and all(module.passes)
    assert module.training
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
