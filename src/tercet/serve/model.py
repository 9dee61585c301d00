"""What the server needs of a model, and the crop boxes of its members."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class ServedOutput(Protocol):
    """What a model says of a batch."""

    @property
    def probabilities(self) -> NDArray[np.floating[Any]]:
        """B K."""

    @property
    def members(self) -> NDArray[np.floating[Any]]:
        """B M K."""

    @property
    def chosen(self) -> NDArray[np.bool_] | None:
        """B K, the labels said of an image; None where an image has one class."""

    @property
    def maps(self) -> NDArray[np.floating[Any]] | None:
        """B h w, in [0, 1]; None where the model makes none."""


class ServedModel(Protocol):
    """Images in, probabilities out."""

    @property
    def classes(self) -> tuple[str, ...]:
        """K class names."""

    @property
    def member_names(self) -> tuple[str, ...]:
        """M names."""

    @property
    def metadata(self) -> Mapping[str, Any]:
        """What the file says of itself."""

    @property
    def has_maps(self) -> bool:
        """Whether `run` gives maps."""

    @property
    def sets(self) -> bool:
        """Whether an image has a set of labels instead of one class."""

    def run(self, images: NDArray[np.uint8]) -> ServedOutput:
        """Classify B H W 3; raises a `TercetError` where the answer would not be finite."""


CropBox = tuple[float, float, float, float]
"""Top, left, height and width, as shares of the image's; beyond 0 and 1 where a border was added."""

_WHOLE: CropBox = (0.0, 0.0, 1.0, 1.0)


class CropBoxes:
    """Tells the frames of a model's maps.

    Args:
        model: It says how its members are shown an image, and which of them the maps are drawn from; where these
            differ the whole image stands for all.
    """

    def __init__(self, model: ServedModel) -> None:
        members, drawn = model.metadata.get("members"), model.metadata.get("maps")
        listed = [one for one in members if isinstance(one, Mapping)] if isinstance(members, list) else []
        inputs = [one.get("input") for one in listed if not isinstance(drawn, list) or one.get("name") in drawn]
        same = bool(inputs) and all(_way(one) == _way(inputs[0]) for one in inputs)
        self._input: Mapping[str, Any] | None = inputs[0] if same and _way(inputs[0]) is not None else None

    def of(self, height: int, width: int) -> CropBox:
        """Return the frame for an image of this height and width."""
        if self._input is None:
            return _WHOLE
        size, crop_mode = self._input["size"], self._input["crop_mode"]
        if crop_mode == "border":
            ratio = min(size[0] / height, size[1] / width)
            inner = max(1, round(height * ratio)), max(1, round(width * ratio))
            top, left = ((outer - own) // 2 for outer, own in zip(size, inner, strict=True))
            return -top / inner[0], -left / inner[1], size[0] / inner[0], size[1] / inner[1]
        kept = (float(height), float(width))
        if crop_mode == "center":
            ratio = min(height / size[0], width / size[1])
            kept = (size[0] * ratio, size[1] * ratio)
        own = tuple(max(1, round(one * self._input["crop_pct"])) for one in kept)
        return (height - own[0]) // 2 / height, (width - own[1]) // 2 / width, own[0] / height, own[1] / width


def _way(given: Any) -> tuple[Any, ...] | None:
    """Return what of an input decides on the frame; None where it is not said."""
    if not isinstance(given, Mapping) or not {"size", "crop_mode", "crop_pct"} <= set(given):
        return None
    size = tuple(given["size"]) if given["crop_mode"] != "squash" else ()
    return given["crop_mode"], given["crop_pct"], (size[0] / size[1] if given["crop_mode"] == "center" else size)
