"""What the server needs of a model; `tercet.deploy.exported.ExportedModel` is one.

Shapes: B images, H x W pixels, M members, K classes, h x w cells of a map.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class Output(Protocol):
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


class Model(Protocol):
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

    def run(self, images: NDArray[np.uint8]) -> Output:
        """Classify B H W 3; raises a `TercetError` where the answer would not be finite."""
