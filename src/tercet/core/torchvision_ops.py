"""Make timm, torchvision and lightning importable with a CPU build of torch.

The torchvision wheel is built for CUDA. With a CPU torch its binary extension does not load, and its Python code then
fails with "operator torchvision::nms does not exist", because it registers fake kernels for two undeclared operators.
Declaring their schemas is enough, since classification never calls them. If the extension loads, nothing is changed.
Modules that import timm, torchvision or lightning import this one first.
"""

from __future__ import annotations

import ctypes
import importlib.util
from pathlib import Path

import torch

_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_declared: list[torch.library.Library] = []  # operators are removed when their Library is garbage-collected


def declare_torchvision_operators() -> None:
    """Declare the schemas of `torchvision::nms` and `torchvision::qnms` unless torchvision's extension loads."""
    spec = importlib.util.find_spec("torchvision")
    if _declared or spec is None or spec.origin is None:
        return
    for library in Path(spec.origin).parent.glob("_C.*"):
        try:
            ctypes.CDLL(str(library))
        except OSError:
            continue
        return
    operators = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for name in ("nms", "qnms"):
        operators.define(name + _SCHEMA)  # type: ignore[no-untyped-call]
    _declared.append(operators)


declare_torchvision_operators()
