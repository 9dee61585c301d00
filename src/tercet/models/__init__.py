"""Networks: timm backbones, recurrent modules, row classifiers, small networks, heads; and inference with them."""
