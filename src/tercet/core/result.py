"""Results of commands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class CommandResult:
    """Result of a command, as text and as a JSON document."""

    text: str
    document: Any
    exit_code: int = 0
    silent: bool = False
    """Whether a child process has already printed the result."""

    @classmethod
    def from_exit_code(cls, exit_code: int) -> CommandResult:
        """Return the result of a command that ran in a child process."""
        return cls("", None, exit_code, silent=True)
