"""A budget of bytes for uploads and images, so that many clients cannot take all memory of the machine."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

from tercet.deploy.serving.refusals import Busy


class Memory:
    """Bytes that may be held at once.

    Args:
        total: The budget.
    """

    def __init__(self, total: int) -> None:
        self.total, self.held = total, 0
        self.lock = threading.Lock()


class Lease:
    """What one request, or one image, holds of the budget; given back at the end of the block.

    Args:
        memory: The budget.
    """

    def __init__(self, memory: Memory) -> None:
        self._memory, self.held, self._closed = memory, 0, False

    def resize(self, count: int) -> None:
        """Hold `count` bytes from now on.

        Raises:
            Busy: They are not there at the moment, or the lease has ended: a thread may still be at work for a client
                that has left.
        """
        with self._memory.lock:
            more = count - self.held
            if self._closed or (more > 0 and self._memory.held + more > self._memory.total):
                raise Busy("the server is busy: try again", reason="memory", close=True)
            self._memory.held += more
            self.held = count

    def close(self) -> None:
        """Give everything back, for good."""
        with self._memory.lock:
            self._memory.held -= self.held
            self.held, self._closed = 0, True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
