"""Keeps a server alive: a small process that holds the port, starts the server, and starts it again where it dies."""

from __future__ import annotations

import signal
import socket
import sys
from collections.abc import Sequence

from tercet.deploy.serving.journal import Journal
from tercet.ground.children import Child, Relay, name_of
from tercet.ground.errors import Crashed

PAUSES = (0.1, 0.5, 2.0, 5.0)
"""Seconds before each new start in a row; a death more ends it all."""
STEADY = 15.0
"""Seconds of service after which a death is the first of a row."""


def supervise(
    command: Sequence[str],
    listener: socket.socket,
    *,
    pauses: Sequence[float] = PAUSES,
    steady: float = STEADY,
) -> int:
    """Run a server until it ends of itself or is asked to by a signal, and return its exit code.

    Args:
        command: What serves; it takes a leash, and is told `restarts` and the descriptor `listener`.
        listener: A bound socket. Once a server has let it listen, connections wait there while none answers.
        pauses: Seconds before each new start in a row.
        steady: Seconds of service that end a row.

    Raises:
        Interrupted: A signal came while nothing was served.
        Crashed: The server died too often, while it stopped, or as it had not loaded its model in time.
    """
    journal = Journal(sys.stderr)
    row = restarts = 0
    try:
        with Relay(heard=listener.close) as relay:  # who comes after the server has closed it is refused at once
            while True:
                child = Child(command, descriptors={"listener": listener.fileno()}, restarts=restarts)
                if (code := relay.wait(child)) >= 0:
                    return code
                number = -code
                row = 1 if child.served >= steady else row + 1
                last = bool(relay.signals) or number == signal.SIGALRM or row > len(pauses)
                pause = None if last else pauses[row - 1]
                told = {"signal": name_of(number), "pid": child.process.pid, "served": round(child.served, 1)}
                journal.tell("died", **told, restarts=restarts, pause=pause)
                if pause is None:
                    raise _crashed(number, row, stopping=bool(relay.signals))
                relay.pause(pause)
                restarts += 1
    finally:
        journal.close()


def _crashed(number: int, row: int, *, stopping: bool) -> Crashed:
    if number == signal.SIGALRM:
        return Crashed("the model was not loaded in time: see --load-timeout", number)
    told = name_of(number) + (", often for want of memory" if number == signal.SIGKILL else "")
    if stopping:
        return Crashed(f"the server died while it stopped ({told})", number)
    return Crashed(f"the server died {row} times in a row and is not started again (the last time by {told})", number)
