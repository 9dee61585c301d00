"""From an upload to pixels, decoded as everywhere in Tercet; what cannot be read is refused in general words."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from tercet.data.images import FORMATS, UnknownRange, decode, to_pixels
from tercet.deploy.serving.memory import Lease
from tercet.deploy.serving.refusals import Busy, Refusal
from tercet.deploy.serving.settings import DECODED_BYTES, DECODING_BYTES, Limits
from tercet.deploy.serving.uploads import Upload
from tercet.ground.errors import DataError

_BOMBS = (Image.DecompressionBombWarning, Image.DecompressionBombError)
KNOWN = ", ".join(FORMATS)
"""The formats that are decoded, for people."""


class _TooManyPixels(DataError):
    pass


class _NoMemory(DataError):
    pass


def decode_upload(upload: Upload, limits: Limits, lease: Lease) -> NDArray[np.uint8]:
    """Return an upload's picture as H W 3, upright; `lease` holds what it takes.

    Raises:
        Refusal: It is no image (415), or one that is damaged or too large (422).
        Busy: There is no memory for it at the moment.
    """

    def measured(image: Image.Image) -> NDArray[np.uint8]:
        count = image.width * image.height
        if count > limits.max_pixels:
            raise _TooManyPixels(f"{image.width} x {image.height} pixels")
        try:
            lease.resize(count * DECODING_BYTES)
        except Busy as error:
            raise _NoMemory("no memory at the moment") from error
        return to_pixels(image)

    try:
        pixels = decode(bytes(upload.content), max_pixels=limits.max_pixels, convert=measured)
    except _NoMemory as error:
        raise Busy("the server is busy: try again", reason="memory") from error
    except DataError as error:
        raise _refusal(error, limits) from error
    coloured = np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels
    lease.resize(coloured.shape[0] * coloured.shape[1] * DECODED_BYTES)
    return coloured


def _refusal(error: DataError, limits: Limits) -> Refusal:
    if isinstance(error, _TooManyPixels) or isinstance(error.__cause__, _BOMBS):
        return Refusal(422, f"the image has more than {limits.max_pixels} pixels", reason=str(error))
    if isinstance(error.__cause__, UnidentifiedImageError):
        return Refusal(415, f"not an image in an accepted format ({KNOWN})", reason=str(error))
    if isinstance(error, UnknownRange):
        return Refusal(422, f"the image cannot be read: {error} (accepted formats: {KNOWN})", reason=str(error))
    message = f"the image is truncated or damaged, or packed in a way that is not read (accepted formats: {KNOWN})"
    return Refusal(422, message, reason=str(error))
