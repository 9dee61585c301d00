"""The training loop: stages, callbacks, checkpoints. It depends on modules and batches only."""

from tercet.core.torchvision_ops import declare_torchvision_operators

declare_torchvision_operators()
