"""Where a map lies in its image: networks are shown a part of it, or the whole with a border.

The same as `tercet.ground.geometry.shown_window`, which needs PyTorch; a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tercet.deploy.serving.contract import Model

Frame = tuple[float, float, float, float]
"""Top, left, height and width, as shares of the image's; beyond 0 and 1 where a border was added."""

_WHOLE: Frame = (0.0, 0.0, 1.0, 1.0)


class Frames:
    """Tells the frames of a model's maps.

    Args:
        model: It says how its members are shown an image, and which of them the maps are drawn from; where these
            differ the whole image stands for all.
    """

    def __init__(self, model: Model) -> None:
        members, drawn = model.metadata.get("members"), model.metadata.get("maps")
        listed = [one for one in members if isinstance(one, Mapping)] if isinstance(members, list) else []
        inputs = [one.get("input") for one in listed if not isinstance(drawn, list) or one.get("name") in drawn]
        same = bool(inputs) and all(_way(one) == _way(inputs[0]) for one in inputs)
        self._input: Mapping[str, Any] | None = inputs[0] if same and _way(inputs[0]) is not None else None

    def of(self, height: int, width: int) -> Frame:
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
