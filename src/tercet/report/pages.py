"""Pages of reports: the sections for one run of each kind, or for several runs."""

from __future__ import annotations

import csv
import io
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any

from tercet.core.errors import DataError
from tercet.core.untrusted_files import decode_text
from tercet.data.run_reader import RunReader
from tercet.metrics.table import MISSING, interval, number
from tercet.plots.bars import Bar, bars, bars_height, leaderboard, leaderboard_height
from tercet.plots.figure_writer import FigureWriter
from tercet.plots.page import Block, Page, Paragraph, Section, Table, render_sections
from tercet.report.data import data_section
from tercet.report.errors import errors_section
from tercet.report.experiments import reproduction, trials_section
from tercet.report.multilabel import multilabel_section
from tercet.report.scores import results_section
from tercet.report.summary import headline, how_to_repeat, protocol, summary, warnings_of
from tercet.report.training import cost_section, curves_section

Board = Sequence[tuple[str, float]]
"""Names and scores of a leaderboard."""


def page_of_run(record: RunReader, writer: FigureWriter, *, title: str | None, board: Board) -> Page:
    """Return the page about one run."""
    sections = _sections(record, writer)
    if board:
        sections.insert(-2, _leaderboard(board, scores_of([record]), writer))
    name = record.metrics["title"] if record.kind == "reproduce" else PurePath(record.source).name or record.source
    return Page(title or f"{record.name}: {name}", sections, f"tercet {record.kind}")


def page_of_runs(records: Sequence[RunReader], writer: FigureWriter, *, title: str | None, board: Board) -> Page:
    """Return the page about several runs: a comparison, then the sections of each run."""
    names = names_of(records)
    sections = [Section("Comparison of runs", _comparison(records, names, writer))]
    histories = {
        f"{name}/{training}": history
        for name, record in zip(names, records, strict=True)
        for training, history in record.histories.items()
    }
    splits = " or ".join(sorted({record.monitor_split for record in records}))
    sections.append(curves_section(histories, writer, monitor_split=splits))
    if board:
        sections.append(_leaderboard(board, scores_of(records), writer))
    for index, (name, record) in enumerate(zip(names, records, strict=True), 1):
        run_writer = replace(writer, prefix=f"{index}-{record.name}-", files=[])
        sections.append(Section(name, _sections(record, run_writer)))
        writer.files += run_writer.files
    return Page(title or f"{len(records)} runs", sections, ", ".join(sorted({record.source for record in records})))


def read_leaderboard(path: str | Path) -> Board:
    """Read published scores from a CSV file with the columns `name` and `score`.

    Raises:
        DataError: The file cannot be read, lacks a column, or a score is not a number.
    """
    try:
        rows = list(csv.DictReader(io.StringIO(decode_text(Path(path)), newline="")))
    except csv.Error as error:
        raise DataError(f"{path} is not a CSV file: {error}") from error
    if not rows or not {"name", "score"} <= rows[0].keys():
        raise DataError(f"{path} is not a leaderboard: it needs the columns name and score, and at least one row")
    return [(str(row["name"]), _score(row["score"], f"{path}, row {index}")) for index, row in enumerate(rows, 1)]


def names_of(records: Sequence[RunReader]) -> list[str]:
    """Return a name for each run: its folder's name, or its path if several folders have the same name."""
    names = [record.name for record in records]
    return [
        name if names.count(name) == 1 else str(record.run.path) for name, record in zip(names, records, strict=True)
    ]


def scores_of(records: Sequence[RunReader]) -> dict[str, float]:
    """Return the accuracy of each run's selected model by the name of the run; runs without a score are omitted."""
    selected = {name: headline(record) for name, record in zip(names_of(records), records, strict=True)}
    scores = {name: _main_score(pair[1]) for name, pair in selected.items() if pair}
    return {name: value for name, value in scores.items() if value is not None}


def _sections(record: RunReader, writer: FigureWriter) -> list[Section]:
    first, last = [summary(record)], how_to_repeat(record)
    if record.kind == "reproduce":
        return [*first, *_results(record, writer), *last]
    sections = [*first, protocol(record), data_section(record, writer), *_results(record, writer)]
    sections.append(curves_section(record.histories, writer, monitor_split=record.monitor_split))
    if record.kind != "tune":
        sections += [] if record.is_multilabel else errors_section(record, writer)
        sections.append(cost_section(record, writer))
    return [*sections, *last]


def _results(record: RunReader, writer: FigureWriter) -> Sequence[Section]:
    if record.kind == "reproduce":
        return reproduction(record, writer)
    if record.kind == "tune":
        return [trials_section(record, writer)]
    return multilabel_section(record, writer) if record.is_multilabel else [results_section(record, writer)]


def notebook_html(folder: str | Path) -> str:
    """Return the results of a run, with figures, as HTML for a notebook.

    Raises:
        StorageError: The folder is not a finished run.
        ModelError: The metrics of the run are invalid.
    """
    with tempfile.TemporaryDirectory() as figures:
        return render_sections(_results(RunReader.open(folder), FigureWriter(Path(figures))))


def _comparison(records: Sequence[RunReader], names: Sequence[str], writer: FigureWriter) -> list[Block]:
    rows, drawn = [], []
    for name, record in zip(names, records, strict=True):
        chosen, scores = headline(record) or (MISSING, {})
        value = _main_score(scores)
        metric = "o_f1" if record.is_multilabel else "accuracy"
        cells = (number(value), interval(scores, metric), number(scores.get("macro_f1")))
        rows.append((name, record.kind, record.source, chosen, record.evaluation_split if scores else MISSING, *cells))
        if value is not None:
            drawn.append(Bar(name, value, scores.get(f"{metric}_low"), scores.get(f"{metric}_high")))
    header = ("run", "command", "data", "selected model", "evaluated on", "accuracy", "95 % interval", "macro F1")
    multilabel = any(record.is_multilabel for record in records)
    caption = "Selected model of each run" + "; for multi-label runs, accuracy is O-F1" * multilabel
    blocks: list[Block] = [
        replace(block, title=f"{name}: {block.title}")
        for name, record in zip(names, records, strict=True)
        for block in warnings_of(record)
    ]
    blocks.append(Table(header, rows, "lllllrrr", caption))
    if len({record.evaluation_key for record in records}) > 1:
        text = "The runs were evaluated on different images, so their scores are not comparable."
        blocks.append(Paragraph(text, quiet=True))
    if drawn:
        figure = writer.draw(
            "runs",
            "Selected model of each run, with its 95 % interval if available.",
            lambda axes: bars(axes, drawn, xlabel="accuracy"),
            height=bars_height(drawn),
        )
        blocks.append(figure)
    return blocks


def _leaderboard(board: Board, scores: Mapping[str, float], writer: FigureWriter) -> Section:
    percent = 1.5 < max(score for _, score in board) <= 100
    scores = {name: 100 * score for name, score in scores.items()} if percent else scores
    unit = " All scores are percentages." if percent else ""
    caption = f"Scores of the leaderboard as given, and of this page's runs. The test images may differ.{unit}"
    figure = writer.draw(
        "leaderboard",
        caption,
        lambda axes: leaderboard(axes, board, scores),
        height=leaderboard_height(board, scores),
    )
    return Section("Leaderboard", [figure])


def _main_score(scores: Mapping[str, Any]) -> float | None:
    value = scores.get("accuracy", scores.get("o_f1"))
    return None if value is None else float(value)


def _score(text: str | None, position: str) -> float:
    if not text:
        raise DataError(f"{position}: the score is missing")
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{position}: the score '{text}' is not a number")
    return value
