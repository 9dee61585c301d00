"""Decode an image file to an upright uint8 array, or raise a `DataError` with the reason.

Shapes: H x W pixels, C channels (1 grey, 3 RGB).

| Pillow mode | result |
|---|---|
| 1, L, I;16 (and its byte orders) | grey; 16 bits are scaled by 1/257, never clipped |
| LA, L with a transparent value | grey, composited on white |
| P, PA | RGB, composited on white; grey if all used colours are grey |
| RGB, RGBA, CMYK, YCbCr, LAB, HSV | RGB, transparency composited on white |
| I, F (32 bits) | error: the range of values is unknown |
"""

from __future__ import annotations

import io
import os
import re
import stat
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from tercet.core.errors import DataError, MemoryExhausted

Pixels = NDArray[np.uint8]

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
"""Formats that are decoded; the content decides, not the file name."""
EXTENSIONS = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff"})
"""File name extensions of images, in lower case."""

_ORIENTATION = 0x0112  # EXIF tag
_WHITE = 255
_STRIP = 2**18  # pixels that are composited at once


class UnknownRange(DataError):
    """An image whose range of values is unknown; the message quotes neither a library nor the file."""


class _PillowLimits:
    """Process-wide Pillow settings while images are decoded: no warnings, errors for decompression bombs.

    Threads may decode concurrently: the first to enter changes the settings, the last to exit restores them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._limits: list[int] = []
        self._filters = warnings.catch_warnings()
        self._previous: int | None = None

    @contextmanager
    def __call__(self, max_pixels: int) -> Iterator[None]:
        with self._lock:
            if not self._limits:
                self._previous = Image.MAX_IMAGE_PIXELS
                self._filters = warnings.catch_warnings()
                self._filters.__enter__()
                warnings.simplefilter("ignore")
                warnings.simplefilter("error", Image.DecompressionBombWarning)
            self._limits.append(max_pixels)
            Image.MAX_IMAGE_PIXELS = max(self._limits)
        try:
            yield
        finally:
            with self._lock:
                self._limits.remove(max_pixels)
                Image.MAX_IMAGE_PIXELS = max(self._limits) if self._limits else self._previous
                if not self._limits:
                    self._filters.__exit__(None, None, None)


pillow_limits = _PillowLimits()
"""Context manager (argument: maximum number of pixels) for decoding in threads; `decode` enters it itself."""


@contextmanager
def open_regular(path: Path) -> Iterator[BinaryIO]:
    """Open a regular file for reading, without blocking on pipes and devices.

    Raises:
        DataError: The file is missing, unreadable, or not a regular file.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)  # do not wait for a pipe's writer
    try:
        descriptor = os.open(path, flags)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise DataError(f"{path} is not a regular file")
    with os.fdopen(descriptor, "rb") as stream:
        yield stream


def decode(
    content: bytes | Path | BinaryIO, *, max_pixels: int, convert: Callable[[Image.Image], Pixels] | None = None
) -> Pixels:
    """Decode the first frame of an image file to H W C, upright (EXIF orientation applied).

    Args:
        content: The file's bytes, its path, or an open binary stream.
        max_pixels: Maximum number of pixels, checked from the header before any pixel is decoded.
        convert: Converts the opened image to pixels (default: `to_pixels`).

    Raises:
        DataError: The format is not accepted, or the image is too large, truncated, damaged, or has an unknown range.
        MemoryExhausted: There is not enough memory.
    """
    if isinstance(content, Path):
        with open_regular(content) as stream:
            return decode(stream, max_pixels=max_pixels, convert=convert)
    stream = io.BytesIO(content) if isinstance(content, bytes) else content
    try:
        with pillow_limits(max_pixels), Image.open(stream, formats=FORMATS) as image:
            if image.width * image.height > max_pixels:
                raise DataError(_too_large(f"{image.width} x {image.height} pixels are", max_pixels))
            return (convert or to_pixels)(image)
    except DataError:
        raise
    except UnidentifiedImageError as error:
        raise DataError(f"not an image in an accepted format ({', '.join(FORMATS)})") from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        size = re.search(r"\d+ pixels", str(error))
        raise DataError(_too_large(f"{size[0] if size else 'its pixels'} are", max_pixels)) from error
    except MemoryError as error:
        raise MemoryExhausted("not enough memory to decode an image: lower data.max_pixels") from error
    except Exception as error:  # decoders raise many exception types on damaged files
        reason = str(error).splitlines()[0] if str(error) else repr(error)
        raise DataError(f"truncated or damaged: {reason}") from error


def _too_large(what: str, max_pixels: int) -> str:
    return f"too large: {what} more than data.max_pixels {max_pixels}"


def to_pixels(image: Image.Image) -> Pixels:
    """Convert a Pillow image (its current frame) to H W C, upright, by the table of this module.

    Raises:
        UnknownRange: The mode is I or F.
    """
    image.load()
    return np.ascontiguousarray(_upright(_by_mode(image), _orientation(image)))


def to_depth(image: Image.Image) -> Pixels:
    """Convert a 16-bit depth image to H W 1: 0 (not measured) stays 0, other values are stretched to 1..255.

    An object occupies a small part of a depth camera's range; scaling by 1/257 would leave almost no contrast.

    Raises:
        DataError: The image is not 16-bit grey.
    """
    image.load()
    if not image.mode.startswith("I"):
        raise DataError(f"mode {image.mode} is not a depth image: expected 16-bit grey")
    values = np.asarray(image).astype(np.int64)
    measured = values > 0
    if not measured.any():
        return np.zeros((*values.shape, 1), dtype=np.uint8)
    nearest, farthest = values[measured].min(), values[measured].max()
    stretched = 1 + (values - nearest) * 254 // max(1, farthest - nearest)
    return np.where(measured, stretched, 0).astype(np.uint8)[..., None]


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, read after loading (TIFF applies its own); upright if it is unreadable."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # the pixels can be fine although the EXIF block is damaged
        return 1


def _upright(pixels: Pixels, orientation: int) -> Pixels:
    """Undo orientations 2..8 (EXIF 2.3, section 4.6.4); other values leave H W C unchanged."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)  # W H C
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels


def _by_mode(image: Image.Image) -> Pixels:
    mode = image.mode
    if mode.startswith("I;16"):
        return _from_16_bits(image)
    if mode in ("I", "F"):
        raise UnknownRange(f"mode {mode} (32 bits per pixel) has an unknown range: convert it to 8 or 16 bits")
    if mode in ("P", "PA"):
        colours = _on_white(image.convert("RGBA")) if image.has_transparency_data else np.asarray(image.convert("RGB"))
        grey = bool((colours[..., :1] == colours).all())
        return colours[..., :1] if grey else colours
    if image.has_transparency_data:
        return _on_white(image.convert("LA" if mode in ("1", "L", "LA", "La") else "RGBA"))
    if mode in ("1", "L"):
        return np.asarray(image.convert("L"))[..., None]
    return np.asarray(image.convert("RGB"))


def _from_16_bits(image: Image.Image) -> Pixels:
    values = np.asarray(image).astype(np.uint32)
    pixels = ((values + 128) // 257).astype(np.uint8)  # 65535 = 255 * 257, rounded to nearest
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        pixels[values == transparent] = _WHITE
    return pixels[..., None]


def _on_white(image: Image.Image) -> Pixels:
    """Composite LA or RGBA on white, which hides colours under full transparency."""
    source = np.asarray(image)
    height, width, channels = source.shape
    pixels = np.empty((height, width, channels - 1), np.uint8)
    step = max(1, _STRIP // width)  # strips, since 32-bit arithmetic on the full image would take 50 bytes per pixel
    for top in range(0, height, step):
        values = source[top : top + step].astype(np.uint32)
        colours, alpha = values[..., :-1], values[..., -1:]
        pixels[top : top + step] = (colours * alpha + _WHITE * (_WHITE - alpha) + 127) // 255
    return pixels
