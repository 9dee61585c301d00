"""Section on the results of single-label runs: tables with intervals, paired tests, and bars."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

from tercet.core.errors import DataError
from tercet.data.run_reader import CHOSEN, RunReader
from tercet.metrics.metric import Detail, describe_metric, table_metrics
from tercet.metrics.significance import Comparison, compare, holm
from tercet.metrics.table import MISSING, duration, interval, mean_sd, number, p_value_text, points, sentence_case
from tercet.metrics.tables import ResultRow, comparison_text, page_table, spread_table
from tercet.plots.bars import Bar, bars, bars_height
from tercet.plots.figure_writer import FigureWriter
from tercet.plots.page import Block, Paragraph, Section, Table

_TITLES = {
    ("validation", "test"): "Test images, used once, after selection",
    ("validation", "validation"): "Validation images, used for model selection; fitted ensembles are cross-fitted",
    ("test", "test"): "Test images, used for model selection: OPTIMISTIC",
    ("test", "validation"): "Validation images",
}
_SEEDS = ("network", "seeds", "test accuracy", "validation accuracy", "training accuracy")
ModelRow = tuple[Mapping[str, Any], str]
"""A row of `metrics.json`, and whether it is a member or an ensemble."""


def results_section(record: RunReader, writer: FigureWriter) -> Section:
    """Return the results of a training, an ensemble, a cross-validation or a comparison."""
    blocks = {"crossval": _fold_results, "compare": _network_results}.get(record.kind, _run_results)
    return Section("Results", [*blocks(record, writer)])


def _run_results(record: RunReader, writer: FigureWriter) -> Iterator[Block]:
    document = record.metrics
    rows = model_rows(document)
    if not any(row.get("test") for row, _ in rows):
        yield Paragraph("No test image has a label, so the scores are those on validation images.", quiet=True)
    if not any(row.get(record.evaluation_split) for row, _ in rows):
        yield Paragraph("No image has a label, so there are no scores.", quiet=True)
        return
    yield from split_tables(record, rows)
    yield from score_bars(record, rows, record.evaluation_split, writer, best=document["best_member"])
    if comparison := document.get("comparison"):
        yield Paragraph(_sentence(comparison))
    yield from _paired_tests(record, document["chosen"])
    yield from _rungs(document)


def _rungs(document: Mapping[str, Any]) -> Iterator[Table]:
    """Yield the rungs of a training that climbed the ladder, those that were not trained with the reason."""
    if rungs := document.get("ladder"):
        header = ("rung", "members", "status", "accuracy", "95 % interval", "time", "best so far")
        rows = [
            (
                rung["rung"],
                ", ".join(rung["members"]),
                rung["status"],
                number(rung["validation"].get("accuracy")),
                interval(rung["validation"]),
                duration(rung["seconds"]),
                rung["chosen"] or MISSING,
            )
            for rung in rungs
        ]
        yield Table(header, rows, "lllrrrl", "Rungs, from cheap to expensive models, by the best one on validation")


def model_rows(document: Mapping[str, Any]) -> list[ModelRow]:
    """Return the members and ensembles of `metrics.json` with their kinds."""
    members = [(row, "member") for row in document["members"]]
    return [*members, *((row, "ensemble") for row in document["ensembles"])]


def split_tables(record: RunReader, rows: Sequence[ModelRow]) -> Iterator[Table]:
    """Yield the results on test and on validation images; the selected model is highlighted."""
    chosen = record.metrics["chosen"]
    for split in ("test", "validation"):
        scored = [
            ResultRow(row["name"], kind, row[split], chosen=row["name"] == chosen)
            for row, kind in rows
            if row.get(split)
        ]
        if scored:
            yield page_table(scored, title=_TITLES[record.monitor_split, split])


def score_bars(
    record: RunReader, rows: Sequence[ModelRow], split: str, writer: FigureWriter, *, best: str | None = None
) -> Iterator[Block]:
    """Draw the main metric of every model with its interval, and a line at the best member."""
    metric = describe_metric("o_f1" if record.is_multilabel else "accuracy")
    drawn = [
        Bar(row["name"], scores[metric.name], scores[f"{metric.name}_low"], scores[f"{metric.name}_high"], kind)
        for row, kind in rows
        if (scores := row.get(split))
    ]
    if not drawn:
        return
    baseline = next((bar.value for bar in drawn if bar.name == best), None)
    images = "held-out images of all folds" if split == "pooled" else f"{split} images"
    note = f" The line is {best}, the best single member by model selection." if baseline is not None else ""
    yield writer.draw(
        "ensemble-against-members",
        f"{sentence_case(metric.title)} on {images} with 95 % intervals.{note}",
        lambda axes: bars(axes, drawn, xlabel=metric.title, baseline=baseline),
        height=bars_height(drawn),
    )


def _fold_results(record: RunReader, writer: FigureWriter) -> Iterator[Block]:
    document = record.metrics
    rows = model_rows(document)
    if document["ensembles"]:
        rows.append(({"name": CHOSEN, "pooled": document["pooled"]}, "selected per fold"))
    scored = [ResultRow(row["name"], kind, row["pooled"], chosen=row is rows[-1][0]) for row, kind in rows]
    yield page_table(scored, title="Held-out images of all folds")
    if spread := [row for row, _ in rows if "mean" in row]:
        yield spread_table(spread, title="Mean ± standard deviation over folds")
    folds = [ResultRow(f"fold {row['name']}", row.get("chosen", ""), row) for row in document["folds"]]
    yield page_table(folds, title="Each fold, by its selected model", kind="selected")
    drawn = [Bar(row["name"], row["accuracy"], row["accuracy_low"], row["accuracy_high"]) for row in document["folds"]]
    pooled = document["pooled"]["accuracy"]
    yield writer.draw(
        "folds",
        f"Accuracy of each held-out fold with its 95 % interval. The line is the accuracy of all folds, {pooled:.4f}.",
        lambda axes: bars(axes, drawn, xlabel="accuracy", baseline=pooled),
        height=bars_height(drawn),
    )
    if len(rows) > 1:
        yield from score_bars(record, rows, "pooled", writer)
    if document.get("test"):
        scored = [ResultRow("mean of the folds", "ensemble", document["test"], chosen=True)]
        yield page_table(scored, title="Test images of the data set, used once")
    if comparison := document.get("comparison"):
        yield Paragraph(_sentence(comparison))
    yield from _paired_tests(record, CHOSEN)


def _network_results(record: RunReader, writer: FigureWriter) -> Iterator[Block]:
    document, split = record.metrics, record.evaluation_split
    trained = [row for row in document["networks"] if row.get(split)]
    if not trained:
        yield Paragraph("No network finished its training.", quiet=True)
        return
    metrics = table_metrics(Detail.MAIN, [row[split] for row in trained])
    others = [metric for metric in metrics if metric.name != "accuracy"]
    rows = [
        (
            row["name"],
            f"{len(row['seeds'])}",
            *(mean_sd(row[part]["accuracy"]) if row.get(part) else MISSING for part in ("test", "validation")),
            mean_sd(row["train_accuracy"]),
            *(mean_sd(row[split].get(metric.name)) for metric in others),
        )
        for row in trained
    ]
    best = {index for index, row in enumerate(trained) if row["name"] == document["chosen"]}
    titles = [metric.title for metric in others]
    caption = (
        f"Mean ± standard deviation over seeds; {' and '.join(titles)} on {split} images; the best network on "
        "validation images is highlighted"
    )
    yield Table((*_SEEDS, *titles), rows, "l".ljust(len(_SEEDS) + len(titles), "r"), caption, frozenset(best))
    drawn = [_network_bar(row, split) for row in trained]
    baseline = next((bar.value for bar in drawn if bar.name == document["baseline"]), None)
    whisker = "mean ± standard deviation over seeds" if len(trained[0]["seeds"]) > 1 else "95 % interval"
    yield writer.draw(
        "networks",
        f"Accuracy on {split} images ({whisker}). The line is the baseline, {document['baseline']}.",
        lambda axes: bars(axes, drawn, xlabel=f"accuracy on {split} images", baseline=baseline),
        height=bars_height(drawn),
    )
    yield from _baseline_tests(document, split)


def _baseline_tests(document: Mapping[str, Any], split: str) -> Iterator[Block]:
    tested = [(row["name"], row["against_baseline"]) for row in document["networks"] if row.get("against_baseline")]
    if not tested:
        return
    over_seeds = any(result["test"] == "images and seeds" for _, result in tested)
    test = "images and seeds as random effects" if over_seeds else "McNemar's exact test of one seed"
    rows = [
        (name, *points(result), p_value_text(result["p_value"]), p_value_text(result["p_holm"]))
        for name, result in tested
    ]
    header = ("network", "difference (points)", "95 % interval", "p", "p (Holm)")
    yield Table(header, rows, "lrrrr", f"Accuracy on {split} images, difference from {document['baseline']}: {test}")


def _paired_tests(record: RunReader, chosen: str) -> Iterator[Block]:
    """Compare the selected model with every member on the same images."""
    selected = record.chosen_predictions
    comparisons: list[tuple[str, Comparison]] = []
    for name, predictions in record.member_predictions.items():
        if selected is None or name == chosen:
            continue
        try:
            comparisons.append((name, compare(selected, predictions)))
        except DataError:
            continue  # a member of only some folds was evaluated on fewer images
    if not comparisons or (len(record.member_predictions) == 1 and record.kind == "crossval"):
        return
    adjusted = holm([result.p_value for _, result in comparisons])
    rows = [
        (name, *points(test.to_dict()), f"{test.only_a}", f"{test.only_b}", *map(p_value_text, (test.p_value, p_holm)))
        for (name, test), p_holm in zip(comparisons, adjusted, strict=True)
    ]
    counts = (f"only {chosen} correct", "only the other correct")
    header = ("compared with", "difference (points)", "95 % interval", *counts, "p", "p (Holm)")
    split = "held-out" if record.evaluation_split == "pooled" else record.evaluation_split
    images = f"{comparisons[0][1].n:,} {split} images"
    yield Table(header, rows, "lrrrrrr", f"Paired tests of {chosen} on {images} (McNemar's exact test)")


def _network_bar(row: Mapping[str, Any], split: str) -> Bar:
    value = row[split]["accuracy"]
    if value["sd"] is not None:
        return Bar(row["name"], value["mean"], value["mean"] - value["sd"], value["mean"] + value["sd"])
    training = row["trainings"][0][split]
    return Bar(row["name"], value["mean"], training["accuracy_low"], training["accuracy_high"])


def _sentence(values: Mapping[str, Any]) -> str:
    comparison = Comparison(**{field.name: values[field.name] for field in fields(Comparison)})
    return comparison_text(comparison, values["of"], values["against"])
