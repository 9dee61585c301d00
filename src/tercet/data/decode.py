"""Decoding: any picture file becomes an upright uint8 array, or a `DataError` that says why not.

Shapes: H x W pixels, C channels (1 grey, 3 RGB).

| stored as | becomes |
|---|---|
| 1, L, I;16 (and its byte orders) | grey; 16 bits are scaled by 1/257, never clipped |
| LA, L with a transparent value | grey, composited on white |
| P, PA | RGB, composited on white; grey where the palette holds greys only |
| RGB, RGBA, CMYK, YCbCr, LAB, HSV | RGB, transparency composited on white |
| I, F (32 bits) | refused: their range is unknown |
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
"""Formats that are decoded, recognised by content and never by name."""
EXTENSIONS = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff"})
"""File name endings (lower case) that announce an image."""

_ORIENTATION = 0x0112  # EXIF tag
_WHITE = 255
_STRIP = 2**18  # pixels that are composited at once


class UnknownRange(DataError):
    """An image whose numbers may mean anything; its message holds no word of a library's or of the file's."""


class _Guard:
    """Pillow's process-wide settings while images are decoded: quiet, and strict about decompression bombs.

    Threads may decode side by side: the first one in sets, the last one out restores.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ceilings: list[int] = []
        self._filters = warnings.catch_warnings()
        self._saved: int | None = None

    @contextmanager
    def __call__(self, max_pixels: int) -> Iterator[None]:
        with self._lock:
            if not self._ceilings:
                self._saved = Image.MAX_IMAGE_PIXELS
                self._filters = warnings.catch_warnings()
                self._filters.__enter__()
                warnings.simplefilter("ignore")
                warnings.simplefilter("error", Image.DecompressionBombWarning)
            self._ceilings.append(max_pixels)
            Image.MAX_IMAGE_PIXELS = max(self._ceilings)
        try:
            yield
        finally:
            with self._lock:
                self._ceilings.remove(max_pixels)
                Image.MAX_IMAGE_PIXELS = max(self._ceilings) if self._ceilings else self._saved
                if not self._ceilings:
                    self._filters.__exit__(None, None, None)


check_image = _Guard()
"""Context manager (argument: pixels) around many decodings at once; `decode` enters it by itself."""


@contextmanager
def open_regular(path: Path) -> Iterator[BinaryIO]:
    """Open a file for reading only if it is a regular one; pipes, devices and folders never block.

    Raises:
        DataError: It is absent, unreadable, or no regular file.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)  # no waiting for a pipe's writer
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
    """Decode the first frame of a picture file to H W C, upright (EXIF orientation applied).

    Args:
        content: The file's bytes, its path, or an open binary stream.
        max_pixels: Largest image accepted, checked from the header before any pixel is decoded.
        convert: Turns the opened image into pixels (default: `to_pixels`).

    Raises:
        DataError: Not an image of an accepted format, too large, truncated, damaged, or of an unclear range.
        MemoryExhausted: There is no memory for it.
    """
    if isinstance(content, Path):
        with open_regular(content) as stream:
            return decode(stream, max_pixels=max_pixels, convert=convert)
    stream = io.BytesIO(content) if isinstance(content, bytes) else content
    try:
        with check_image(max_pixels), Image.open(stream, formats=FORMATS) as image:
            if image.width * image.height > max_pixels:
                raise DataError(_too_large(f"{image.width} x {image.height} pixels are", max_pixels))
            return (convert or to_pixels)(image)
    except DataError:
        raise
    except UnidentifiedImageError as error:
        raise DataError(f"not an image in an accepted format ({', '.join(FORMATS)})") from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        found = re.search(r"\d+ pixels", str(error))
        raise DataError(_too_large(f"{found[0] if found else 'its pixels'} are", max_pixels)) from error
    except MemoryError as error:
        raise MemoryExhausted("no memory to decode an image: lower data.max_pixels") from error
    except Exception as error:  # decoders meet hostile bytes with every kind of exception
        reason = str(error).splitlines()[0] if str(error) else repr(error)
        raise DataError(f"truncated or damaged: {reason}") from error


def _too_large(what: str, max_pixels: int) -> str:
    return f"too large: {what} more than data.max_pixels {max_pixels}"


def to_pixels(image: Image.Image) -> Pixels:
    """Turn a Pillow image (its current frame) into H W C, upright, by the table of this module.

    Raises:
        UnknownRange: The mode's range of values is unknown (I, F).
    """
    image.load()
    return np.ascontiguousarray(_upright(_by_mode(image), _orientation(image)))


def to_depth(image: Image.Image) -> Pixels:
    """Turn 16 bits of distance into H W 1: 0 (not measured) stays 0, what was measured is stretched to 1..255.

    A depth camera uses few of its 16 bits, and a hand few of those: the general rule for 16 bits would leave next to
    nothing of it.

    Raises:
        DataError: The image is not grey with 16 bits.
    """
    image.load()
    if not image.mode.startswith("I"):
        raise DataError(f"mode {image.mode} is no depth image: expected 16 bits grey")
    values = np.asarray(image).astype(np.int64)
    measured = values > 0
    if not measured.any():
        return np.zeros((*values.shape, 1), dtype=np.uint8)
    nearest, farthest = values[measured].min(), values[measured].max()
    stretched = 1 + (values - nearest) * 254 // max(1, farthest - nearest)
    return np.where(measured, stretched, 0).astype(np.uint8)[..., None]


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, read after loading (TIFF applies its own); anything odd counts as upright."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # garbage in the EXIF block says nothing about the pixels
        return 1


def _upright(pixels: Pixels, orientation: int) -> Pixels:
    """Undo the camera's orientation 2..8 (EXIF 2.3, section 4.6.4); other values leave H W C as it is."""
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
        raise UnknownRange(f"mode {mode} (32 bits a pixel) has no known range: convert it to 8 or 16 bits")
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
    """Composite LA or RGBA on white, so that hidden colours under full transparency stay hidden."""
    stored = np.asarray(image)
    height, width, channels = stored.shape
    pixels = np.empty((height, width, channels - 1), np.uint8)
    step = max(1, _STRIP // width)  # the wide numbers of a whole picture would take 50 bytes a pixel
    for top in range(0, height, step):
        values = stored[top : top + step].astype(np.uint32)
        colours, alpha = values[..., :-1], values[..., -1:]
        pixels[top : top + step] = (colours * alpha + _WHITE * (_WHITE - alpha) + 127) // 255
    return pixels
