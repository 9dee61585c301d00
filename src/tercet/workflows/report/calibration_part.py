"""What calibration did to the probabilities of what a run ships: scores before and after, and what is promised."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tercet.pictures.page import Block, Paragraph, Table
from tercet.pictures.reliability import reliability
from tercet.records.calibration import Calibration
from tercet.records.predictions import Predictions
from tercet.workflows.report.record import Record
from tercet.workflows.report.sketchbook import Sketchbook
from tercet.workflows.report.wording import number

_SCORES = ("ece", "log_loss", "brier")
_HEADER = ("images", "n", "ECE", "calibrated", "log loss", "calibrated", "Brier", "calibrated")


def calibration(record: Record, said: Predictions, book: Sketchbook) -> Iterator[Block]:
    """Yield the blocks; none for a run that was not calibrated.

    Args:
        record: The run.
        said: What its choice said of the split that judges it, before calibration.
        book: Where figures go.
    """
    told = record.document.get("calibration")
    if not isinstance(told, Mapping):
        return
    one = Calibration.from_dict({key: value for key, value in told.items() if key not in ("used", "notes", "test")})
    test: Mapping[str, Any] = told.get("test") or {}
    if one.temperature != 1:
        yield Paragraph(
            f"The bundle answers with temperature {one.temperature:.3f}, fitted on {one.rows:,} validation images; no "
            "predicted class changes. Every other number of this page is from before."
        )
        rows = [
            _row("validation, cross-fitted", one.rows, told),
            *([_row("test", test.get("n", 0), test)] if test else []),
        ]
        yield Table(_HEADER, rows, "lrrrrrrr", "Probabilities before and after the temperature")
        if test and record.judged == "test":
            yield book.draw(
                "reliability-calibrated",
                f"The same images after the temperature of {one.temperature:.3f}.",
                lambda axes: reliability(axes, one.apply(said)),
                height=4.2,
            )
    elif one.rows:
        yield Paragraph(
            f"No temperature lowers the cross-fitted log loss of the {one.rows:,} validation images: the bundle's "
            "probabilities are those of this page."
        )
    yield from map(Paragraph, _promises(one, test))
    yield from (Paragraph(note[:1].upper() + note[1:] + ".", quiet=True) for note in told.get("notes", ()))


def _row(name: str, count: int, values: Mapping[str, Any]) -> tuple[str, ...]:
    scores = (number(values.get(f"{key}_{when}")) for key in _SCORES for when in ("before", "after"))
    return (name, f"{count:,}", *scores)


def _promises(one: Calibration, test: Mapping[str, Any]) -> Iterator[str]:
    rule, sets = one.reject, one.conformal
    if rule is not None:
        below = f"where its probability is below {rule.threshold:.4f}. Of the others"
        told = (
            f"{f'An answer is rejected {below}' if rule.threshold else 'No answer need be rejected: of all'} at most "
            f"{_percent(rule.risk)} are wrong, with {_percent(rule.confidence)} confidence: of {rule.rows:,} "
            f"validation images of its own {_percent(rule.answered)} are answered, and {_percent(rule.errors)} of "
            "those are wrong"
        )
        if test.get("answered") is not None:
            told += f"; of the test images {_percent(test['answered'])} are answered"
        if test.get("errors_answered") is not None:
            told += f", {_percent(test['errors_answered'])} of those wrong"
        yield f"{told}."
    if sets is not None:
        told = (
            f"Prediction sets hold the true class of {_percent(sets.coverage)} of the images: their quantile of "
            f"{sets.quantile:.4f} is from {sets.rows:,} validation images of their own"
        )
        if test.get("set_coverage") is not None:
            told += f"; they hold it for {_percent(test['set_coverage'])} of the test images"
            told += f", with {number(test.get('set_size'), 2)} classes a set"
        yield f"{told}."


def _percent(share: float) -> str:
    return f"{100 * share:.4g} %"
