"""The training loop, its callbacks and checkpoints; it works with any module and any source of batches."""
