"""MobileNetV1 at width 0.75, which timm can generate but has no name for.

Importing this module enters `mobilenetv1_075` in timm's registry. No weights are published under that name: give a
file, or train from scratch.
"""

from __future__ import annotations

from typing import Any

from timm.models import generate_default_cfgs, register_model
from timm.models.efficientnet import EfficientNet, _gen_mobilenet_v1

default_cfgs = generate_default_cfgs(
    {
        "mobilenetv1_075": {
            "num_classes": 1000,
            "input_size": (3, 224, 224),
            "pool_size": (7, 7),
            "interpolation": "bicubic",
            "mean": (0.5, 0.5, 0.5),
            "std": (0.5, 0.5, 0.5),
            "first_conv": "conv_stem",
            "classifier": "classifier",
        }
    }
)


@register_model  # type: ignore[untyped-decorator]
def mobilenetv1_075(pretrained: bool = False, **kwargs: Any) -> EfficientNet:
    """Return MobileNetV1 with three quarters of the channels (arXiv:1704.04861); keywords as in timm."""
    return _gen_mobilenet_v1("mobilenetv1_075", 0.75, pretrained=pretrained, **kwargs)
