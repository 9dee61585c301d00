"""A verb in a process of its own: the parent hands on signals as words, and what it starts ends with it.

Parent and child share a pair of sockets. The parent writes the number of each signal that it got, the child tells once
that it is ready, and the end of the stream tells each that the other has gone, however it went. Words are counted where
signals are not: a process manager may signal both processes, and a terminal their group.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import FrameType, TracebackType
from typing import Any, Self, cast

from tercet.core.errors import Interrupted

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""The signals that ask a process to end in good order."""
_VARIABLE = "TERCET_CHILD"  # how a process is told that it is one
_PATIENCE = 2  # signals; a child that is still there at the next one is killed
_ORPHANED = 1  # exit code, which nobody reads


def tercet_command(*words: str) -> list[str]:
    """Return the command that runs `tercet` with these words; the folder it stands in is no place of modules."""
    return [sys.executable, "-P", "-m", "tercet", *words]


class ChildProcess:
    """A started process, seen from its parent.

    Args:
        command: What to run; a `ParentLink` should be taken there.
        descriptors: Open files that it gets, by name.
        silent: Whether nothing of its standard output is wanted.
        told: What else it is told, as JSON holds it.
    """

    def __init__(
        self, command: Sequence[str], *, descriptors: dict[str, int] | None = None, silent: bool = False, **told: Any
    ) -> None:
        self._end, other = socket.socketpair()
        with other:
            given = {"leash": other.fileno(), **(descriptors or {})}
            self.served = 0.0
            """Seconds that it was ready for; known after its end."""
            self._ready_since: float | None = None
            self.process = subprocess.Popen(
                command,
                pass_fds=list(given.values()),
                stdout=subprocess.DEVNULL if silent else None,
                env={**os.environ, _VARIABLE: json.dumps({**told, **given, "descriptors": [*given]})},
                start_new_session=True,  # so that a Ctrl-C reaches it once, through us
            )

    def tell(self, number: int) -> None:
        """Hand on a signal; a child that has gone needs none."""
        with suppress(OSError):
            self._end.send(bytes([number]), socket.MSG_DONTWAIT)

    def fileno(self) -> int:
        """Return the descriptor that can be read when there is something to hear."""
        return self._end.fileno()

    def hear(self) -> int | None:
        """Take what it says, and return its exit code where it has ended: minus its number where a signal did that."""
        try:
            said = self._end.recv(64)
        except OSError:  # not all of ours was read
            said = b""
        if said:
            self._ready_since = time.monotonic()
            return None
        self._end.close()
        code = self.process.wait()
        if self._ready_since is not None:
            self.served = time.monotonic() - self._ready_since
        return code


class SignalForwarder:
    """Hands the signals of this process on to its child; within the block they end nothing here.

    Args:
        heard: Is called with each signal that comes while there is a child; it may not wait for a lock.
    """

    def __init__(self, heard: Callable[[], object] = lambda: None) -> None:
        self.signals: list[int] = []
        """What has come."""
        self._heard, self._child = heard, cast("ChildProcess | None", None)
        self._untold: deque[int] = deque()
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._main = threading.current_thread() is threading.main_thread()  # no other may set handlers
        if self._main:
            self._previous = {number: signal.signal(number, self._handle) for number in STOP_SIGNALS}
            self._waker = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._main:
            signal.set_wakeup_fd(self._waker)
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        os.close(self._read)
        os.close(self._write)

    def wait(self, child: ChildProcess) -> int:
        """Wait for a child's end, and return its exit code: minus the number of a signal that nobody sent on purpose.

        Raises:
            Interrupted: A signal ended it before it was ready, or by force.
        """
        self._child = child
        self._hand_on()  # what came before there was a child
        code = None
        while code is None:
            if child.fileno() in self._wait_for(child.fileno()):
                code = child.hear()
        self._child = None
        asked = self.signals[0] if self.signals else 0
        if asked and (code == 128 + asked or (code < 0 and len(self.signals) > _PATIENCE)):
            raise _stopped_by(asked)
        if -code in STOP_SIGNALS:  # someone knows the child
            raise _stopped_by(-code)
        return code

    def pause(self, seconds: float) -> None:
        """Wait; a signal ends it.

        Raises:
            Interrupted: One has come.
        """
        end = time.monotonic() + seconds
        while not self.signals and (left := end - time.monotonic()) > 0:
            self._wait_for(seconds=left)
        if self.signals:
            raise _stopped_by(self.signals[0])

    def _wait_for(self, *others: int, seconds: float | None = None) -> set[int]:
        """Wait until one of the descriptors can be read or a signal comes, and return those that can.

        A call of the system that is about to wait would not notice a signal that came just before, nor one that another
        thread was given. So the interpreter writes each into a pipe.
        """
        poll = select.poll()
        for one in (self._read, *others):
            poll.register(one, select.POLLIN)
        found = {one for one, _ in poll.poll(None if seconds is None else max(1, seconds * 1000))}
        if self._read in found:
            os.read(self._read, 512)
        return found

    def _handle(self, number: int, frame: FrameType | None) -> None:
        """Note a signal. It comes between any two instructions, so that nothing here may wait for a lock."""
        self.signals.append(number)
        if self._child is not None and len(self.signals) > _PATIENCE:
            self._child.process.kill()
            return
        self._untold.append(number)
        self._hand_on()
        if self._child is not None:
            self._heard()

    def _hand_on(self) -> None:
        while self._child is not None and self._untold:
            self._child.send_signal(self._untold.popleft())


def signal_name(number: int) -> str:
    """Return a signal's name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _stopped_by(number: int) -> Interrupted:
    return Interrupted(f"stopped by {'Ctrl-C' if number == signal.SIGINT else signal_name(number)}", number)


@dataclass(eq=False)
class ParentLink:
    """What binds this process to the parent that started it; its thread listens for as long as the process lives."""

    end: socket.socket
    told: dict[str, Any]
    """What the parent told, descriptors among it."""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _stop: Callable[[int], None] | None = None
    _orphaned: Callable[[], None] | None = None

    @classmethod
    def take(cls) -> ParentLink | None:
        """Return the leash of this process, once; None where nobody holds one.

        Until `ready` a signal ends the process at once, also in the midst of native code.
        """
        text = os.environ.pop(_VARIABLE, None)
        if text is None:
            return None
        told = json.loads(text)
        for name in told["descriptors"]:  # what this process starts shall not hold them open
            os.set_inheritable(told[name], False)
        leash = cls(socket.socket(fileno=told["leash"]), told)
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        threading.Thread(target=leash._listen, name="tercet-leash", daemon=True).start()
        return leash

    def ready(self, stop: Callable[[int], None], orphaned: Callable[[], None] = lambda: None) -> None:
        """Tell the parent that the work has begun.

        Args:
            stop: Is called in a thread of its own with each signal that the parent got.
            orphaned: Is called there when the parent has gone; the process ends right after.
        """
        with self._lock:
            self._stop, self._orphaned = stop, orphaned
        with suppress(OSError):
            self.end.send(b"+")

    def _listen(self) -> None:
        while words := self._hear():
            for number in words:
                with self._lock:
                    stop = self._stop
                if stop is None:
                    os._exit(128 + number)
                stop(number)
        if self._orphaned is not None:
            self._orphaned()
        os._exit(_ORPHANED)

    def _hear(self) -> bytes:
        try:
            return self.end.recv(16)
        except OSError:
            return b""
