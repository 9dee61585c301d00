"""`Decoding`: how image files become pixels, which is stored with a model so that later images are read alike."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tercet.config.run import DataConfig, parse_value_range
from tercet.core.errors import ConfigError, ModelError
from tercet.core.output import count

MAX_16_BIT = 65535
_DARK = 4  # a data set that uses less than a quarter of the range of its type looks (nearly) black
_LOCK = threading.Lock()  # of all `Observed`, which are copied to other processes
_BIT_DEPTHS = (8, 10, 12, 14)

Range = tuple[float, float]


@dataclass
class Observed:
    """Ranges of values over the images that were decoded, of those with more than 8 bits per channel."""

    grey: int = 0
    """Number of grey images of more than 8 bits."""
    colour: int = 0
    """Number of images with 16 bits per colour."""
    low: float = float("inf")
    high: float = float("-inf")
    full: float = 0
    """Greatest value of the type of any of them; 0 if unknown."""
    outside: int = 0
    """Number of images with values outside the limits."""
    truncated: int = 0
    """Number of truncated files that were read as far as they go."""

    def add(self, low: float, high: float, *, full: Range | None, limits: Range, colour: bool = False) -> None:
        """Add the least and greatest value of an image."""
        with _LOCK:
            self.grey, self.colour = self.grey + (not colour), self.colour + colour
            self.low, self.high = min(self.low, low), max(self.high, high)
            self.full = max(self.full, full[1] if full is not None else 0)
            self.outside += low < limits[0] or high > limits[1]

    def add_truncated(self) -> None:
        """Add a truncated file that was read as far as it goes."""
        with _LOCK:
            self.truncated += 1


@dataclass(frozen=True)
class Decoding:
    """How image files become pixels."""

    value_range: str = "auto"
    """auto, full or MIN,MAX: the values that become black and white in grey images of more than 8 bits."""
    truncated: bool = False
    """Whether truncated JPEG files are read as far as they go."""
    observed: Observed = field(default_factory=Observed, compare=False, repr=False)
    """Ranges of the images that were decoded."""

    @classmethod
    def of(cls, config: DataConfig) -> Decoding:
        """Return the decoding that options describe."""
        return cls(config.value_range, config.truncated)

    @classmethod
    def of_card(cls, card: Mapping[str, Any]) -> Decoding:
        """Return the decoding of a model's card, which an unknown program may have written.

        Raises:
            ModelError: It is malformed.
        """
        data = card.get("data")
        values = data.get("decoding") if isinstance(data, Mapping) else None
        return cls() if values is None else cls.from_dict(values)

    @classmethod
    def from_dict(cls, values: Any) -> Decoding:
        """Invert `to_dict`.

        Raises:
            ModelError: The values are malformed.
        """
        try:
            text, truncated = values["value_range"], values["truncated"]
            parse_value_range(text)
        except (ConfigError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(f"the record of how images are decoded is damaged: {error}") from error
        return cls(text, truncated is True)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {"value_range": self.value_range, "truncated": self.truncated}

    def fresh(self) -> Decoding:
        """Return the same decoding with nothing observed."""
        return replace(self, observed=Observed())

    @property
    def limits(self) -> Range | None:
        """The values that become black and white; None: those that the type of the image has."""
        return parse_value_range(self.value_range)

    def warnings(self, *, of_model: bool = False) -> Iterator[str]:
        """Yield one sentence for each fault of the images that were decoded.

        Args:
            of_model: Whether they were decoded as a model requires, rather than by options.
        """
        seen, option = self.observed, "predict --value-range" if of_model else "--data.value-range"
        images = count(seen.grey + seen.colour, "image")
        interval = f"values from {seen.low:g} to {seen.high:g}"
        if self.value_range == "auto" and seen.full and seen.low >= 0 and seen.high * _DARK < seen.full:
            bits = next(bits for bits in _BIT_DEPTHS if seen.high < 2**bits)
            advice = (
                "convert them to 8 bits"
                if seen.colour
                else f"if they hold {bits} bits, give {option} 0,{2**bits - 1}; full keeps this scaling"
            )
            yield (
                f"{images} of 16 bits: {interval} only, of {seen.full:.0f} possible, so that they are nearly black: "
                f"{advice}"
            )
        if seen.outside:
            yield (
                f"{seen.outside} of {images} with more than 8 bits have values outside the value range "
                f"{self.value_range}, which are clipped: {interval} over all images"
            )
        if seen.truncated:
            yield f"{count(seen.truncated, 'truncated image')} read as far as the file goes (--data.truncated)"


DEFAULT = Decoding()
"""Decoding by default; what it observes is not reported."""


def model_config(config: DataConfig, card: Mapping[str, Any]) -> DataConfig:
    """Return options for reading data for a model, whose images were decoded as its card states.

    An explicit `value_range` is kept: the data may be stored with another depth than those of the training.
    """
    decoding = Decoding.of_card(card)
    value_range = decoding.value_range if config.value_range == "auto" else config.value_range
    return replace(config, value_range=value_range, truncated=config.truncated or decoding.truncated)
