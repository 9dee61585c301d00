"""What a verb has to say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Answer:
    """What a verb has to say: once for people, once for programs."""

    text: str
    document: Any
    exit_code: int = 0
