"""Reads the images of a table one after the other, with threads that read ahead; unreadable images are reported."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from tercet.core.errors import DataError
from tercet.core.output import join_few
from tercet.core.resource_limits import available_cores
from tercet.data.decode import pillow_limits

Value = TypeVar("Value")

_CHUNK = 256  # images decoded ahead by threads


@dataclass(frozen=True)
class BadImage:
    """An image that could not be decoded."""

    id: str
    location: str
    """Location within the source."""
    reason: str

    def __str__(self) -> str:
        return f"{self.location} ({self.reason})"


def read_ahead(read: Callable[[str], Value], locations: Sequence[str], *, max_pixels: int) -> Iterator[Value | str]:
    """Yield the result for each image in order, or the message of its `DataError`; threads decode ahead."""

    def attempt(location: str) -> Value | str:
        try:
            return read(location)
        except DataError as error:
            return str(error)

    with pillow_limits(max_pixels), ThreadPoolExecutor(available_cores()) as pool:
        for start in range(0, len(locations), _CHUNK):
            yield from pool.map(attempt, locations[start : start + _CHUNK])


def require_readable(bad: Sequence[BadImage], total: int, max_bad_fraction: float) -> None:
    """Raise a `DataError` if more than `max_bad_fraction` of the images, or all of them, are bad."""
    if bad and (len(bad) > max_bad_fraction * total or len(bad) == total):
        raise DataError(
            f"{len(bad)} of {total} images cannot be read, more than data.max_bad_fraction {max_bad_fraction:g} "
            f"allows: {join_few(bad)}"
        )
