"""What of a member's input decides the pixels that it is shown; members that agree are shown the same."""

from __future__ import annotations

from dataclasses import dataclass

from tercet.deploy.bundle import Bundle
from tercet.ground.errors import ModelError
from tercet.records.contracts import InputSpec


@dataclass(frozen=True)
class Geometry:
    """What of an `InputSpec` decides its pixels; mean and deviation belong to the network."""

    size: tuple[int, int]
    channels: int
    crop_mode: str
    crop_pct: float
    interpolation: str

    @classmethod
    def of(cls, spec: InputSpec) -> Geometry:
        """Return that of a spec.

        Raises:
            ModelError: Its channels can be made neither of grey nor of colour.
        """
        if spec.channels not in (1, 3):
            raise ModelError(f"a network that reads {spec.channels} channels cannot be exported: images have 1 or 3")
        return cls(spec.size, spec.channels, spec.crop_mode, spec.crop_pct, spec.interpolation)


def geometries(bundle: Bundle) -> list[Geometry]:
    """Return what each member is shown, its views included.

    Raises:
        ModelError: A member reads channels that images do not have.
    """
    return [Geometry.of(spec) for spec in bundle.specs]
