"""Decode an image file to an upright uint8 array, or raise a `DataError` with the reason.

Shapes: H x W pixels, C channels (1 grey, 3 RGB). The conversion of pixels is in `pixel_values`.
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
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image, UnidentifiedImageError, features
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from tercet.core.errors import DataError, MemoryExhausted
from tercet.data.decoding import DEFAULT, Decoding
from tercet.data.jpeg_repair import complete_jpeg
from tercet.data.pixel_values import Pixels, to_pixels

try:
    import pillow_heif
except ImportError:  # an extra: `pip install tercet[heic]`
    pillow_heif = None
else:
    pillow_heif.register_heif_opener()

WEB_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
"""Formats that are decoded from uploads; the content decides, not the file name."""
_AVAILABLE = {
    "PPM": True,
    "AVIF": features.check("avif"),
    "JPEG2000": features.check("jpg_2000"),
    "HEIF": pillow_heif is not None,
}
FORMATS = (*WEB_FORMATS, *(name for name, available in _AVAILABLE.items() if available))
"""Formats that are decoded from files; the last three as far as Pillow and `pillow-heif` were built with them."""
_EXTENSIONS = {
    "JPEG": "jpg jpeg jpe jfif",
    "PNG": "png",
    "WEBP": "webp",
    "BMP": "bmp dib",
    "GIF": "gif",
    "TIFF": "tif tiff",
    "PPM": "ppm pgm pbm pnm pfm",
    "AVIF": "avif",
    "JPEG2000": "jp2 j2k j2c jpc jpf jpx",
    "HEIF": "heic heif hif",
}
EXTENSIONS = frozenset(f".{name}" for names in _EXTENSIONS.values() for name in names.split())
"""File name extensions of images, in lower case. Files of formats that are not available are unreadable images."""
_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")
_TIFF_HEADERS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_TIFF_TAGS = {"channels": 277, "bits": 258, "compression": 259}


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
    content: bytes | Path | BinaryIO,
    *,
    max_pixels: int,
    decoding: Decoding = DEFAULT,
    formats: tuple[str, ...] = FORMATS,
    convert: Callable[[Image.Image], Pixels] | None = None,
) -> Pixels:
    """Decode the first frame of an image file to H W C, upright (EXIF orientation applied).

    Args:
        content: The file's bytes, its path, or an open binary stream.
        max_pixels: Maximum number of pixels, checked from the header before any pixel is decoded.
        decoding: Scale of values, and treatment of truncated files.
        formats: Accepted formats.
        convert: Converts the opened image to pixels (default: `to_pixels`).

    Raises:
        DataError: The format is not accepted, or the image is too large, truncated, damaged, or has an unknown range.
        MemoryExhausted: There is not enough memory.
    """
    if isinstance(content, Path):
        with open_regular(content) as stream:
            return decode(stream, max_pixels=max_pixels, decoding=decoding, formats=formats, convert=convert)
    stream = io.BytesIO(content) if isinstance(content, bytes) else content
    read = partial(
        _decode, max_pixels=max_pixels, formats=formats, convert=convert or partial(to_pixels, decoding=decoding)
    )
    try:
        return read(stream)
    except DataError:
        completed = _completed(stream) if decoding.truncated else None
        if completed is None:
            raise
        pixels = read(completed)
        decoding.observed.add_truncated()
        return pixels


def _completed(stream: BinaryIO) -> BinaryIO | None:
    """Return a completed JPEG file, or None for other files; Pillow's own setting for them applies to all threads."""
    stream.seek(0)
    content = complete_jpeg(stream.read())
    return None if content is None else io.BytesIO(content)


def _decode(
    stream: BinaryIO, *, max_pixels: int, formats: tuple[str, ...], convert: Callable[[Image.Image], Pixels]
) -> Pixels:
    try:
        with pillow_limits(max_pixels), Image.open(stream, formats=formats) as image:
            if image.width * image.height > max_pixels:
                raise DataError(_too_large(f"{image.width} x {image.height} pixels are", max_pixels))
            return convert(image)
    except DataError:
        raise
    except UnidentifiedImageError as error:
        raise DataError(_unidentified(stream, formats)) from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        size = re.search(r"\d+ pixels", str(error))
        raise DataError(_too_large(f"{size[0] if size else 'its pixels'} are", max_pixels)) from error
    except MemoryError as error:
        raise MemoryExhausted("not enough memory to decode an image: lower data.max_pixels") from error
    except Exception as error:  # decoders raise many exception types on damaged files
        reason = str(error).splitlines()[0] if str(error) else repr(error)
        raise DataError(f"truncated or damaged: {reason}") from error


def _unidentified(stream: BinaryIO, formats: tuple[str, ...]) -> str:
    """Return why a file is not an image in an accepted format."""
    reason = f"not an image in an accepted format ({', '.join(formats)})"
    try:
        stream.seek(0)
        header = stream.read(16)
        if header.startswith(_TIFF_HEADERS):
            header = header[: 16 if b"+" in header[:4] else 8]  # BigTIFF has a longer one
            return f"a TIFF file of an unsupported kind{_describe_tiff(stream, header)}: convert it to grey or RGB"
        if header[4:8] == b"ftyp" and header[8:12] in _HEIF_BRANDS and "HEIF" not in formats:
            return f"{reason}: it is HEIC; convert it to JPEG, or pip install 'tercet[heic]' to read it from files"
    except Exception:  # the file is damaged, or closed
        return reason
    return reason


def _describe_tiff(stream: BinaryIO, header: bytes) -> str:
    """Return channels and bits of the first image of a TIFF file, from its tags."""
    tags: Any = ImageFileDirectory_v2(header)
    stream.seek(tags.next)
    tags.load(stream)
    channels, bits = tags.get(_TIFF_TAGS["channels"], 1), tags.get(_TIFF_TAGS["bits"], (1,))
    return f" ({channels} {'channel' if channels == 1 else 'channels'} of {max(bits)} bits)"


def _too_large(what: str, max_pixels: int) -> str:
    return f"too large: {what} more than data.max_pixels {max_pixels}"
