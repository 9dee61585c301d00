"""Test-time augmentation as a value: which views of a picture a network is shown when it predicts.

    none                    the picture as it is
    flip, vflip             each view, and its mirror left to right, or top to bottom
    shifts:2                each view, and the same moved by 2 pixels up, down, left and right
    crops:3@540             3 random crops of the network's size out of the picture at 540 pixels (its shorter side)
    crops:3@1.08x           likewise, out of a picture 1.08 times the network's size
    crops:1,3,5@540         1, 3 or 5 of them, whichever is best on validation
    crops:3@540+flip        joined: every crop, and its mirror

The probabilities of all views of a picture are averaged.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

from tercet.core.errors import ConfigError, raise_problems
from tercet.core.registry import did_you_mean

_KINDS = {"crops": "crops:3@540", "flip": "flip", "shifts": "shifts:2", "vflip": "vflip"}
_CROPS = re.compile(r"(\d+(?:,\d+)*)@(?:(\d+)|(\d+(?:\.\d+)?)x)", re.ASCII)
_MOST = 1000  # crops, or pixels of a shift: more is a slip


@dataclass(frozen=True)
class TTAConfig:
    """The views of every picture; the default is the picture alone."""

    crops: tuple[int, ...] = ()
    """Numbers of random crops to choose from, ascending; none: the whole picture."""
    scale: int | float = 1.0
    """What the picture is brought to before cropping: its shorter side in pixels, or (a float) times the network's."""
    flip: bool = False
    """Show the mirror image left to right too."""
    vflip: bool = False
    """Show the mirror image top to bottom too."""
    shift: int = 0
    """Show the picture moved by so many pixels in each of four directions too."""
    seed: int = 0
    """Seed of the crops' places."""

    def __post_init__(self) -> None:
        largest = 20_000 if isinstance(self.scale, int) else 20
        raise_problems(
            [
                any(count < 1 for count in self.crops) and "crops: the number of crops must be positive",
                any(count > _MOST for count in self.crops) and f"crops: at most {_MOST} crops",
                bool(self.crops) and self.scale < 1 and "crops: a crop cannot be larger than its picture",
                self.scale > largest and f"crops: a picture can be at most {largest} large, not {self.scale:g}",
                not self.crops and self.scale != 1 and "a larger picture is for crops only",
                not 0 <= self.shift <= _MOST and f"shifts: from 1 to {_MOST} pixels",
                self.seed < 0 and "the seed of the views must not be negative",
            ]
        )

    @classmethod
    def parse(cls, text: str, *, seed: int = 0) -> TTAConfig:
        """Read the text form (see the module's beginning).

        Raises:
            ConfigError: An unknown view, one named twice, or numbers that cannot be; all problems are listed.
        """
        if text.strip() == "none":
            return cls(seed=seed)
        fields: dict[str, Any] = {}
        problems = []
        for term in text.split("+"):
            kind, _, argument = term.strip().partition(":")
            try:
                found = _read_term(kind, argument)
                if found.keys() & fields.keys():
                    raise ConfigError(f"'{kind}' is named twice")
                fields |= found
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
        """Tell whether a picture is shown once, as it is."""
        return str(self) == "none"

    @property
    def passes(self) -> int:
        """Forward passes an image; of several numbers of crops, for the largest."""
        return max(self.crops, default=1) * (1 + self.flip) * (1 + self.vflip) * (5 if self.shift else 1)

    def levels(self) -> tuple[TTAConfig, ...]:
        """Return one value for each number of crops to choose from."""
        return tuple(replace(self, crops=(count,)) for count in self.crops) or (self,)

    def picture_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return height and width of the picture that a network of input `size` is shown views of.

        Raises:
            ConfigError: A crop of that size does not fit into it.
        """
        if not self.crops:
            return size
        if isinstance(self.scale, int) and self.scale < min(size):
            raise ConfigError(
                f"tta '{self}': a crop of {size[0]} x {size[1]} pixels, the network's input, does not fit into a "
                f"picture of {self.scale}; give at least {min(size)}"
            )
        factor = self.scale / min(size) if isinstance(self.scale, int) else self.scale
        return round(size[0] * factor), round(size[1] * factor)


NO_TTA = TTAConfig()
"""The picture alone."""


def _read_term(kind: str, argument: str) -> dict[str, Any]:
    """Return the fields that one term sets."""
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
