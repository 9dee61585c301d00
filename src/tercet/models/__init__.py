"""Networks: timm backbones, recurrent modules, row classifiers, small networks, heads; and inference with them."""

from tercet.core.torchvision_ops import declare_torchvision_operators

declare_torchvision_operators()
