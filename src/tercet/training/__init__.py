"""Floor 3: the training loop and its stages; it knows neither data sets nor networks, only modules and batches."""

from tercet.ground._compat import declare_torchvision_operators

declare_torchvision_operators()  # lightning imports torchvision
