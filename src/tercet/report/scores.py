"""The results of a run of classes: tables with intervals, paired tests, and bars."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

from tercet.core.errors import DataError
from tercet.data.run_reader import CHOSEN, RunReader
from tercet.metrics.significance import Comparison, compare, holm
from tercet.metrics.tables import comparison_text
from tercet.plots.bars import Bar, bars, bars_height
from tercet.plots.figure_writer import FigureWriter
from tercet.plots.page import Block, Paragraph, Section, Table
from tercet.report.summary import MISSING, chance, interval, mean_sd, number, points

_TITLES = {
    ("validation", "test"): "Test images, looked at once",
    ("validation", "validation"): "Validation images, which chose; what was fitted there is cross-fitted",
    ("test", "test"): "Test images, WHICH CHOSE: optimistic",
    ("test", "validation"): "Validation images",
}
_SCORES = ("accuracy", "95 % interval", "macro F1", "kappa", "top 5", "log loss", "ECE")
_SEEDS = ("network", "seeds", "test accuracy", "validation accuracy", "training accuracy", "macro F1", "log loss")


def results_section(record: RunReader, book: FigureWriter) -> Section:
    """Return the results of a training, an ensemble, a cross-validation or a comparison."""
    parts = {"crossval": _of_folds, "compare": _of_networks}.get(record.kind, _of_run)
    return Section("Results", [*parts(record, book)])


def _of_run(record: RunReader, book: FigureWriter) -> Iterator[Block]:
    document = record.metrics
    rows = [*document["members"], *document["ensembles"]]
    kinds = ["member"] * len(document["members"]) + ["ensemble"] * len(document["ensembles"])
    if not any(row.get("test") for row in rows):
        yield Paragraph("No test image has a label: the scores are those on validation images.", quiet=True)
    if not any(row.get(record.evaluation_split) for row in rows):
        yield Paragraph("No image has a label to score with.", quiet=True)
        return
    for split in ("test", "validation"):
        scored = [(row["name"], kind, row[split]) for row, kind in zip(rows, kinds, strict=True) if row.get(split)]
        if scored:
            last = {index for index, (name, *_) in enumerate(scored) if name == document["chosen"]}
            yield _table(scored, _TITLES[record.monitor_split, split], last)
    yield from _figure(rows, kinds, record.evaluation_split, document["best_member"], book)
    if told := document.get("comparison"):
        yield Paragraph(_sentence(told))
    yield from _paired(record, document["chosen"])


def _of_folds(record: RunReader, book: FigureWriter) -> Iterator[Block]:
    document = record.metrics
    rows = [*document["members"], *document["ensembles"]]
    kinds = ["member"] * len(document["members"]) + ["ensemble"] * len(document["ensembles"])
    scored = [(row["name"], kind, row["pooled"]) for row, kind in zip(rows, kinds, strict=True)]
    if document["ensembles"]:
        rows, kinds = [*rows, {"name": CHOSEN, "pooled": document["pooled"]}], [*kinds, "each fold's choice"]
        scored.append((CHOSEN, kinds[-1], document["pooled"]))
    yield _table(scored, "All held-out images together", {len(scored) - 1})
    spread = [
        (
            row["name"],
            *(f"{row['mean'][key]:.4f}" + _plus(row["sd"][key]) for key in ("accuracy", "macro_f1", "log_loss")),
        )
        for row in [*document["members"], *document["ensembles"]]
        if "mean" in row
    ]
    if spread:
        yield Table(
            ("name", "accuracy", "macro F1", "log loss"), spread, "lrrr", "Mean ± standard deviation over folds"
        )
    folds = [(f"fold {row['name']}", row.get("chosen", ""), row) for row in document["folds"]]
    yield _table(folds, "Each fold, by its own choice", set(), kind="chosen")
    drawn = [Bar(name, row["accuracy"], row["accuracy_low"], row["accuracy_high"]) for name, _, row in folds]
    whole = document["pooled"]["accuracy"]
    yield book.draw(
        "folds",
        f"Accuracy of each held-out fold with its 95 % interval; the line is that of all folds together ({whole:.4f}).",
        lambda axes: bars(axes, drawn, xlabel="accuracy", baseline=whole),
        height=bars_height(drawn),
    )
    if len(rows) > 1:
        yield from _figure(rows, kinds, "pooled", None, book)
    if document.get("test"):
        yield _table(
            [("mean of the folds", "ensemble", document["test"])], "The data's own test images, looked at once", {0}
        )
    if told := document.get("comparison"):
        yield Paragraph(_sentence(told))
    yield from _paired(record, CHOSEN)


def _of_networks(record: RunReader, book: FigureWriter) -> Iterator[Block]:
    document, split = record.metrics, record.evaluation_split
    trained = [row for row in document["networks"] if row.get(split)]
    if not trained:
        yield Paragraph("No network was trained to its end.", quiet=True)
        return
    rows = [
        (
            row["name"],
            f"{len(row['seeds'])}",
            *(mean_sd(row[part]["accuracy"]) if row.get(part) else MISSING for part in ("test", "validation")),
            mean_sd(row["train_accuracy"]),
            mean_sd(row[split]["macro_f1"]),
            mean_sd(row[split]["log_loss"]),
        )
        for row in trained
    ]
    best = {index for index, row in enumerate(trained) if row["name"] == document["chosen"]}
    caption = (
        f"Mean ± standard deviation over seeds; macro F1 and log loss on {split}; the best on validation stands out"
    )
    yield Table(_SEEDS, rows, "lrrrrrr", caption, frozenset(best))
    drawn = [_spread_bar(row, split) for row in trained]
    base = next((bar.value for bar in drawn if bar.name == document["baseline"]), None)
    whisker = "mean ± standard deviation over seeds" if len(trained[0]["seeds"]) > 1 else "95 % interval"
    yield book.draw(
        "networks",
        f"Accuracy on {split} ({whisker}); the line is the baseline, {document['baseline']}.",
        lambda axes: bars(axes, drawn, xlabel=f"accuracy on {split}", baseline=base),
        height=bars_height(drawn),
    )
    yield from _against_baseline(document, split)


def _against_baseline(document: Mapping[str, Any], split: str) -> Iterator[Block]:
    tested = [(row["name"], row["against_baseline"]) for row in document["networks"] if row.get("against_baseline")]
    if not tested:
        return
    crossed = any(found["test"] == "images and seeds" for _, found in tested)
    how = "images and seeds both taken as drawn by chance" if crossed else "McNemar's exact test of one seed"
    rows = [(name, *points(found), chance(found["p_value"]), chance(found["p_holm"])) for name, found in tested]
    header = ("network", "difference / points", "95 % interval", "p", "p, Holm")
    yield Table(header, rows, "lrrrr", f"Accuracy on {split} against {document['baseline']}: {how}")


def _paired(record: RunReader, chosen: str) -> Iterator[Block]:
    """Test what was chosen against every member on the same images."""
    mine = record.chosen_predictions
    found: list[tuple[str, Comparison]] = []
    for name, said in record.member_predictions.items():
        if mine is None or name == chosen:
            continue
        try:
            found.append((name, compare(mine, said)))
        except DataError:
            continue  # a member of some folds only has not seen the same images
    if not found or (len(record.member_predictions) == 1 and record.kind == "crossval"):
        return
    adjusted = holm([one.p_value for _, one in found])
    rows = [
        (name, *points(one.to_dict()), f"{one.only_a}", f"{one.only_b}", chance(one.p_value), chance(corrected))
        for (name, one), corrected in zip(found, adjusted, strict=True)
    ]
    header = (
        "against",
        "difference / points",
        "95 % interval",
        "only it right",
        "only the other right",
        "p",
        "p, Holm",
    )
    caption = (
        f"Paired tests of {chosen} on the {found[0][1].n:,} images of the {record.evaluation_split} split "
        "(McNemar's exact test)"
    )
    yield Table(header, rows, "lrrrrrr", caption)


def _table(
    rows: Sequence[tuple[str, str, Mapping[str, Any]]], title: str, strong: set[int], *, kind: str = "kind"
) -> Table:
    sizes = {scores["n"] for *_, scores in rows}
    caption = title + (f" (n = {sizes.pop():,})" if len(sizes) == 1 else "")
    many = any(scores.get("top5", 1) < 1 for *_, scores in rows)  # of up to five classes the top 5 says nothing
    header = ["name", kind, *(["n"] if sizes else []), *(name for name in _SCORES if many or name != "top 5")]
    keys = [key for key in ("macro_f1", "kappa", "top5", "log_loss", "ece") if many or key != "top5"]
    cells = [
        [
            name,
            what,
            *([f"{scores['n']:,}"] if sizes else []),
            number(scores["accuracy"]),
            interval(scores),
            *(number(scores.get(key)) for key in keys),
        ]
        for name, what, scores in rows
    ]
    return Table(header, cells, "ll" + "r" * (len(header) - 2), caption, frozenset(strong))


def _figure(
    rows: Sequence[Mapping[str, Any]], kinds: Sequence[str], split: str, best: str | None, book: FigureWriter
) -> Iterator[Block]:
    drawn = [
        Bar(row["name"], row[split]["accuracy"], row[split]["accuracy_low"], row[split]["accuracy_high"], kind)
        for row, kind in zip(rows, kinds, strict=True)
        if row.get(split)
    ]
    line = next((bar.value for bar in drawn if bar.name == best), None)
    where = "all held-out images" if split == "pooled" else f"{split} images"
    told = f" The line is the member that is best where the run chose, {best}." if line is not None else ""
    yield book.draw(
        "ensemble-against-members",
        f"Accuracy on {where} with 95 % intervals.{told}",
        lambda axes: bars(axes, drawn, xlabel="accuracy", baseline=line),
        height=bars_height(drawn),
    )


def _spread_bar(row: Mapping[str, Any], split: str) -> Bar:
    value = row[split]["accuracy"]
    if value["sd"] is not None:
        return Bar(row["name"], value["mean"], value["mean"] - value["sd"], value["mean"] + value["sd"])
    only = row["trainings"][0][split]
    return Bar(row["name"], value["mean"], only["accuracy_low"], only["accuracy_high"])


def _sentence(told: Mapping[str, Any]) -> str:
    found = Comparison(**{field.name: told[field.name] for field in fields(Comparison)})
    return comparison_text(found, told["of"], told["against"])


def _plus(value: float | None) -> str:
    return "" if value is None else f" ± {value:.4f}"
