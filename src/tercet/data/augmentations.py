"""Augmentations by name: ranges of random transforms, or functions on a batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tercet.core.registry import PARTS, Registry

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Preset:
    """Ranges of uniform random transforms, drawn per image; a single value v stands for the range [-v, v)."""

    rotation: float = 0.0
    """Angle in degrees."""
    shift: float = 0.0
    """Shift as a fraction of height and of width."""
    shear: float = 0.0
    """Shear angle in degrees."""
    zoom_range: tuple[float, float] = (1.0, 1.0)
    """Factors on the coordinates, independent for height and width; above 1 the image shrinks."""
    channel_shift: float = 0.0
    """Value added to all channels, on the [0, 1] scale, clipped to the image's own range."""
    horizontal_flip: bool = False
    """Flip left to right with probability 0.5."""
    vertical_flip: bool = False
    """Flip top to bottom with probability 0.5."""
    same_zoom: bool = False
    """Use one zoom factor for height and width."""
    contrast: float = 0.0
    """Relative change of all values."""
    brightness: float = 0.0
    """Value added to all channels after the contrast change, on the [0, 1] scale, clipped to [0, 1]."""

    @property
    def is_geometric(self) -> bool:
        """Whether the affine map is not the identity."""
        return bool(self.rotation or self.shift or self.shear) or self.zoom_range != (1.0, 1.0)


Augmentation = Preset | Callable[..., "Tensor"]
"""Ranges, or a function from images B C H W in [0, 1], and optionally a CPU generator, to images of the same shape."""
AUGMENTATIONS: Registry[Augmentation] = PARTS["augmentation"]

_LIGHT = {"rotation": 8.0, "shift": 0.08, "zoom_range": (0.92, 1.08)}
_PAPER = {"rotation": 30.0, "shift": 0.3, "shear": 0.3, "zoom_range": (0.7, 1.3), "channel_shift": 10 / 255}

PRESETS: dict[str, Preset] = {
    "none": Preset(),
    "flip": Preset(horizontal_flip=True),
    "light": Preset(**_LIGHT),  # type: ignore[arg-type]
    "light-flip": Preset(**_LIGHT, horizontal_flip=True),  # type: ignore[arg-type]
    "paper": Preset(**_PAPER, horizontal_flip=True, vertical_flip=True),  # type: ignore[arg-type]
    "paper-noflip": Preset(**_PAPER),  # type: ignore[arg-type]
    "leaves": Preset(
        rotation=45.0,
        shift=1 / 16,
        zoom_range=(0.9, 1.1),
        same_zoom=True,
        contrast=0.2,
        brightness=0.2,
        horizontal_flip=True,
        vertical_flip=True,
    ),
}
"""Presets by name. `paper` is the published one, whose shear of 0.3 is in degrees (almost none). `leaves` has the
transforms of the fifth place in the leaf competition, with common ranges, since none were published."""
for _name, _preset in PRESETS.items():
    AUGMENTATIONS.register(_name)(_preset)
