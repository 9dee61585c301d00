"""Batches and outputs of exported models, whatever runs them, and their checks.

Shapes: B images, H x W pixels, M members, K classes, h x w cells of a map.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from tercet.core.errors import DataError, MemoryExhausted, ModelError, is_out_of_memory

MAX_PENDING_BYTES = 256_000_000
"""Limit of decoded images that wait for others of their size."""

Key = TypeVar("Key")
Probabilities = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class ModelOutput:
    """Output of an exported model for a batch."""

    probabilities: Probabilities
    """B K; rows sum to 1, except for the scores of multi-label models."""
    members: Probabilities
    """B M K, uncalibrated."""
    chosen: NDArray[np.bool_] | None = None
    """B K, predicted labels of multi-label models."""
    maps: NDArray[np.float32] | None = None
    """B h w in [0, 1], class-activation maps of the predicted class; only if exported."""


def as_rgb(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return pixels H W 1 or H W 3 as H W 3."""
    return pixels if pixels.shape[2] == 3 else np.repeat(pixels, 3, axis=2)


def in_batches(
    images: Iterable[tuple[Key, NDArray[np.uint8]]], batch_size: int, *, max_bytes: float | None = None
) -> Iterator[tuple[list[Key], NDArray[np.uint8]]]:
    """Yield keys and images B H W 3, where all images of a batch have the same size.

    Args:
        images: Keys and pixels, H W 1 or H W 3 of any size.
        batch_size: Maximum number of images per batch.
        max_bytes: Limit of pending images, beyond which incomplete batches are yielded (default: `MAX_PENDING_BYTES`).
    """
    pending: dict[tuple[int, ...], list[tuple[Key, NDArray[np.uint8]]]] = {}
    pending_bytes, limit = 0, MAX_PENDING_BYTES if max_bytes is None else max_bytes
    for key, pixels in images:
        image = as_rgb(pixels)
        group = pending.setdefault(image.shape, [])
        group.append((key, image))
        pending_bytes += image.nbytes
        ready = [image.shape] if len(group) == batch_size else [*pending] if pending_bytes > limit else []
        for shape in ready:
            group = pending.pop(shape)
            pending_bytes -= sum(pixels.nbytes for _, pixels in group)
            yield _stack(group)
    yield from map(_stack, pending.values())


def _stack(group: list[tuple[Key, NDArray[np.uint8]]]) -> tuple[list[Key], NDArray[np.uint8]]:
    return [key for key, _ in group], np.stack([pixels for _, pixels in group])


def require_images(images: NDArray[np.uint8]) -> None:
    """Raise a DataError if `images` is not a uint8 array B H W 3 with at least one pixel."""
    shape = f"{images.dtype} array of shape {images.shape}" if isinstance(images, np.ndarray) else str(type(images))
    valid = isinstance(images, np.ndarray) and images.dtype == np.uint8 and images.ndim == 4
    if not valid or images.shape[3] != 3 or not images.size:
        raise DataError(f"images must be uint8 B H W 3 with at least one pixel, not {shape}")


def check_output(output: ModelOutput, count: int, num_members: int, num_classes: int, path: Path) -> None:
    """Check the output for `count` images.

    Raises:
        ModelError: It has another shape than described by the metadata, or is not finite.
    """
    expected = (count, num_classes), (count, num_members, num_classes)
    if (output.probabilities.shape, output.members.shape) != expected:
        raise ModelError(
            f"{path} has outputs of shapes {output.probabilities.shape} and {output.members.shape} for {count} "
            f"image(s), {num_members} member(s) and {num_classes} classes: its metadata are wrong"
        )
    if output.chosen is not None and (output.chosen.shape != expected[0] or output.chosen.dtype != np.bool_):
        raise ModelError(f"{path} has labels of {output.chosen.dtype} {output.chosen.shape}, not bool {expected[0]}")
    arrays = (output.probabilities, output.members, *([] if output.maps is None else [output.maps]))
    if not all(np.isfinite(array).all() for array in arrays):
        raise ModelError(f"{path} has outputs that are not finite: its weights are damaged, export it again")


def run_checked(run: Callable[[], Any], images: NDArray[np.uint8], path: Path) -> Any:
    """Run inference, and convert errors of the runtime.

    Raises:
        DataError: The images have another shape or type.
        ModelError: The runtime fails.
        MemoryExhausted: There is not enough memory for these images.
    """
    require_images(images)
    try:
        return run()
    except Exception as error:  # each runtime has its own exceptions
        if is_out_of_memory(error):
            raise MemoryExhausted(f"not enough memory for images {images.shape}: use fewer or smaller ones") from error
        raise load_error(path, error) from error


def load_error(path: str | Path, error: Exception) -> ModelError:
    """Return the error for a file that its runtime cannot load or run."""
    message = str(error).strip()
    reason = message.splitlines()[0][:300] if message else type(error).__name__
    return ModelError(f"{path} cannot be used: {reason}; export the bundle again with this version")


def require_fields(document: Mapping[str, Any], path: str | Path) -> None:
    """Raise a ModelError if required fields of a file's metadata are missing or malformed."""
    classes, members = document.get("classes"), document.get("members")
    entries = members if isinstance(members, list) else []
    names = [member.get("name") if isinstance(member, dict) else None for member in entries]
    for what, values in (("classes", classes), ("members", names)):
        if not isinstance(values, list) or not values or not all(isinstance(name, str) for name in values):
            raise ModelError(f"{path} has no names of its {what}: export the bundle again")
    if len(set(cast("list[str]", classes))) != len(cast("list[str]", classes)):
        raise ModelError(f"{path} has duplicate class names: export the bundle again")
    if not isinstance(document.get("name"), str):
        raise ModelError(f"{path} has no model name: export the bundle again")
