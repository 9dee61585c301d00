"""What was found when a bundle was asked what it saw: values for people, for programs and for figures.

Shapes: H x W pixels of a picture, h x w cells of a map, T steps, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tercet.core.resize import Window
from tercet.core.streams import printable
from tercet.data.image_cache import BadImage
from tercet.explain.attention_rollout import Rollout
from tercet.explain.grad_cam import ActivationMap
from tercet.explain.layers import short_name
from tercet.explain.step_attribution import StepContributions

_DIGITS = 6
_STRONGEST = 3
_MISSED = 0.05
_LEAST = 0.0005


@dataclass(frozen=True)
class MemberExplanation:
    """What one member saw in one image."""

    name: str
    """The member."""
    predicted: str
    """Its own answer; labels of a set are joined."""
    share: float
    """Probability, or score, that it gives to the explained class."""
    window: Window
    """What of the picture it was shown."""
    activation: ActivationMap | None = None
    """Class-activation map."""
    rollout: Rollout | None = None
    """Attention roll-out."""
    steps: StepContributions | None = None
    """Contributions of the steps of its scan."""
    reasons: tuple[str, ...] = ()
    """Why ways to explain are missing."""

    @property
    def cells(self) -> Tensor | None:
        """Return where its answer came from, not negative: the first there is of map, roll-out and steps."""
        if self.activation is not None:
            return self.activation.cells
        if self.rollout is not None:
            return self.rollout.patches
        return None if self.steps is None else self.steps.cells.clamp(min=0)

    def all_cells(self) -> list[Tensor]:
        """Return all that there is of map, roll-out and steps, h w each."""
        activation = [] if self.activation is None else [self.activation.cells]
        rollout = [] if self.rollout is None else [self.rollout.patches]
        return [*activation, *rollout, *([] if self.steps is None else [self.steps.cells])]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        found: dict[str, Any] = {"name": self.name, "predicted": self.predicted, "share": self.share}
        found["window"] = vars(self.window)
        if self.activation is not None:
            found["activation"] = {"layer": self.activation.layer, "cells": _rounded(self.activation.cells)}
        if self.rollout is not None:
            roll = self.rollout
            found["rollout"] = {"reads": roll.reads, "blocks": roll.blocks, "rest": roll.rest}
            found["rollout"]["patches"] = _rounded(roll.patches)
        if self.steps is not None:
            scan = self.steps
            found["steps"] = {"scan": scan.scan, "directions": scan.directions, "logit": scan.logit}
            found["steps"] |= {"baseline": scan.baseline, "error": scan.error, "points": scan.points}
            found["steps"] |= {"contributions": _rounded(scan.contributions), "cells": _rounded(scan.cells)}
        return found | {"not_offered": list(self.reasons)}

    def to_lines(self, size: tuple[int, int]) -> list[str]:
        """Return what people read.

        Args:
            size: H and W of the picture.
        """
        lines = []
        if self.activation is not None:
            grid = _grid(self.activation.cells)
            where = self._strongest(self.activation.cells, size) or "nothing speaks for the class there"
            lines.append(f"class-activation map at {short_name(self.activation.layer)} ({grid}): {where}")
        if self.rollout is not None:
            roll = self.rollout
            where, who = self._strongest(roll.patches, size), f"{'the ' * ('token' in roll.reads)}{roll.reads}"
            lines.append(f"attention roll-out of {roll.blocks} blocks ({_grid(roll.patches)}) to {who}: {where}")
        if self.steps is not None:
            lines.append(self._steps_line(self.steps, size))
        return lines or [f"nothing to draw: {'; '.join(self.reasons)}"]

    def _strongest(self, cells: Tensor, size: tuple[int, int]) -> str:
        if not bool((cells > 0).any()):
            return ""
        row, column = divmod(int(cells.argmax()), cells.shape[1])
        return f"strongest around {self._row(row, cells, size)}, {self._column(column, cells, size)} of the picture"

    def _row(self, row: int, cells: Tensor, size: tuple[int, int]) -> str:
        """Return the picture's row in which the middle of a row of cells lies."""
        middle = self.window.top + self.window.height * (row + 0.5) / cells.shape[0]
        return f"row {_inside(middle, size[0])}"

    def _column(self, column: int, cells: Tensor, size: tuple[int, int]) -> str:
        middle = self.window.left + self.window.width * (column + 0.5) / cells.shape[1]
        return f"column {_inside(middle, size[1])}"

    def _steps_line(self, scan: StepContributions, size: tuple[int, int]) -> str:
        values = scan.contributions.tolist()
        order = sorted(range(len(values)), key=lambda step: -abs(values[step]))[:_STRONGEST]
        told = ", ".join(
            f"step {step + 1} ({self._of_step(scan, step, size)}: {values[step]:+.3f})"
            for step in order
            if abs(values[step]) >= _LEAST
        )
        nothing = "no step contributed 0.001 or more" if any(values) else "no step contributed anything"
        both = ", read both ways" if scan.directions == 2 else ""
        missed = abs(scan.error) > _MISSED * abs(scan.logit - scan.baseline)
        error = f"; steep: the contributions sum to {scan.error:+.3f} beside the difference" if missed else ""
        return (
            f"{len(values)} steps over {scan.scan}{both}: logit {scan.baseline:z.3f} without them, {scan.logit:z.3f} "
            f"with; {f'most by {told}' if told else nothing}{error}"
        )

    def _of_step(self, scan: StepContributions, step: int, size: tuple[int, int]) -> str:
        """Return where in the picture a step stands; its number counts what the network reads."""
        if scan.scan in ("rows", "pixel rows"):
            return f"picture {self._row(step, scan.cells, size)}"
        if scan.scan == "columns":
            return f"picture {self._column(step, scan.cells, size)}"
        row, column = scan.place(step)
        return f"picture {self._row(row, scan.cells, size)}, {self._column(column, scan.cells, size)}"


@dataclass(frozen=True)
class ImageExplanation:
    """What a bundle said of one image, and what its members saw in it."""

    id: str
    """Path, or place among the images."""
    size: tuple[int, int]
    """H and W."""
    target: str
    """The class that maps and contributions are of."""
    predicted: str
    """The fused answer; labels of a set are joined."""
    best: tuple[tuple[str, float], ...]
    """The most probable classes."""
    members: tuple[MemberExplanation, ...]
    """What each member saw."""
    files: tuple[str, ...] = ()
    """Figures, by their names in the output folder."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "id": self.id,
            "size": list(self.size),
            "predicted": self.predicted,
            "best": dict(self.best),
            "explained": self.target,
            "members": [saw.to_dict() for saw in self.members],
            "figures": list(self.files),
        }

    def to_text(self) -> str:
        """Return what people read."""
        said = "  ".join(f"{printable(name)} {share:.3f}" for name, share in self.best[:3])
        other = "" if self.target == self.predicted else f" (explained: {printable(self.target)})"
        lines = [f"{printable(self.id)}: {said}{other}"]
        for saw in self.members:
            lines.append(f"  {printable(saw.name)}: {printable(saw.predicted)}; explained class {saw.share:.3f}")
            lines += [f"    {line}" for line in saw.to_lines(self.size)]
        return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Explanations:
    """What a bundle saw in some images."""

    bundle: str
    """The bundle's name: its member's, or the way its members are combined."""
    images: tuple[ImageExplanation, ...]
    """Those that could be read."""
    bad: tuple[BadImage, ...] = ()
    """Those that could not."""
    path: Any = None
    """Folder with figures and numbers."""
    files: tuple[str, ...] = ()
    """Figures of filters, which belong to no image."""
    notes: tuple[str, ...] = field(default=())
    """What holds for all images."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "bundle": self.bundle,
            "images": [image.to_dict() for image in self.images],
            "unreadable": [{"id": image.id, "reason": image.reason} for image in self.bad],
            "filters": list(self.files),
            "notes": list(self.notes),
        }

    def to_text(self) -> str:
        """Return what people read."""
        parts = [image.to_text() for image in self.images]
        parts += [f"{printable(image.location)}: UNREADABLE ({image.reason})\n" for image in self.bad]
        parts += [f"{note}\n" for note in self.notes]
        count = len(self.files) + sum(len(image.files) for image in self.images)
        return "".join([*parts, f"folder: {self.path} ({count} figures, explain.json)\n"])


def _rounded(values: Tensor) -> list[Any]:
    """Return nested lists of numbers with a few significant digits."""

    def short(part: Any) -> Any:
        return [short(one) for one in part] if isinstance(part, list) else float(f"{part:.{_DIGITS}g}")

    listed: list[Any] = short(values.tolist())
    return listed


def _inside(middle: float, pixels: int) -> int:
    """Return the number of the row or column, counted from 1; the nearest one where a network was shown padding."""
    return min(max(math.floor(middle), 0), pixels - 1) + 1


def _grid(cells: Tensor) -> str:
    return f"{cells.shape[0]} x {cells.shape[1]}"


def best_of(names: Sequence[str], shares: NDArray[np.floating[Any]], count: int = 5) -> tuple[tuple[str, float], ...]:
    """Return the classes with the highest probabilities or scores, best first."""
    order = np.argsort(-shares, kind="stable")[:count]
    return tuple((names[index], float(shares[index])) for index in order)
