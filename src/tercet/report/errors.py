"""Confusions, hardest images and calibration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from scipy.stats import binomtest

from tercet.core.calibration import Calibration
from tercet.core.errors import DataError
from tercet.core.predictions import Predictions
from tercet.data.decode import Pixels
from tercet.data.run_reader import RunReader
from tercet.metrics.classification import confused_pairs, confusion, per_class
from tercet.metrics.seed_comparison import agreement_matrix
from tercet.plots.bars import Bar, bars, bars_height
from tercet.plots.figure_writer import FigureWriter
from tercet.plots.grids import thumbnail
from tercet.plots.matrices import agreement, reliability
from tercet.plots.matrices import confused_pairs as draw_pairs
from tercet.plots.matrices import confusion as draw_confusion
from tercet.plots.page import Block, Details, Images, Paragraph, Section, Table
from tercet.report.summary import number

_SCORES = ("ece", "log_loss", "brier")
_HEADER = ("images", "n", "ECE", "calibrated", "log loss", "calibrated", "Brier", "calibrated")


def calibration_section(record: RunReader, said: Predictions, book: FigureWriter) -> Iterator[Block]:
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


_WHOLE_MATRIX = 20  # classes up to which numbers in cells can be read
_HARDEST = 24
_SIDE = 192  # pixels of a small picture


def errors_section(record: RunReader, book: FigureWriter) -> list[Section]:
    """Return the sections on classes, probabilities, members beside each other, and the hardest images."""
    said = record.choice
    if said is None:
        gone = "The stored predictions of what was chosen are gone: no confusion, no classes, no hardest images."
        return [Section("Classes", [Paragraph(gone, quiet=True)])]
    if len(said.classes) < 2 or not said.known.any():
        why = "there is one class" if len(said.classes) < 2 else "no image has a label"
        return [Section("Classes", [Paragraph(f"Left out, as {why}.", quiet=True)])]
    sections = [
        Section("Classes", [*_matrices(said, book), *_classes(said, book)]),
        Section("Probabilities", [_reliability(said, book), *calibration_section(record, said, book)]),
    ]
    beside = list(_agreement(record, book))
    sections += [Section("Agreement", beside)] if beside else []
    return [*sections, Section("Hardest images", list(_hardest(record, said)))]


def _matrices(said: Predictions, book: FigureWriter) -> Iterator[Block]:
    count = len(said.classes)
    pairs = confused_pairs(said, limit=20)
    if count <= _WHOLE_MATRIX:
        matrix, side = confusion(said), min(9.0, 3.2 + 0.3 * count)
        wide = count > 12
        for rates, told in ((False, "images"), (True, "shares of the true class")):
            yield book.draw(
                "confusion-rates" if rates else "confusion",
                f"Confusion matrix, {told}: a row is a true class, a column what was said.",
                lambda axes, rates=rates: draw_confusion(axes, matrix, said.classes, rates=rates),  # type: ignore[misc]
                width=side,
                height=0.92 * side,
                wide=wide,
            )
    elif pairs:
        yield book.draw(
            "confused-pairs",
            f"The commonest of the mistakes among {count:,} classes: a true class → what was said instead.",
            lambda axes: draw_pairs(axes, pairs),
            width=6.4,
            height=1.0 + 0.24 * len(pairs),
        )
    if pairs:
        rows = [(pair["truth"], pair["predicted"], f"{pair['n']}", f"{100 * pair['share']:.1f} %") for pair in pairs]
        header = ("true class", "said instead", "images", "share of the true class")
        yield Details("the commonest mistakes as a table", [Table(header, rows, "llrr", "Commonest mistakes")])
    else:
        yield Paragraph("There is no mistake.")


def _classes(said: Predictions, book: FigureWriter) -> Iterator[Block]:
    rows = per_class(said)
    drawn = []
    for row in rows:
        if row["n"]:
            low, high = binomtest(round(row["recall"] * row["n"]), row["n"]).proportion_ci(0.95, method="wilson")
            drawn.append(Bar(row["class"], row["recall"], float(low), float(high)))
    right = float((said.predicted == said.labels)[said.known].mean())
    yield book.draw(
        "classes",
        f"Recall of each class with its 95 % interval; the line is the accuracy of all images ({right:.4f}).",
        lambda axes: bars(axes, drawn, xlabel="recall", baseline=right),
        height=bars_height(drawn),
    )
    cells = [
        (
            row["class"],
            f"{row['n']}",
            number(row["precision"], 3),
            number(row["recall"] if row["n"] else None, 3),
            number(row["f1"], 3),
        )
        for row in rows
    ]
    table = Table(("class", "images", "precision", "recall", "F1"), cells, "lrrrr", "Every class")
    yield Details("every class as a table", [table])


def _reliability(said: Predictions, book: FigureWriter) -> Block:
    return book.draw(
        "reliability",
        "How often the model is right among images of which it is so sure. Where the red strokes stand above the bars, "
        "it claims more than it keeps.",
        lambda axes: reliability(axes, said),
        height=4.2,
    )


def _agreement(record: RunReader, book: FigureWriter) -> Iterator[Block]:
    names = list(record.answers)
    if len(names) < 2:
        return
    try:
        matrix = agreement_matrix(list(record.answers.values()))
    except DataError:
        yield Paragraph("The members did not see the same images: how far they agree is left out.", quiet=True)
        return
    side = min(9.0, 3.4 + 0.35 * len(names))
    what = "networks (their first trainings)" if record.kind == "compare" else "members"
    yield book.draw(
        "agreement",
        f"How often each two {what} say the same class, right or wrong. Members that differ are worth fusing.",
        lambda axes: agreement(axes, matrix, names),
        width=side,
        height=0.9 * side,
    )


def _hardest(record: RunReader, said: Predictions) -> Iterator[Block]:
    wrong = np.flatnonzero(said.known & (said.predicted != said.labels))
    truth = said.probabilities[wrong, said.labels[wrong]]
    order = wrong[np.argsort(truth, kind="stable")][:_HARDEST]
    if not len(order):
        yield Paragraph("Every image was classified right.")
        return
    caption = f"The {len(order)} of {len(wrong):,} mistakes in which the true class was given the least probability."
    shown = list(_pictures(record, said, order.tolist()))
    if shown:
        yield Images(shown, caption)
    else:
        yield Paragraph(f"{caption} The images are gone, or no longer readable: only their names are told.", quiet=True)
    rows = [
        (said.ids[row], *_told(said, row), f"{said.probabilities[row, said.labels[row]]:.4f}") for row in order.tolist()
    ]
    header = ("image", "true class", "said instead", "probability of that", "of the true class")
    yield Details("the hardest images as a table", [Table(header, rows, "lllrr", "Hardest images")])


def _pictures(record: RunReader, said: Predictions, order: list[int]) -> Iterator[tuple[bytes, str]]:
    """Yield small copies with captions, as far as the images can be read."""
    table, store = record.table, record.images
    if table is None or store is None:
        return
    place = {name: row for row, name in enumerate(table.ids)}
    for row in order:
        name = said.ids[row]
        if name not in place:
            continue
        try:
            image = store.read(place[name])
        except DataError:
            continue
        truth, instead, sure = _told(said, row)
        yield thumbnail(_enlarged(image), _SIDE), f"{truth}, said: {instead} ({sure}). {name}"


def _told(said: Predictions, row: int) -> tuple[str, str, str]:
    predicted = int(said.predicted[row])
    return said.classes[said.labels[row]], said.classes[predicted], f"{said.probabilities[row, predicted]:.2f}"


def _enlarged(image: Pixels) -> Pixels:
    """Return an image of few pixels with each of them larger: a browser would blur it."""
    factor = _SIDE // max(image.shape[:2])
    return image.repeat(factor, axis=0).repeat(factor, axis=1) if factor > 1 else image
