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
        self._lock = threading.Lock()

    def change(self, count: int) -> None:
        """Take bytes, or give them back where `count` is negative.

        Raises:
            Busy: They are not there at the moment.
        """
        with self._lock:
            if count > 0 and self.held + count > self.total:
                raise Busy("the server is busy: try again", reason="memory", close=True)
            self.held += count


class Lease:
    """What one request, or one image, holds of the budget; given back at the end of the block.

    Args:
        memory: The budget.
    """

    def __init__(self, memory: Memory) -> None:
        self._memory, self.held = memory, 0

    def resize(self, count: int) -> None:
        """Hold `count` bytes from now on.

        Raises:
            Busy: They are not there at the moment.
        """
        self._memory.change(count - self.held)
        self.held = count

    def close(self) -> None:
        """Give everything back; twice does no harm."""
        self.resize(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
