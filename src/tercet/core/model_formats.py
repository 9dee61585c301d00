"""Formats of exported files, detected from file names. Imports nothing heavy: every command uses it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from tercet.core.errors import ConfigError

Format = Literal["onnx", "torch"]
SUFFIXES: dict[Format, str] = {"onnx": ".onnx", "torch": ".pt2"}
"""File name suffix of each format."""


def format_of(path: object) -> Format | None:
    """Return the format of an exported file by its name; None for other names, and for folders."""
    if not isinstance(path, (str, Path)) or Path(path).is_dir():
        return None
    return next((name for name, suffix in SUFFIXES.items() if Path(path).suffix.lower() == suffix), None)


def is_onnx(path: object) -> bool:
    """Return whether the name is that of an ONNX file."""
    return format_of(path) == "onnx"


def is_program(path: object) -> bool:
    """Return whether the name is that of a torch.export program (.pt2)."""
    return format_of(path) == "torch"


def reject_program(path: object) -> None:
    """Raise if a torch.export program is given where only bundles and ONNX files are supported.

    Raises:
        ConfigError: The name is that of a torch.export program.
    """
    if is_program(path):
        raise ConfigError(
            f"{path} is a program for PyTorch (torch.export), which is not supported here: use the bundle that it "
            "was exported from, or an ONNX file (tercet export RUN model.onnx)"
        )
