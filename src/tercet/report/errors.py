"""Sections on classes, calibration, agreement of members, and the hardest images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from scipy.stats import binomtest

from tercet.core.calibration import Calibration
from tercet.core.errors import DataError
from tercet.core.output import count
from tercet.core.predictions import Predictions
from tercet.data.pixel_values import Pixels
from tercet.data.run_reader import RunReader
from tercet.metrics.classification import confused_pairs, confusion, per_class
from tercet.metrics.significance import agreement_matrix
from tercet.metrics.table import number
from tercet.metrics.tables import classes_table, pairs_table
from tercet.plots.bars import Bar, bars, bars_height
from tercet.plots.figure_writer import FigureWriter
from tercet.plots.grids import thumbnail
from tercet.plots.matrices import agreement, reliability
from tercet.plots.matrices import confused_pairs as draw_pairs
from tercet.plots.matrices import confusion as draw_confusion
from tercet.plots.page import Block, Details, Images, Paragraph, Section, Table

_MAX_MATRIX = 20  # classes up to which the numbers of a confusion matrix are legible
_NUM_HARDEST = 24
_MAX_PAIRS = 20
_THUMBNAIL = 192  # pixels
_SCORES = ("ece", "log_loss", "brier")
_HEADER = ("images", "n", "ECE", "calibrated", "log loss", "calibrated", "Brier", "calibrated")


def errors_section(record: RunReader, writer: FigureWriter) -> list[Section]:
    """Return the sections on classes, calibration, agreement of members, and the hardest images."""
    predictions = record.chosen_predictions
    if predictions is None:
        text = "The predictions of the selected model are not stored, so confusions and errors are not shown."
        return [Section("Classes", [Paragraph(text, quiet=True)])]
    if len(predictions.classes) < 2 or not predictions.known.any():
        reason = "There is only one class" if len(predictions.classes) < 2 else "No image has a label"
        return [Section("Classes", [Paragraph(f"{reason}, so there is nothing to show.", quiet=True)])]
    calibration = [_reliability(predictions, writer), *calibration_blocks(record, predictions, writer)]
    sections = [
        Section("Classes", [*_confusions(predictions, writer), *_classes(predictions, writer)]),
        Section("Calibration", calibration),
    ]
    blocks = list(_agreement(record, writer))
    sections += [Section("Agreement", blocks)] if blocks else []
    return [*sections, Section("Hardest images", list(_hardest(record, predictions)))]


def _confusions(predictions: Predictions, writer: FigureWriter) -> Iterator[Block]:
    num_classes = len(predictions.classes)
    pairs = confused_pairs(predictions, limit=_MAX_PAIRS)
    if num_classes <= _MAX_MATRIX:
        matrix, side = confusion(predictions), min(9.0, 3.2 + 0.3 * num_classes)
        for rates, content in ((False, "number of images"), (True, "fraction of the true class")):
            yield writer.draw(
                "confusion-rates" if rates else "confusion",
                f"Confusion matrix, {content}. Rows are true classes, columns are predictions.",
                lambda axes, rates=rates: draw_confusion(axes, matrix, predictions.classes, rates=rates),  # type: ignore[misc]
                width=side,
                height=0.92 * side,
                wide=num_classes > 12,
            )
    elif pairs:
        yield writer.draw(
            "confused-pairs",
            f"The most frequent confusions among {num_classes:,} classes: true class → predicted class.",
            lambda axes: draw_pairs(axes, pairs),
            width=6.4,
            height=1.0 + 0.24 * len(pairs),
        )
    if pairs:
        table = pairs_table(predictions, limit=_MAX_PAIRS, title="Most frequent confusions")
        yield Details("Table of the most frequent confusions", [table])
    else:
        yield Paragraph("All images are classified correctly.")


def _classes(predictions: Predictions, writer: FigureWriter) -> Iterator[Block]:
    drawn = []
    for row in per_class(predictions):
        if row["n"]:
            low, high = binomtest(round(row["recall"] * row["n"]), row["n"]).proportion_ci(0.95, method="wilson")
            drawn.append(Bar(row["class"], row["recall"], float(low), float(high)))
    accuracy = float((predictions.predicted == predictions.labels)[predictions.known].mean())
    yield writer.draw(
        "classes",
        f"Recall of each class with its 95 % interval. The line is the overall accuracy ({accuracy:.4f}).",
        lambda axes: bars(axes, drawn, xlabel="recall", baseline=accuracy),
        height=bars_height(drawn),
    )
    yield Details("Table of all classes", [classes_table(predictions, title="Scores per class")])


def _reliability(predictions: Predictions, writer: FigureWriter) -> Block:
    return writer.draw(
        "reliability",
        "Reliability diagram: accuracy of predictions grouped by their confidence. Where the red marks (confidence) "
        "are above the bars (accuracy), the model is overconfident.",
        lambda axes: reliability(axes, predictions),
        height=4.2,
    )


def calibration_blocks(record: RunReader, predictions: Predictions, writer: FigureWriter) -> Iterator[Block]:
    """Yield the results of calibration; nothing for an uncalibrated run.

    Args:
        record: The run.
        predictions: Predictions of the selected model on the judged split, before calibration.
        writer: Draws the figures.
    """
    values = record.metrics.get("calibration")
    if not isinstance(values, Mapping):
        return
    fitted = {key: value for key, value in values.items() if key not in ("used", "notes", "test")}
    calibration = Calibration.from_dict(fitted)
    test: Mapping[str, Any] = values.get("test") or {}
    if calibration.temperature != 1:
        yield Paragraph(
            f"The bundle's probabilities are scaled with temperature {calibration.temperature:.3f}, fitted on "
            f"{calibration.rows:,} validation images; predicted classes do not change. All other numbers on this page "
            "are before calibration."
        )
        rows = [
            _calibration_row("validation (cross-fitted)", calibration.rows, values),
            *([_calibration_row("test", test.get("n", 0), test)] if test else []),
        ]
        yield Table(_HEADER, rows, "lrrrrrrr", "Calibration before and after temperature scaling")
        if test and record.evaluation_split == "test":
            yield writer.draw(
                "reliability-calibrated",
                f"The same images after temperature scaling (temperature {calibration.temperature:.3f}).",
                lambda axes: reliability(axes, calibration.apply(predictions)),
                height=4.2,
            )
    elif calibration.rows:
        yield Paragraph(
            f"Temperature scaling does not reduce the cross-fitted log loss on the {calibration.rows:,} validation "
            "images, so the bundle's probabilities are not scaled."
        )
    yield from map(Paragraph, _guarantees(calibration, test))
    yield from (Paragraph(note[:1].upper() + note[1:] + ".", quiet=True) for note in values.get("notes", ()))


def _calibration_row(name: str, images: int, values: Mapping[str, Any]) -> tuple[str, ...]:
    scores = (number(values.get(f"{key}_{when}")) for key in _SCORES for when in ("before", "after"))
    return (name, f"{images:,}", *scores)


def _guarantees(calibration: Calibration, test: Mapping[str, Any]) -> Iterator[str]:
    """Yield sentences on the rejection threshold and on conformal prediction sets."""
    rule, sets = calibration.reject, calibration.conformal
    if rule is not None:
        if rule.threshold:
            text = f"Predictions with a probability below {rule.threshold:.4f} are rejected. Of the accepted ones"
        else:
            text = "No prediction has to be rejected. Of all predictions"
        text += (
            f", at most {_percent(rule.risk)} are wrong, with {_percent(rule.confidence)} confidence. The threshold is "
            f"from {rule.rows:,} separate validation images, of which {_percent(rule.accepted)} are accepted; "
            f"{_percent(rule.errors)} of those are wrong"
        )
        if test.get("accepted") is not None:
            text += f". Of the test images, {_percent(test['accepted'])} are accepted"
        if test.get("errors_accepted") is not None:
            text += f"; {_percent(test['errors_accepted'])} of those are wrong"
        yield f"{text}."
    if sets is not None:
        text = (
            f"Prediction sets contain the true class of at least {_percent(sets.coverage)} of the images (conformal "
            f"prediction, quantile {sets.quantile:.4f} of {sets.rows:,} separate validation images)"
        )
        if test.get("set_coverage") is not None:
            text += f". On the test images they contain it for {_percent(test['set_coverage'])}"
            text += f", with {number(test.get('set_size'), '.2f')} classes per set on average"
        yield f"{text}."


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.4g} %"


def _agreement(record: RunReader, writer: FigureWriter) -> Iterator[Block]:
    names = list(record.member_predictions)
    if len(names) < 2:
        return
    try:
        matrix = agreement_matrix(list(record.member_predictions.values()))
    except DataError:
        text = "The members were evaluated on different images, so their agreement is not shown."
        yield Paragraph(text, quiet=True)
        return
    side = min(9.0, 3.4 + 0.35 * len(names))
    models = "networks (first seed of each)" if record.kind == "compare" else "members"
    yield writer.draw(
        "agreement",
        f"Fraction of images for which two {models} predict the same class, correct or not. Of members with "
        "similar accuracy, those that agree less gain more from being combined.",
        lambda axes: agreement(axes, matrix, names),
        width=side,
        height=0.9 * side,
    )


def _hardest(record: RunReader, predictions: Predictions) -> Iterator[Block]:
    wrong = np.flatnonzero(predictions.known & (predictions.predicted != predictions.labels))
    true_probability = predictions.probabilities[wrong, predictions.labels[wrong]]
    order = wrong[np.argsort(true_probability, kind="stable")][:_NUM_HARDEST].tolist()
    if not order:
        yield Paragraph("All images are classified correctly.")
        return
    number_shown = f"{len(order)} of {len(wrong):,} errors" if len(order) < len(wrong) else count(len(wrong), "error")
    caption = f"{number_shown}, ordered by the probability of the true class, lowest first."
    thumbnails = list(_thumbnails(record, predictions, order))
    if thumbnails:
        yield Images(thumbnails, caption)
    else:
        yield Paragraph(f"{caption} The images are no longer available, so only their names are listed.", quiet=True)
    rows = [
        (
            predictions.ids[row],
            *_true_and_predicted(predictions, row),
            f"{predictions.probabilities[row, predictions.labels[row]]:.4f}",
        )
        for row in order
    ]
    header = ("image", "true class", "predicted class", "probability of the prediction", "of the true class")
    yield Details("Table of the hardest images", [Table(header, rows, "lllrr", "Hardest images")])


def _thumbnails(record: RunReader, predictions: Predictions, order: list[int]) -> Iterator[tuple[bytes, str]]:
    """Yield thumbnails with captions for the images that can still be read."""
    table, cache = record.table, record.images
    if table is None or cache is None:
        return
    index = {name: row for row, name in enumerate(table.ids)}
    for row in order:
        name = predictions.ids[row]
        if name not in index:
            continue
        try:
            image = cache.read(index[name])
        except DataError:
            continue
        truth, predicted, probability = _true_and_predicted(predictions, row)
        caption = f"{truth}, predicted {predicted} ({probability}). {name}"
        yield thumbnail(_enlarged(image), _THUMBNAIL), caption


def _true_and_predicted(predictions: Predictions, row: int) -> tuple[str, str, str]:
    """Return true class, predicted class, and its probability."""
    predicted = int(predictions.predicted[row])
    probability = f"{predictions.probabilities[row, predicted]:.2f}"
    return predictions.classes[predictions.labels[row]], predictions.classes[predicted], probability


def _enlarged(image: Pixels) -> Pixels:
    """Return a small image with enlarged pixels: a browser would blur it."""
    factor = _THUMBNAIL // max(image.shape[:2])
    return image.repeat(factor, axis=0).repeat(factor, axis=1) if factor > 1 else image
