"""Exported files of every form: loaded by their names, and where their proofs lie."""

from __future__ import annotations

from pathlib import Path

from tercet.deploy.export.verification import Respondent
from tercet.deploy.exported import ExportedModel
from tercet.deploy.formats import is_program
from tercet.deploy.program.loaded import LoadedProgram


def load_file(path: str | Path, *, threads: int | None = None) -> Respondent:
    """Load what `tercet export` wrote.

    Args:
        path: The file.
        threads: Threads an answer (default: one a core); a program has those of PyTorch.

    Raises:
        ModelError: It cannot be used.
        ConfigError: What runs it is not installed.
    """
    return LoadedProgram.load(path) if is_program(path) else ExportedModel.load(path, threads=threads)


def proof_of(file: Path) -> Path:
    """Return where the verification of a file lies."""
    return file.with_name(f"{file.name}.verify.json")
