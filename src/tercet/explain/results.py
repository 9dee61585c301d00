"""Results of explanations, as text and as JSON.

Shapes: H x W pixels of an image, h x w cells of a map, T steps, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tercet.core.output import printable
from tercet.core.resize import Window
from tercet.data.read_ahead import BadImage
from tercet.explain.attention_rollout import Rollout
from tercet.explain.grad_cam import ActivationMap
from tercet.explain.layers import short_name
from tercet.explain.step_attribution import StepContributions

_DIGITS = 6
_MAX_STEPS_LISTED = 3
_MAX_RELATIVE_ERROR = 0.05
_MIN_CONTRIBUTION = 0.0005


@dataclass(frozen=True)
class MemberExplanation:
    """Explanation of one member's prediction for one image."""

    name: str
    """Name of the member."""
    predicted: str
    """Class that the member alone predicts; for multi-label models the joined labels."""
    share: float
    """Probability, or score, of the explained class."""
    window: Window
    """Part of the image that the member reads."""
    activation: ActivationMap | None = None
    """Class-activation map."""
    rollout: Rollout | None = None
    """Attention rollout."""
    steps: StepContributions | None = None
    """Contributions of the steps of its scan."""
    reasons: tuple[str, ...] = ()
    """Why methods are missing."""

    @property
    def cells(self) -> Tensor | None:
        """Main map, h w, non-negative: the first available of class activation, rollout and step contributions."""
        if self.activation is not None:
            return self.activation.cells
        if self.rollout is not None:
            return self.rollout.patches
        return None if self.steps is None else self.steps.cells.clamp(min=0)

    def all_cells(self) -> list[Tensor]:
        """Return the available maps, h w each."""
        activation = [] if self.activation is None else [self.activation.cells]
        rollout = [] if self.rollout is None else [self.rollout.patches]
        return [*activation, *rollout, *([] if self.steps is None else [self.steps.cells])]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        values: dict[str, Any] = {"name": self.name, "predicted": self.predicted, "share": self.share}
        values["window"] = vars(self.window)
        if self.activation is not None:
            values["activation"] = {"layer": self.activation.layer, "cells": _rounded(self.activation.cells)}
        if self.rollout is not None:
            roll = self.rollout
            values["rollout"] = {"reads": roll.reads, "blocks": roll.blocks, "rest": roll.rest}
            values["rollout"]["patches"] = _rounded(roll.patches)
        if self.steps is not None:
            scan = self.steps
            values["steps"] = {"scan": scan.scan, "directions": scan.directions, "logit": scan.logit}
            values["steps"] |= {"baseline": scan.baseline, "error": scan.error, "points": scan.points}
            values["steps"] |= {"contributions": _rounded(scan.contributions), "cells": _rounded(scan.cells)}
        return values | {"not_offered": list(self.reasons)}

    def to_lines(self, size: tuple[int, int]) -> list[str]:
        """Return lines of text; `size` is H and W of the image."""
        lines = []
        if self.activation is not None:
            peak = self._peak(self.activation.cells, size) or "nothing at this layer supports the class"
            grid = _grid(self.activation.cells)
            lines.append(f"class-activation map at {short_name(self.activation.layer)} ({grid}): {peak}")
        if self.rollout is not None:
            roll = self.rollout
            tokens = f"{'the ' * ('token' in roll.reads)}{roll.reads}"
            peak = self._peak(roll.patches, size)
            lines.append(f"attention rollout of {roll.blocks} blocks ({_grid(roll.patches)}) to {tokens}: {peak}")
        if self.steps is not None:
            lines.append(self._steps_line(self.steps, size))
        return lines or [f"nothing to draw: {'; '.join(self.reasons)}"]

    def _peak(self, cells: Tensor, size: tuple[int, int]) -> str:
        if not bool((cells > 0).any()):
            return ""
        row, column = divmod(int(cells.argmax()), cells.shape[1])
        return f"strongest at {self._row(row, cells, size)}, {self._column(column, cells, size)} of the image"

    def _row(self, row: int, cells: Tensor, size: tuple[int, int]) -> str:
        """Return the row of pixels in the middle of a row of cells."""
        middle = self.window.top + self.window.height * (row + 0.5) / cells.shape[0]
        return f"row {_pixel_number(middle, size[0])}"

    def _column(self, column: int, cells: Tensor, size: tuple[int, int]) -> str:
        middle = self.window.left + self.window.width * (column + 0.5) / cells.shape[1]
        return f"column {_pixel_number(middle, size[1])}"

    def _steps_line(self, scan: StepContributions, size: tuple[int, int]) -> str:
        values = scan.contributions.tolist()
        order = sorted(range(len(values)), key=lambda step: -abs(values[step]))[:_MAX_STEPS_LISTED]
        largest = ", ".join(
            f"step {step + 1} ({self._step_position(scan, step, size)}: {values[step]:+.3f})"
            for step in order
            if abs(values[step]) >= _MIN_CONTRIBUTION
        )
        none = "no step contributes 0.001 or more" if any(values) else "no step contributes anything"
        both = ", in both directions" if scan.directions == 2 else ""
        inexact = abs(scan.error) > _MAX_RELATIVE_ERROR * abs(scan.logit - scan.baseline)
        error = f"; inexact: the contributions differ from the logit difference by {scan.error:+.3f}" if inexact else ""
        return (
            f"{len(values)} steps over {scan.scan}{both}: logit {scan.baseline:z.3f} without input, {scan.logit:z.3f} "
            f"with it; {f'largest contributions: {largest}' if largest else none}{error}"
        )

    def _step_position(self, scan: StepContributions, step: int, size: tuple[int, int]) -> str:
        """Return where in the image a step lies; steps themselves are numbered in the order of the scan."""
        if scan.scan in ("rows", "pixel rows"):
            return f"image {self._row(step, scan.cells, size)}"
        if scan.scan == "columns":
            return f"image {self._column(step, scan.cells, size)}"
        row, column = scan.cell_of(step)
        return f"image {self._row(row, scan.cells, size)}, {self._column(column, scan.cells, size)}"


@dataclass(frozen=True)
class ImageExplanation:
    """Prediction of a bundle for one image, and the explanations of its members."""

    id: str
    """Path, or index of the image in the input."""
    size: tuple[int, int]
    """H and W."""
    target: str
    """The class that is explained."""
    predicted: str
    """Class that the bundle predicts; for multi-label models the joined labels."""
    best: tuple[tuple[str, float], ...]
    """The most probable classes."""
    members: tuple[MemberExplanation, ...]
    """One explanation per member."""
    files: tuple[str, ...] = ()
    """File names of the figures in the output folder."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "id": self.id,
            "size": list(self.size),
            "predicted": self.predicted,
            "best": dict(self.best),
            "explained": self.target,
            "members": [member.to_dict() for member in self.members],
            "figures": list(self.files),
        }

    def to_text(self) -> str:
        """Return a summary in plain text."""
        best = "  ".join(f"{printable(name)} {share:.3f}" for name, share in self.best[:3])
        other = "" if self.target == self.predicted else f" (explained: {printable(self.target)})"
        lines = [f"{printable(self.id)}: {best}{other}"]
        for member in self.members:
            score = f"explained class {member.share:.3f}"
            lines.append(f"  {printable(member.name)}: {printable(member.predicted)}; {score}")
            lines += [f"    {line}" for line in member.to_lines(self.size)]
        return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Explanations:
    """Explanations of a bundle's predictions for several images."""

    bundle: str
    """Name of the bundle: its only member's, or its ensemble method's."""
    images: tuple[ImageExplanation, ...]
    """Results of the readable images."""
    bad: tuple[BadImage, ...] = ()
    """Unreadable images."""
    path: Any = None
    """Output folder with figures and `explain.json`."""
    files: tuple[str, ...] = ()
    """File names of the figures of filters, which belong to no single image."""
    notes: tuple[str, ...] = field(default=())
    """Remarks that hold for all images."""

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
        """Return a summary in plain text."""
        parts = [image.to_text() for image in self.images]
        parts += [f"{printable(image.location)}: UNREADABLE ({image.reason})\n" for image in self.bad]
        parts += [f"{note}\n" for note in self.notes]
        count = len(self.files) + sum(len(image.files) for image in self.images)
        return "".join([*parts, f"folder: {self.path} ({count} figures, explain.json)\n"])


def _rounded(values: Tensor) -> list[Any]:
    """Return nested lists of numbers with a few significant digits."""

    def shorten(item: Any) -> Any:
        return [shorten(part) for part in item] if isinstance(item, list) else float(f"{item:.{_DIGITS}g}")

    nested: list[Any] = shorten(values.tolist())
    return nested


def _pixel_number(position: float, pixels: int) -> int:
    """Return the number of a row or column, counted from 1; a position in the padding gives the nearest one."""
    return min(max(math.floor(position), 0), pixels - 1) + 1


def _grid(cells: Tensor) -> str:
    return f"{cells.shape[0]} x {cells.shape[1]}"


def top_classes(
    names: Sequence[str], shares: NDArray[np.floating[Any]], count: int = 5
) -> tuple[tuple[str, float], ...]:
    """Return the classes with the highest probabilities or scores, best first."""
    order = np.argsort(-shares, kind="stable")[:count]
    return tuple((names[index], float(shares[index])) for index in order)
