"""What stays for as long as the server does, and is therefore never looked through for garbage."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def long_lived() -> Iterator[None]:
    """Take all that has been made so far out of the garbage collector's sight.

    A full collection would walk through every library and the model's names about once a second under load, and let
    everything else wait: 60 ms on the machine where it was found.
    """
    gc.collect()
    others = gc.get_freeze_count()
    gc.freeze()
    try:
        yield
    finally:
        if not others:  # who froze before us wants it to stay
            gc.unfreeze()
