"""Configuration of test-time augmentation (TTA): the views of an image whose probabilities are averaged.

none                    the image only
flip, vflip             adds horizontal or vertical flips of all views
shifts:2                adds shifts of all views by 2 pixels up, down, left and right
crops:3@540             3 random crops of the input size, from the image resized to a shorter side of 540 pixels
crops:3@1.08x           the same, from the image resized to 1.08 times the input size
crops:1,3,5@540         1, 3 or 5 crops, whichever number is best on validation
crops:3@540+flip        combination: each crop and its flip
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

from tercet.core.errors import ConfigError, raise_problems
from tercet.core.registry import did_you_mean

_KINDS = {"crops": "crops:3@540", "flip": "flip", "shifts": "shifts:2", "vflip": "vflip"}
_CROPS = re.compile(r"(\d+(?:,\d+)*)@(?:(\d+)|(\d+(?:\.\d+)?)x)", re.ASCII)
_MAX_COUNT = 1000  # crops, or pixels of a shift: larger numbers are typing errors


@dataclass(frozen=True)
class TTAConfig:
    """Views of every image; by default, the image only."""

    crops: tuple[int, ...] = ()
    """Numbers of random crops to choose from, ascending; empty: the whole image."""
    scale: int | float = 1.0
    """Image size before cropping: shorter side in pixels (int), or multiple of the input size (float)."""
    flip: bool = False
    """Add horizontal flips."""
    vflip: bool = False
    """Add vertical flips."""
    shift: int = 0
    """Add shifts by this many pixels in four directions; 0: none."""
    seed: int = 0
    """Seed of the crop positions."""

    def __post_init__(self) -> None:
        largest = 20_000 if isinstance(self.scale, int) else 20
        raise_problems(
            [
                any(count < 1 for count in self.crops) and "crops: the number of crops must be positive",
                any(count > _MAX_COUNT for count in self.crops) and f"crops: at most {_MAX_COUNT} crops",
                bool(self.crops) and self.scale < 1 and "crops: a crop cannot be larger than the image",
                self.scale > largest and f"crops: the image size {self.scale:g} must be at most {largest}",
                not self.crops and self.scale != 1 and "an image size needs crops",
                not 0 <= self.shift <= _MAX_COUNT and f"shifts: from 1 to {_MAX_COUNT} pixels",
                self.seed < 0 and "the seed of test-time augmentation must not be negative",
            ]
        )

    @classmethod
    def parse(cls, text: str, *, seed: int = 0) -> TTAConfig:
        """Parse the text form described in the module docstring.

        Raises:
            ConfigError: Unknown or repeated views, or invalid numbers; lists all problems.
        """
        if text.strip() == "none":
            return cls(seed=seed)
        fields: dict[str, Any] = {}
        problems = []
        for term in text.split("+"):
            kind, _, argument = term.strip().partition(":")
            try:
                values = _read_term(kind, argument)
                if values.keys() & fields.keys():
                    raise ConfigError(f"'{kind}' is given twice")
                fields |= values
            except ConfigError as error:
                problems.append(f"tta '{text}': {error}")
        raise_problems(problems)
        try:
            return cls(**fields, seed=seed)
        except ConfigError as error:
            raise ConfigError(f"tta '{text}': {error}") from error

    def __str__(self) -> str:
        scale = f"{self.scale}" if isinstance(self.scale, int) else f"{self.scale:g}x"
        terms = [
            f"crops:{','.join(map(str, self.crops))}@{scale}" if self.crops else "",
            "flip" if self.flip else "",
            "vflip" if self.vflip else "",
            f"shifts:{self.shift}" if self.shift else "",
        ]
        return "+".join(filter(None, terms)) or "none"

    @property
    def plain(self) -> bool:
        """Whether the image itself is the only view."""
        return str(self) == "none"

    @property
    def passes(self) -> int:
        """Forward passes per image, for the largest number of crops."""
        return max(self.crops, default=1) * (1 + self.flip) * (1 + self.vflip) * (5 if self.shift else 1)

    def levels(self) -> tuple[TTAConfig, ...]:
        """Return one configuration per number of crops to choose from."""
        return tuple(replace(self, crops=(count,)) for count in self.crops) or (self,)

    def enlarged_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return height and width of the image that views of input `size` are cropped from.

        Raises:
            ConfigError: The image is smaller than a crop.
        """
        if not self.crops:
            return size
        if isinstance(self.scale, int) and self.scale < min(size):
            raise ConfigError(
                f"tta '{self}': crops of the input size {size[0]} x {size[1]} do not fit into an image of {self.scale} "
                f"pixels: give at least {min(size)}"
            )
        factor = self.scale / min(size) if isinstance(self.scale, int) else self.scale
        return round(size[0] * factor), round(size[1] * factor)


NO_TTA = TTAConfig()


def _read_term(kind: str, argument: str) -> dict[str, Any]:
    """Return the fields that a term sets."""
    if kind not in _KINDS:
        raise ConfigError(
            f"unknown view '{kind}'{did_you_mean(kind, _KINDS)} (known: none, {', '.join(_KINDS.values())})"
        )
    if kind == "crops" and (match := _CROPS.fullmatch(argument)):
        counts, pixels, factor = match.groups()
        return {
            "crops": tuple(sorted({int(count) for count in counts.split(",")})),
            "scale": int(pixels) if pixels else float(factor),
        }
    if kind == "shifts" and re.fullmatch(r"0*[1-9]\d*", argument, re.ASCII):
        return {"shift": int(argument)}
    if kind in ("flip", "vflip") and not argument:
        return {kind: True}
    raise ConfigError(f"'{kind}{f':{argument}' if argument else ''}' is not of the form {_KINDS[kind]}")
