"""SIGINT (Ctrl-C) and SIGTERM: the first signal requests a save and stop, the second one exits at once."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from tercet.core.errors import stopped_by


class StopSignal:
    """Context manager that records a signal in `requested`, for loops to check.

    Outside the main thread, where Python allows no signal handlers, it never records one.
    """

    def __init__(self) -> None:
        self.requested: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested is not None:
            os._exit(128 + number)  # safe at any time: files are replaced atomically
        self.requested = number

    def raise_if_requested(self, saved: str) -> None:
        """Raise `Interrupted` if a signal arrived; `saved` is what the message says of the saved state."""
        if self.requested is not None:
            raise stopped_by(self.requested, saved)
