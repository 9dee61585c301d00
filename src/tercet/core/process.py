"""Child processes that run `tercet` commands: signals are forwarded to them, and they end with their parent.

Parent and child share a pair of sockets. The parent sends the number of each signal that it receives, the child sends
one byte when it is ready, and the end of the stream shows each that the other has ended, even by a crash. Forwarding by
socket delivers each signal exactly once: process managers may signal both processes, and terminals the whole group.
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

from tercet.core.errors import ConfigError, Interrupted

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""Signals that request an orderly stop."""
CAN_SUPERVISE = hasattr(select, "poll") and hasattr(socket, "MSG_DONTWAIT")
"""Whether this system can run such child processes; Windows cannot."""
_VARIABLE = "TERCET_CHILD"  # environment variable with the settings of a child process
_SIGNALS_BEFORE_KILL = 2
_ORPHANED = 1  # exit code; no process is left to read it


def tercet_command(*arguments: str) -> list[str]:
    """Return the command that runs `tercet`; -P keeps modules in the current folder from being imported."""
    return [sys.executable, "-P", "-m", "tercet", *arguments]


class ChildProcess:
    """A started child process, as seen by its parent.

    Args:
        command: Command to run; it should call `ParentLink.from_environment`.
        descriptors: Open file descriptors that the child inherits, by name.
        silent: Whether to discard its standard output.
        settings: Further JSON values for `ParentLink.settings`.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        descriptors: dict[str, int] | None = None,
        silent: bool = False,
        **settings: Any,
    ) -> None:
        self._end, other = socket.socketpair()
        with other:
            inherited = {"link": other.fileno(), **(descriptors or {})}
            self.served = 0.0
            """Seconds for which the child was ready; set when it has ended."""
            self._ready_since: float | None = None
            self.process = subprocess.Popen(
                command,
                pass_fds=list(inherited.values()),
                stdout=subprocess.DEVNULL if silent else None,
                env={**os.environ, _VARIABLE: json.dumps({**settings, **inherited, "descriptors": [*inherited]})},
                start_new_session=True,  # so that Ctrl-C reaches it only through the parent
            )

    def send_signal(self, number: int) -> None:
        """Forward a signal; does nothing if the child has ended."""
        with suppress(OSError):
            self._end.send(bytes([number]), socket.MSG_DONTWAIT)

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when `read_event` has something to read."""
        return self._end.fileno()

    def read_event(self) -> int | None:
        """Read the ready byte, or the end of the child; return its exit code (minus signal number) if it has ended."""
        try:
            data = self._end.recv(64)
        except OSError:  # the child has ended without reading all signals
            data = b""
        if data:
            self._ready_since = time.monotonic()
            return None
        self._end.close()
        code = self.process.wait()
        if self._ready_since is not None:
            self.served = time.monotonic() - self._ready_since
        return code


class SignalForwarder:
    """Context manager that forwards the stop signals of this process to a child instead of ending this process.

    Args:
        on_signal: Called on each signal while there is a child; runs in a signal handler, so it must not take locks.

    Raises:
        ConfigError: The system cannot run such processes.
    """

    def __init__(self, on_signal: Callable[[], object] = lambda: None) -> None:
        if not CAN_SUPERVISE:
            raise ConfigError("limits of memory and time need Linux or macOS: leave them out")
        self.signals: list[int] = []
        """Received signals."""
        self._on_signal, self._child = on_signal, cast("ChildProcess | None", None)
        self._pending: deque[int] = deque()
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._main = threading.current_thread() is threading.main_thread()  # only this one may set handlers
        if self._main:
            self._previous = {number: signal.signal(number, self._handle) for number in STOP_SIGNALS}
            self._previous_wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._main:
            signal.set_wakeup_fd(self._previous_wakeup)
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        os.close(self._read)
        os.close(self._write)

    def wait(self, child: ChildProcess) -> int:
        """Wait for the end of a child and return its exit code; minus the signal number if it crashed.

        Raises:
            Interrupted: A stop signal ended it before it was ready, or it was killed after repeated signals.
        """
        self._child = child
        self._forward()  # signals that arrived before the child was started
        code = None
        while code is None:
            if child.fileno() in self._wait_readable(child.fileno()):
                code = child.read_event()
        self._child = None
        first = self.signals[0] if self.signals else 0
        if first and (code == 128 + first or (code < 0 and len(self.signals) > _SIGNALS_BEFORE_KILL)):
            raise _stopped_by(first)
        if -code in STOP_SIGNALS:  # the signal was sent to the child directly
            raise _stopped_by(-code)
        return code

    def pause(self, seconds: float) -> None:
        """Sleep until the time is over or a signal arrives.

        Raises:
            Interrupted: A signal has arrived.
        """
        end = time.monotonic() + seconds
        while not self.signals and (remaining := end - time.monotonic()) > 0:
            self._wait_readable(seconds=remaining)
        if self.signals:
            raise _stopped_by(self.signals[0])

    def _wait_readable(self, *descriptors: int, seconds: float | None = None) -> set[int]:
        """Wait until a descriptor is readable or a signal arrives, and return the readable descriptors.

        A signal just before the system call, or one delivered to another thread, would not interrupt it. So the
        interpreter also writes each signal to a pipe.
        """
        poll = select.poll()
        for descriptor in (self._read, *descriptors):
            poll.register(descriptor, select.POLLIN)
        events = poll.poll(None if seconds is None else max(1, seconds * 1000))
        readable = {descriptor for descriptor, _ in events}
        if self._read in readable:
            os.read(self._read, 512)
        return readable

    def _handle(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal. It may interrupt any instruction, so nothing here may take a lock."""
        self.signals.append(number)
        if self._child is not None and len(self.signals) > _SIGNALS_BEFORE_KILL:
            self._child.process.kill()
            return
        self._pending.append(number)
        self._forward()
        if self._child is not None:
            self._on_signal()

    def _forward(self) -> None:
        while self._child is not None and self._pending:
            self._child.send_signal(self._pending.popleft())


def signal_name(number: int) -> str:
    """Return the name of a signal, such as SIGTERM."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _stopped_by(number: int) -> Interrupted:
    return Interrupted(f"stopped by {'Ctrl-C' if number == signal.SIGINT else signal_name(number)}", number)


@dataclass(eq=False)
class ParentLink:
    """Connection of a child process to its parent; a thread listens to it for the lifetime of the process."""

    end: socket.socket
    settings: dict[str, Any]
    """Values from the parent, descriptors included."""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _stop: Callable[[int], None] | None = None
    _orphaned: Callable[[], None] | None = None

    @classmethod
    def from_environment(cls) -> ParentLink | None:
        """Return the link of this process on the first call; None for later calls and without such a parent.

        Until `ready`, a stop signal ends the process immediately, even in native code.
        """
        text = os.environ.pop(_VARIABLE, None)
        if text is None:
            return None
        settings = json.loads(text)
        for name in settings["descriptors"]:  # own child processes must not keep them open
            os.set_inheritable(settings[name], False)
        link = cls(socket.socket(fileno=settings["link"]), settings)
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        threading.Thread(target=link._listen, name="tercet-parent-link", daemon=True).start()
        return link

    def ready(self, stop: Callable[[int], None], orphaned: Callable[[], None] = lambda: None) -> None:
        """Notify the parent that the work has begun.

        Args:
            stop: Called with each signal that the parent forwards, in the listener thread.
            orphaned: Called there when the parent has ended; this process exits right after.
        """
        with self._lock:
            self._stop, self._orphaned = stop, orphaned
        with suppress(OSError):
            self.end.send(b"+")

    def _listen(self) -> None:
        while numbers := self._receive():
            for number in numbers:
                with self._lock:
                    stop = self._stop
                if stop is None:
                    os._exit(128 + number)
                stop(number)
        if self._orphaned is not None:
            self._orphaned()
        os._exit(_ORPHANED)

    def _receive(self) -> bytes:
        try:
            return self.end.recv(16)
        except OSError:
            return b""
