"""File lock between processes; the system releases it when its process ends, even by a crash."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path

_CANNOT_LOCK = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # some network file systems; no locking there


class FileLock:
    """Lock between processes, for use in a `with` statement.

    The file contains the process ID of the owner, for messages only: IDs are reused and differ between machines.

    Args:
        path: Lock file in an existing folder; deleted on release.
        busy: Called with the process ID of the owner if another process holds the lock; raises to give up, returns to
            wait.
    """

    def __init__(self, path: Path, busy: Callable[[str], None]) -> None:
        self.path = path
        self.waited = False
        """Whether the lock had to be waited for."""
        self._busy = busy
        self._descriptor = -1

    def __enter__(self) -> FileLock:
        while True:
            descriptor = os.open(self.path, os.O_CREAT | os.O_RDWR, 0o666)
            try:
                self._claim(descriptor)
            except BaseException:
                os.close(descriptor)
                raise
            if self._is_current(descriptor):
                break
            os.close(descriptor)  # the previous owner deleted the file between open and lock
        os.ftruncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode())
        self._descriptor = descriptor
        return self

    def __exit__(self, *_: object) -> None:
        self.path.unlink(missing_ok=True)
        os.close(self._descriptor)

    def _claim(self, descriptor: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.waited = True
            self._busy(os.read(descriptor, 20).decode("ascii", "replace") or "unknown")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in _CANNOT_LOCK:
                raise

    def _is_current(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), os.stat(self.path))
        except FileNotFoundError:
            return False
