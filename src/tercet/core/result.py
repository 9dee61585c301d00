"""What a verb has to say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class CommandResult:
    """What a verb has to say: once for people, once for programs."""

    text: str
    document: Any
    exit_code: int = 0
    silent: bool = False
    """Whether another process has said it already."""

    @classmethod
    def from_exit_code(cls, exit_code: int) -> CommandResult:
        """Return what is left to answer where another process did the work: its exit code."""
        return cls("", None, exit_code, silent=True)
