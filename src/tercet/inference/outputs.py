"""What every exported file is asked and answers, whatever runs it: batches, outputs, and the checks of both.

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
"""Of decoded images that wait for others of their size."""

Key = TypeVar("Key")
Probabilities = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class ModelOutput:
    """What a file says of a batch."""

    probabilities: Probabilities
    """B K; rows sum to 1, but where sets of labels are told each label has a score of its own."""
    members: Probabilities
    """B M K, each member alone, uncalibrated."""
    chosen: NDArray[np.bool_] | None = None
    """B K, the labels of each image; only where sets are told."""
    maps: NDArray[np.float32] | None = None
    """B h w from 0 to 1, where the members saw the fused top class in what they were shown; only where exported."""


def as_rgb(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return pixels H W 1 or H W 3 as H W 3."""
    return pixels if pixels.shape[2] == 3 else np.repeat(pixels, 3, axis=2)


def in_batches(
    pictures: Iterable[tuple[Key, NDArray[np.uint8]]], size: int, *, most_bytes: float | None = None
) -> Iterator[tuple[list[Key], NDArray[np.uint8]]]:
    """Yield keys and images B H W 3 of one size; images wait for others of their size while there is room.

    Args:
        pictures: Keys and pixels, H W 1 or H W 3 of any size.
        size: Most images of a batch.
        most_bytes: Of images that wait (default: `MAX_PENDING_BYTES`).
    """
    waiting: dict[tuple[int, ...], list[tuple[Key, NDArray[np.uint8]]]] = {}
    held, allowed = 0, MAX_PENDING_BYTES if most_bytes is None else most_bytes
    for key, pixels in pictures:
        picture = as_rgb(pixels)
        group = waiting.setdefault(picture.shape, [])
        group.append((key, picture))
        held += picture.nbytes
        full = [picture.shape] if len(group) == size else [*waiting] if held > allowed else []
        for shape in full:
            group = waiting.pop(shape)
            held -= sum(one.nbytes for _, one in group)
            yield [key for key, _ in group], np.stack([one for _, one in group])
    for group in waiting.values():
        yield [key for key, _ in group], np.stack([one for _, one in group])


def require_images(images: NDArray[np.uint8]) -> None:
    """Check what a file is asked about.

    Raises:
        DataError: It is not uint8 B H W 3 with at least one pixel.
    """
    shape = f"{images.dtype} array of shape {images.shape}" if isinstance(images, np.ndarray) else str(type(images))
    usable = isinstance(images, np.ndarray) and images.dtype == np.uint8 and images.ndim == 4
    if not usable or images.shape[3] != 3 or not images.size:
        raise DataError(f"images are uint8 B H W 3 with at least one pixel, not a {shape}")


def check_output(output: ModelOutput, count: int, num_members: int, num_classes: int, path: Path) -> None:
    """Check what a file answered for `count` images.

    Raises:
        ModelError: It has another shape than the file's description tells, or is not finite.
    """
    wanted = (count, num_classes), (count, num_members, num_classes)
    if (output.probabilities.shape, output.members.shape) != wanted:
        raise ModelError(
            f"{path} answered with shapes {output.probabilities.shape} and {output.members.shape} for "
            f"{count} image(s), {num_members} member(s) and {num_classes} classes: its description is wrong"
        )
    if output.chosen is not None and (output.chosen.shape != wanted[0] or output.chosen.dtype != np.bool_):
        raise ModelError(f"{path} chose labels as {output.chosen.dtype} {output.chosen.shape}, not bool {wanted[0]}")
    parts = (output.probabilities, output.members, *([] if output.maps is None else [output.maps]))
    if not all(np.isfinite(part).all() for part in parts):
        raise ModelError(f"{path} gave an answer that is not finite: its weights are damaged, export it again")


def run_checked(work: Callable[[], Any], images: NDArray[np.uint8], path: Path) -> Any:
    """Return what a runtime makes of images; its errors come in our words.

    Raises:
        DataError: The images have another shape or type.
        ModelError: The model cannot answer.
        MemoryExhausted: There is no memory for so many pixels.
    """
    require_images(images)
    try:
        return work()
    except Exception as error:  # every runtime has exceptions of its own
        if is_out_of_memory(error):
            raise MemoryExhausted(
                f"no memory to answer for images {images.shape}: give fewer or smaller ones"
            ) from error
        raise load_error(path, error) from error


def load_error(path: str | Path, error: Exception) -> ModelError:
    """Return what the user is told of a file that its runtime cannot load or run."""
    reason = str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
    return ModelError(f"{path} cannot be used: {reason}; export the bundle again with this version")


def require_fields(document: Mapping[str, Any], path: str | Path) -> None:
    """Check the parts of a description that are relied on.

    Raises:
        ModelError: One is missing or of another kind.
    """
    classes, members = document.get("classes"), document.get("members")
    listed = members if isinstance(members, list) else []
    names = [member.get("name") if isinstance(member, dict) else None for member in listed]
    for what, values in (("classes", classes), ("members", names)):
        if not isinstance(values, list) or not values or not all(isinstance(name, str) for name in values):
            raise ModelError(f"{path} does not tell the names of its {what}: export the bundle again")
    if len(set(cast("list[str]", classes))) != len(cast("list[str]", classes)):
        raise ModelError(f"{path} tells a class twice: export the bundle again")
    if not isinstance(document.get("name"), str):
        raise ModelError(f"{path} does not tell its name: export the bundle again")
