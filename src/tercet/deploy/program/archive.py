"""The `.pt2` file: a zip of records, what it says about itself, and whether it is whole.

A program is code: `torch.export.load` unpickles what an archive asks it to, looks operators up by name and evaluates
text, and no check of ours could make a stranger's file safe. What is found here is damage, which PyTorch's reader does
not notice: it verifies no checksum.
"""

from __future__ import annotations

import json
import logging
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch

from tercet.ground.errors import ModelError
from tercet.ground.files import atomic_path

DOCUMENT = "tercet.json"
"""Name of the extra file that tells classes, members, combiner and versions."""
FORMAT = "tercet-torch-1"
_NOISE = (  # what the exporter says of its own parts
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    "_check_is_size will be removed",
    "The tensor attributes .* were assigned during export",
)


def save(program: torch.export.ExportedProgram, target: Path, document: dict[str, Any]) -> None:
    """Write a program and what is said about it, atomically."""
    text = json.dumps({"format": FORMAT, **document}, ensure_ascii=True)
    with atomic_path(target) as temporary, open(temporary, "wb") as stream:
        torch.export.save(program, stream, extra_files={DOCUMENT: text})


def read_document(stream: BinaryIO, name: str | Path) -> dict[str, Any]:
    """Return what a file says of itself, after checking that it is ours and whole.

    Args:
        stream: The open file.
        name: What it is called in messages.

    Raises:
        ModelError: It is not.
    """
    try:
        with zipfile.ZipFile(stream) as archive:
            damaged = archive.testzip()
            if damaged is not None:
                raise ModelError(f"{name} is damaged: '{damaged[:80]}' has changed; export the bundle again")
            told = [one for one in archive.namelist() if one.partition("/")[2] == f"extra/{DOCUMENT}"]
            if len(told) != 1:
                raise ModelError(f"{name} was not written by tercet export: it has no {DOCUMENT}")
            found = json.loads(archive.read(told[0]))
    except (zipfile.BadZipFile, EOFError, NotImplementedError, ValueError) as error:
        raise ModelError(f"{name} is no .pt2 archive, or is damaged: {error}; export the bundle again") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise ModelError(f"{name} is not of format {FORMAT}: export the bundle again with this version")
    return found


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the exporter's remarks about itself from the user; other warnings pass."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            for message in _NOISE:
                warnings.filterwarnings("ignore", message=message)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
