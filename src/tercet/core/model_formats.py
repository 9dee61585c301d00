"""The forms that a bundle can be exported to, told by the names of their files; light, as every command asks."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from tercet.core.errors import ConfigError

Format = Literal["onnx", "torch"]
SUFFIXES: dict[Format, str] = {"onnx": ".onnx", "torch": ".pt2"}
"""How the files of each form end."""


def format_of(path: object) -> Format | None:
    """Return the form of an exported file by its name; None for any other name, and for folders."""
    if not isinstance(path, (str, Path)) or Path(path).is_dir():
        return None
    return next((form for form, suffix in SUFFIXES.items() if Path(path).suffix.lower() == suffix), None)


def is_onnx(path: object) -> bool:
    """Tell by its name whether a user means an exported ONNX file."""
    return format_of(path) == "onnx"


def is_program(path: object) -> bool:
    """Tell by its name whether a user means an exported program of PyTorch."""
    return format_of(path) == "torch"


def reject_program(path: object) -> None:
    """Refuse a program of PyTorch where only bundles and ONNX files answer.

    Raises:
        ConfigError: It is one.
    """
    if is_program(path):
        raise ConfigError(
            f"{path} is a program for PyTorch (torch.export.load): here use the bundle that it was exported from, "
            "or an ONNX file (tercet export RUN model.onnx)"
        )
