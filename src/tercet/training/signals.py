"""Ctrl-C and SIGTERM: the first one asks the loop to save and leave, the second one leaves at once."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from tercet.core.errors import Interrupted


class StopSignal:
    """Context in which signals become a request that loops poll (see `check`).

    Outside the main thread, where Python allows no handlers, it never asks for anything.
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
            os._exit(128 + number)  # files are written whole or not at all, so leaving here loses nothing but time
        self.requested = number

    def check(self, what: str) -> None:
        """Raise `Interrupted` if a signal came; `what` says what was saved."""
        if self.requested is not None:
            raise Interrupted(f"stopped by {signal.Signals(self.requested).name}: {what}", self.requested)
