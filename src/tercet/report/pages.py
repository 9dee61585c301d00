"""A page about one run or several: which sections it has, and in what order."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any

from tercet.core.errors import DataError
from tercet.core.untrusted_files import decode_text
from tercet.data.run_reader import RunReader
from tercet.plots.bars import Bar, bars, bars_height, leaderboard, leaderboard_height
from tercet.plots.figure_writer import FigureWriter
from tercet.plots.page import Page, Paragraph, Section, Table
from tercet.report.data import data_section
from tercet.report.errors import errors_section
from tercet.report.experiments import reproduction, trials_section
from tercet.report.multilabel import multilabel_section
from tercet.report.scores import results_section
from tercet.report.summary import MISSING, headline, how_to_repeat, interval, number, protocol, summary, warnings_of
from tercet.report.training import cost_section, curves_section

Board = Sequence[tuple[str, float]]


def page_of_run(record: RunReader, book: FigureWriter, *, title: str | None, board: Board) -> Page:
    """Return the page about one run."""
    sections = _sections(record, book)
    if board:
        sections.insert(-2, _leaderboard(board, scores_of([record]), book))
    about = record.metrics["title"] if record.kind == "reproduce" else PurePath(record.source).name or record.source
    return Page(title or f"{record.name}: {about}", sections, f"tercet {record.kind}")


def page_of_runs(records: Sequence[RunReader], book: FigureWriter, *, title: str | None, board: Board) -> Page:
    """Return the page about several runs: first beside each other, then one by one."""
    names = names_of(records)
    sections = [Section("Runs beside each other", [*_table(records, names, book)])]
    together = {
        f"{name}/{training}": history
        for name, record in zip(names, records, strict=True)
        for training, history in record.histories.items()
    }
    sections.append(
        curves_section(together, book, monitor_split=" or ".join(sorted({one.monitor_split for one in records})))
    )
    if board:
        sections.append(_leaderboard(board, scores_of(records), book))
    for number_of, (name, record) in enumerate(zip(names, records, strict=True), 1):
        own = FigureWriter(book.folder, f"{number_of}-{record.name}-")
        sections.append(Section(name, _sections(record, own)))
        book.files += own.files
    return Page(title or f"{len(records)} runs", sections, ", ".join(sorted({record.source for record in records})))


def read_leaderboard(path: str | Path) -> Board:
    """Read others' scores from a CSV file with the columns `name` and `score`.

    Raises:
        DataError: The file cannot be read, has other columns, or a score is no number.
    """
    try:
        rows = list(csv.DictReader(io.StringIO(decode_text(Path(path)), newline="")))
    except csv.Error as error:
        raise DataError(f"{path} is not a CSV file: {error}") from error
    if not rows or not {"name", "score"} <= rows[0].keys():
        raise DataError(f"{path} is not a leaderboard: it needs the columns name and score, and at least one row")
    return [(str(row["name"]), _score(row["score"], f"{path}, row {index}")) for index, row in enumerate(rows, 1)]


def names_of(records: Sequence[RunReader]) -> list[str]:
    """Return a name for each run: that of its folder, or its path where folders share theirs."""
    names = [record.name for record in records]
    return [name if names.count(name) == 1 else str(one.run.path) for name, one in zip(names, records, strict=True)]


def scores_of(records: Sequence[RunReader]) -> dict[str, float]:
    """Return the accuracy of each run's choice by the run's name, as far as it has one."""
    found = {name: headline(record) for name, record in zip(names_of(records), records, strict=True)}
    scores = {name: _main(one[1]) for name, one in found.items() if one}
    return {name: value for name, value in scores.items() if value is not None}


def _sections(record: RunReader, book: FigureWriter) -> list[Section]:
    opening, end = [summary(record)], how_to_repeat(record)
    if record.kind == "reproduce":
        return [*opening, *reproduction(record, book), *end]
    opening += [protocol(record), data_section(record, book)]
    training = curves_section(record.histories, book, monitor_split=record.monitor_split)
    if record.kind == "tune":
        return [*opening, trials_section(record, book), training, *end]
    if record.is_multilabel:
        return [*opening, *multilabel_section(record, book), training, cost_section(record, book), *end]
    return [
        *opening,
        results_section(record, book),
        training,
        *errors_section(record, book),
        cost_section(record, book),
        *end,
    ]


def _table(records: Sequence[RunReader], names: Sequence[str], book: FigureWriter) -> list[Any]:
    rows, drawn = [], []
    for name, record in zip(names, records, strict=True):
        chosen, scores = headline(record) or (MISSING, {})
        value = _main(scores)
        measure = "o_f1" if record.is_multilabel else "accuracy"
        cells = (number(value), interval(scores, measure), number(scores.get("macro_f1")))
        rows.append((name, record.kind, record.source, chosen, record.evaluation_split if scores else MISSING, *cells))
        if value is not None:
            drawn.append(Bar(name, value, scores.get(f"{measure}_low"), scores.get(f"{measure}_high")))
    header = ("run", "verb", "data", "chosen", "judged on", "accuracy", "95 % interval", "macro F1")
    caption = (
        "Of sets of labels accuracy is O-F1"
        if any(record.is_multilabel for record in records)
        else "What each run chose"
    )
    blocks: list[Any] = [
        replace(block, title=f"{name}: {block.title}")
        for name, record in zip(names, records, strict=True)
        for block in warnings_of(record)
    ]
    blocks.append(Table(header, rows, "lllllrrr", caption))
    if len({record.evaluation_key for record in records}) > 1:
        blocks.append(
            Paragraph("The runs are not judged on the same images: their scores cannot be compared.", quiet=True)
        )
    if drawn:
        figure = book.draw(
            "runs", "What each run chose, with its interval where it has one.",
            lambda axes: bars(axes, drawn, xlabel="accuracy"), height=bars_height(drawn),
        )  # fmt: skip
        blocks.append(figure)
    return blocks


def _leaderboard(board: Board, own: Mapping[str, float], book: FigureWriter) -> Section:
    percent = 1.5 < max(score for _, score in board) <= 100
    own = {name: 100 * score for name, score in own.items()} if percent else own
    told = " They are percentages, and so are one's own here." if percent else ""
    figure = book.draw(
        "leaderboard",
        "Scores of others, as they were given, beside one's own; only they know whether the images were the same."
        + told,
        lambda axes: leaderboard(axes, board, own),
        height=leaderboard_height(board, own),
    )
    return Section("Leaderboard", [figure])


def _main(scores: Mapping[str, Any]) -> float | None:
    value = scores.get("accuracy", scores.get("o_f1"))
    return None if value is None else float(value)


def _score(text: str | None, where: str) -> float:
    if not text:
        raise DataError(f"{where}: the score is missing")
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{where}: the score '{text}' is no number")
    return value
