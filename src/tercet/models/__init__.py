"""Floor 2: networks: timm backbones, recurrent parts, row classifiers, small networks, heads and fusion."""

from tercet.ground._compat import declare_torchvision_operators

declare_torchvision_operators()
