"""The training loop, its callbacks and checkpoints; it works with any module and any source of batches."""

from tercet.core.torchvision_ops import declare_torchvision_operators

declare_torchvision_operators()
