"""Convert a Pillow image to an upright uint8 array.

Shapes: H x W pixels, C channels (1 grey, 3 RGB).

| Pillow mode | result |
|---|---|
| 1, L | grey |
| I;16 (and its byte orders), I of PGM files | grey, scaled from `Decoding.value_range` (default: all 16 bits) |
| I, F (32 bits) | grey, scaled from `Decoding.value_range`; an error without one |
| LA, L with a transparent value | grey, composited on white |
| P, PA | RGB, composited on white; grey if all used colours are grey |
| RGB, RGBA, CMYK, YCbCr, LAB, HSV | RGB, transparency composited on white; of 16 bits per channel the upper 8 |
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tercet.core.errors import DataError
from tercet.data.decoding import DEFAULT, MAX_16_BIT, Decoding

Pixels = NDArray[np.uint8]

_ORIENTATION, _BITS, _PHOTOMETRIC = 0x0112, 258, 262  # EXIF and TIFF tags
_WHITE = 255
_STRIP = 2**18  # pixels that are scaled or composited at once


class UnknownRange(DataError):
    """An image whose range of values is unknown; the message quotes neither a library nor the file."""


def to_pixels(image: Image.Image, decoding: Decoding = DEFAULT) -> Pixels:
    """Convert a Pillow image (its current frame) to H W C, upright, by the table of this module.

    Raises:
        UnknownRange: The mode is I or F and there is no range; or colours of 16 bits cannot be scaled from a range.
        DataError: Values are not finite.
    """
    scale = _colour_scale(image)  # before loading, which forgets how the file stores its values
    maximum = _pgm_maximum(image)
    image.load()
    if scale > 1:
        _check_colours(image, scale, decoding)
    pixels = _by_mode(image, decoding, maximum)
    return np.ascontiguousarray(_upright(pixels, _orientation(image)))


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


def _by_mode(image: Image.Image, decoding: Decoding, maximum: int | None) -> Pixels:
    mode = image.mode
    if mode.startswith("I;16") or mode in ("I", "F"):
        return _from_deep_grey(image, decoding, maximum)
    if mode in ("P", "PA"):
        colours = _on_white(image.convert("RGBA")) if image.has_transparency_data else np.asarray(image.convert("RGB"))
        grey = bool((colours[..., :1] == colours).all())
        return colours[..., :1] if grey else colours
    if image.has_transparency_data:
        return _on_white(image.convert("LA" if mode in ("1", "L", "LA", "La") else "RGBA"))
    if mode in ("1", "L"):
        return np.asarray(image.convert("L"))[..., None]
    return np.asarray(image.convert("RGB"))


def _from_deep_grey(image: Image.Image, decoding: Decoding, maximum: int | None) -> Pixels:
    """Convert grey values of more than 8 bits to H W 1; 16 bits are scaled exactly and never clipped by default."""
    values = np.asarray(image)
    if maximum is not None:  # Pillow has scaled a PGM file's values to 16 bits
        values = np.rint(values * (maximum / MAX_16_BIT))
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise DataError("it has values that are not finite")
    full = _full_range(image, maximum)
    limits = decoding.limits or full
    if limits is None:
        raise UnknownRange(
            f"mode {image.mode} (32 bits per pixel) has an unknown range: convert it to 8 or 16 bits, or train with "
            "--data.value-range MIN,MAX"
        )
    decoding.observed.add(low, high, full=full, limits=limits)
    pixels = _scale(values, *limits)
    if _is_white_zero(image):
        pixels = _WHITE - pixels
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        pixels[values == transparent] = _WHITE
    return pixels[..., None]


def _scale(values: NDArray[Any], low: float, high: float) -> Pixels:
    """Map low..high to 0..255, rounded to nearest; values outside are clipped."""
    pixels = np.empty(values.shape, np.uint8)
    step = max(1, _STRIP // values.shape[1])
    for top in range(0, len(values), step):
        strip = (values[top : top + step].astype(np.float64) - low) * (_WHITE / (high - low))
        pixels[top : top + step] = np.rint(strip).clip(0, _WHITE)
    return pixels


def _full_range(image: Image.Image, maximum: int | None) -> tuple[float, float] | None:
    """Return the range of values that the file states; None for 32 bits."""
    if maximum is not None:
        return 0, maximum
    if not image.mode.startswith("I;16"):
        return None
    bits = _tags(image).get(_BITS, (16,))[0]
    return 0, 2 ** (bits if 8 < bits < 16 else 16) - 1


def _tags(image: Image.Image) -> Any:
    """Return the tags of a TIFF file; nothing for other formats."""
    return getattr(image, "tag_v2", {}) if image.format == "TIFF" else {}


def _is_white_zero(image: Image.Image) -> bool:
    """Whether 0 is white in a TIFF file, which Pillow takes into account for up to 8 bits only."""
    return bool(_tags(image).get(_PHOTOMETRIC) == 0)


def _arguments(image: Image.Image) -> Any:
    tiles = getattr(image, "tile", None)
    return tiles[0][3] if tiles else ()


def _pgm_maximum(image: Image.Image) -> int | None:
    """Return the maximum that the header of a PGM file of more than 8 bits states."""
    if image.format != "PPM" or image.mode != "I":
        return None
    arguments = _arguments(image)
    stated = arguments[1] if isinstance(arguments, tuple) and len(arguments) > 1 else MAX_16_BIT
    return stated if isinstance(stated, int) and stated > 0 else MAX_16_BIT


def _colour_scale(image: Image.Image) -> int:
    """Return 257 for colours (or grey with transparency) of 16 bits per channel, of which Pillow reads 8; else 1."""
    if image.mode.startswith("I") or image.mode == "F":
        return 1
    arguments = _arguments(image)
    if image.format == "PPM":
        stated = arguments[1] if isinstance(arguments, tuple) and len(arguments) > 1 else 0
        return 257 if isinstance(stated, int) and stated > _WHITE else 1
    return 257 if image.format in ("PNG", "TIFF") and ";16" in str(arguments) else 1


def _check_colours(image: Image.Image, scale: int, decoding: Decoding) -> None:
    """Record the range of colours of 16 bits.

    Raises:
        UnknownRange: The values are to be scaled from another range, for which 8 of their bits do not suffice.
    """
    full = (0.0, float(MAX_16_BIT))
    if decoding.limits not in (None, full):
        raise UnknownRange(
            "colours of 16 bits per channel are read with 8 bits, which a range of values cannot scale: convert it to "
            "8 bits"
        )
    extrema: Any = image.getextrema()
    bands = extrema if isinstance(extrema[0], tuple) else (extrema,)
    colours = bands[:-1] if image.mode in ("LA", "RGBA") else bands
    low, high = min(band[0] for band in colours), max(band[1] for band in colours)
    decoding.observed.add(low * scale, high * scale, full=full, limits=full, colour=True)


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
