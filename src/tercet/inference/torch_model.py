"""A loaded torch.export program (.pt2): load only files from trusted sources."""

from __future__ import annotations

import json
import logging
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tercet.core.errors import DataError, ModelError
from tercet.core.files import atomic_path
from tercet.data.decode import open_regular
from tercet.inference.exported_model import ExportedModel, require_fields, runtime_error

DOCUMENT = "tercet.json"
"""Name of the extra file with the metadata: classes, members, combiner, versions."""
FORMAT = "tercet-torch-1"
_IGNORED_WARNINGS = (  # about internals of the exporter
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    "_check_is_size will be removed",
    "The tensor attributes .* were assigned during export",
)


def save_program(program: torch.export.ExportedProgram, target: Path, document: dict[str, Any]) -> None:
    """Write a program and its metadata atomically."""
    text = json.dumps({"format": FORMAT, **document}, ensure_ascii=True)
    with atomic_path(target) as temporary, open(temporary, "wb") as stream:
        torch.export.save(program, stream, extra_files={DOCUMENT: text})


def read_program_document(stream: BinaryIO, name: str | Path) -> dict[str, Any]:
    """Return the metadata of a program after verifying the checksums of the archive.

    Args:
        stream: The open file.
        name: Name of the file in messages.

    Raises:
        ModelError: The file is not from `tercet export`, or is damaged.
    """
    try:
        with zipfile.ZipFile(stream) as archive:
            damaged = archive.testzip()
            if damaged is not None:
                raise ModelError(f"{name} is damaged: '{damaged[:80]}' has changed; export the bundle again")
            paths = [path for path in archive.namelist() if path.partition("/")[2] == f"extra/{DOCUMENT}"]
            if len(paths) != 1:
                raise ModelError(f"{name} was not written by tercet export: it has no {DOCUMENT}")
            metadata = json.loads(archive.read(paths[0]))
    except (zipfile.BadZipFile, EOFError, NotImplementedError, ValueError) as error:
        raise ModelError(f"{name} is not a .pt2 archive, or is damaged: {error}; export the bundle again") from error
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        raise ModelError(f"{name} is not of format {FORMAT}: export the bundle again with this version")
    return metadata


@contextmanager
def quiet_exporter() -> Iterator[None]:
    """Silence warnings about internals of PyTorch's exporter."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            for message in _IGNORED_WARNINGS:
                warnings.filterwarnings("ignore", message=message)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


class TorchModel(ExportedModel):
    """An exported ensemble that runs in PyTorch; create it with `load`.

    Args:
        program: Takes images, returns the outputs by name.
        metadata: Metadata of the file.
        path: Path of the file, for messages.
    """

    runtime = "PyTorch, exported"

    def __init__(
        self, program: Callable[[Tensor], Mapping[str, Tensor]], metadata: Mapping[str, Any], path: Path
    ) -> None:
        super().__init__(metadata, path)
        self._program = program

    @classmethod
    def load(cls, path: str | Path) -> TorchModel:
        """Load a file that `tercet export --format torch` wrote, and run it on one black image.

        Loading may execute code from the file, as with any torch.export program.

        Raises:
            ModelError: The file is not from `tercet export`, is damaged, or does not run.
            MemoryExhausted: There is not enough memory.
        """
        try:
            with open_regular(Path(path)) as stream:
                document = read_program_document(stream, path)
                require_fields(document, path)
                stream.seek(0)
                with quiet_exporter():
                    program: Any = torch.export.load(stream).module()
        except DataError as error:
            raise ModelError(str(error)) from error
        except ModelError:
            raise
        except Exception as error:  # torch.export has no common exception class
            raise runtime_error(path, error, memory_message=f"not enough memory to load {path}") from error
        model = cls(program, document, Path(path))
        model.run(np.zeros((1, 8, 8, 3), dtype=np.uint8))
        return model

    @torch.inference_mode()
    def _run(self, images: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        return {name: value.numpy() for name, value in self._program(torch.tensor(images)).items()}
