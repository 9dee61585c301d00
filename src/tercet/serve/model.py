"""Crop boxes for the class-activation maps of a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tercet.inference.exported_model import ExportedModel

CropBox = tuple[float, float, float, float]
"""Top, left, height and width as fractions of the image's; outside [0, 1] where a border was added."""

_FULL_IMAGE: CropBox = (0.0, 0.0, 1.0, 1.0)


class CropBoxes:
    """Computes which part of an image the class-activation maps cover.

    Args:
        model: Its metadata describe the input of each member and list the members with maps; if their crops differ,
            the box is the full image.
    """

    def __init__(self, model: ExportedModel) -> None:
        members, mapped = model.metadata.get("members"), model.metadata.get("maps")
        entries = [member for member in members if isinstance(member, Mapping)] if isinstance(members, list) else []
        inputs = [
            member.get("input") for member in entries if not isinstance(mapped, list) or member.get("name") in mapped
        ]
        same = bool(inputs) and all(_crop_key(spec) == _crop_key(inputs[0]) for spec in inputs)
        self._input: Mapping[str, Any] | None = inputs[0] if same and _crop_key(inputs[0]) is not None else None

    def of(self, height: int, width: int) -> CropBox:
        """Return the box for an image of this height and width."""
        if self._input is None:
            return _FULL_IMAGE
        size, crop_mode = self._input["size"], self._input["crop_mode"]
        if crop_mode == "border":
            ratio = min(size[0] / height, size[1] / width)
            inner = max(1, round(height * ratio)), max(1, round(width * ratio))
            top, left = ((outer - side) // 2 for outer, side in zip(size, inner, strict=True))
            return -top / inner[0], -left / inner[1], size[0] / inner[0], size[1] / inner[1]
        visible = (float(height), float(width))
        if crop_mode == "center":
            ratio = min(height / size[0], width / size[1])
            visible = (size[0] * ratio, size[1] * ratio)
        crop = tuple(max(1, round(side * self._input["crop_pct"])) for side in visible)
        return (height - crop[0]) // 2 / height, (width - crop[1]) // 2 / width, crop[0] / height, crop[1] / width


def _crop_key(spec: Any) -> tuple[Any, ...] | None:
    """Return the values of an input spec that determine the crop; None if they are missing."""
    if not isinstance(spec, Mapping) or not {"size", "crop_mode", "crop_pct"} <= set(spec):
        return None
    size = tuple(spec["size"]) if spec["crop_mode"] != "squash" else ()
    return spec["crop_mode"], spec["crop_pct"], (size[0] / size[1] if spec["crop_mode"] == "center" else size)
