"""Section on the results of single-label runs: tables with intervals, paired tests, and bars."""

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
from tercet.report.summary import MISSING, interval, mean_sd, number, p_value_text, points

_TITLES = {
    ("validation", "test"): "Test images, used once, after selection",
    ("validation", "validation"): "Validation images, used for model selection; fitted ensembles are cross-fitted",
    ("test", "test"): "Test images, used for model selection: OPTIMISTIC",
    ("test", "validation"): "Validation images",
}
_SCORES = ("accuracy", "95 % interval", "macro F1", "kappa", "top 5", "log loss", "ECE")
_FOLD_METRICS = ("accuracy", "macro_f1", "log_loss")
_SEEDS = ("network", "seeds", "test accuracy", "validation accuracy", "training accuracy", "macro F1", "log loss")


def results_section(record: RunReader, writer: FigureWriter) -> Section:
    """Return the results of a training, an ensemble, a cross-validation or a comparison."""
    blocks = {"crossval": _fold_results, "compare": _network_results}.get(record.kind, _run_results)
    return Section("Results", [*blocks(record, writer)])


def _run_results(record: RunReader, writer: FigureWriter) -> Iterator[Block]:
    document = record.metrics
    rows, kinds = _models(document)
    if not any(row.get("test") for row in rows):
        yield Paragraph("No test image has a label, so the scores are those on validation images.", quiet=True)
    if not any(row.get(record.evaluation_split) for row in rows):
        yield Paragraph("No image has a label, so there are no scores.", quiet=True)
        return
    for split in ("test", "validation"):
        scored = [(row["name"], kind, row[split]) for row, kind in zip(rows, kinds, strict=True) if row.get(split)]
        if scored:
            chosen = {index for index, (name, *_) in enumerate(scored) if name == document["chosen"]}
            yield _scores_table(scored, _TITLES[record.monitor_split, split], chosen)
    yield from _accuracy_bars(rows, kinds, record.evaluation_split, document["best_member"], writer)
    if comparison := document.get("comparison"):
        yield Paragraph(_sentence(comparison))
    yield from _paired_tests(record, document["chosen"])


def _models(document: Mapping[str, Any]) -> tuple[list[Mapping[str, Any]], list[str]]:
    """Return the rows of members and ensembles, and the kind of each."""
    members, ensembles = document["members"], document["ensembles"]
    return [*members, *ensembles], ["member"] * len(members) + ["ensemble"] * len(ensembles)


def _fold_results(record: RunReader, writer: FigureWriter) -> Iterator[Block]:
    document = record.metrics
    rows, kinds = _models(document)
    scored = [(row["name"], kind, row["pooled"]) for row, kind in zip(rows, kinds, strict=True)]
    if document["ensembles"]:
        rows, kinds = [*rows, {"name": CHOSEN, "pooled": document["pooled"]}], [*kinds, "selected per fold"]
        scored.append((CHOSEN, kinds[-1], document["pooled"]))
    yield _scores_table(scored, "Held-out images of all folds", {len(scored) - 1})
    spread = [
        (row["name"], *(mean_sd({"mean": row["mean"][key], "sd": row["sd"][key]}) for key in _FOLD_METRICS))
        for row in [*document["members"], *document["ensembles"]]
        if "mean" in row
    ]
    if spread:
        header = ("name", "accuracy", "macro F1", "log loss")
        yield Table(header, spread, "lrrr", "Mean ± standard deviation over folds")
    folds = [(f"fold {row['name']}", row.get("chosen", ""), row) for row in document["folds"]]
    yield _scores_table(folds, "Each fold, by its selected model", set(), kind="selected")
    drawn = [Bar(name, row["accuracy"], row["accuracy_low"], row["accuracy_high"]) for name, _, row in folds]
    pooled = document["pooled"]["accuracy"]
    yield writer.draw(
        "folds",
        f"Accuracy of each held-out fold with its 95 % interval. The line is the accuracy of all folds, {pooled:.4f}.",
        lambda axes: bars(axes, drawn, xlabel="accuracy", baseline=pooled),
        height=bars_height(drawn),
    )
    if len(rows) > 1:
        yield from _accuracy_bars(rows, kinds, "pooled", None, writer)
    if document.get("test"):
        scored = [("mean of the folds", "ensemble", document["test"])]
        yield _scores_table(scored, "Test images of the data set, used once", {0})
    if comparison := document.get("comparison"):
        yield Paragraph(_sentence(comparison))
    yield from _paired_tests(record, CHOSEN)


def _network_results(record: RunReader, writer: FigureWriter) -> Iterator[Block]:
    document, split = record.metrics, record.evaluation_split
    trained = [row for row in document["networks"] if row.get(split)]
    if not trained:
        yield Paragraph("No network finished its training.", quiet=True)
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
        f"Mean ± standard deviation over seeds; macro F1 and log loss on {split} images; the best network on "
        "validation images is highlighted"
    )
    yield Table(_SEEDS, rows, "lrrrrrr", caption, frozenset(best))
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
        (
            name,
            *points(result.to_dict()),
            f"{result.only_a}",
            f"{result.only_b}",
            p_value_text(result.p_value),
            p_value_text(corrected),
        )
        for (name, result), corrected in zip(comparisons, adjusted, strict=True)
    ]
    header = (
        "compared with",
        "difference (points)",
        "95 % interval",
        f"only {chosen} correct",
        "only the other correct",
        "p",
        "p (Holm)",
    )
    split = "held-out" if record.evaluation_split == "pooled" else record.evaluation_split
    images = f"{comparisons[0][1].n:,} {split} images"
    yield Table(header, rows, "lrrrrrr", f"Paired tests of {chosen} on {images} (McNemar's exact test)")


def _scores_table(
    rows: Sequence[tuple[str, str, Mapping[str, Any]]], title: str, strong: set[int], *, kind: str = "kind"
) -> Table:
    sizes = {scores["n"] for *_, scores in rows}
    caption = title + (f" (n = {sizes.pop():,})" if len(sizes) == 1 else "")
    top5 = any(scores.get("top5", 1) < 1 for *_, scores in rows)  # always 1 with up to five classes
    header = ["name", kind, *(["n"] if sizes else []), *(name for name in _SCORES if top5 or name != "top 5")]
    keys = [key for key in ("macro_f1", "kappa", "top5", "log_loss", "ece") if top5 or key != "top5"]
    cells = [
        [
            name,
            model_kind,
            *([f"{scores['n']:,}"] if sizes else []),
            number(scores["accuracy"]),
            interval(scores),
            *(number(scores.get(key)) for key in keys),
        ]
        for name, model_kind, scores in rows
    ]
    return Table(header, cells, "ll" + "r" * (len(header) - 2), caption, frozenset(strong))


def _accuracy_bars(
    rows: Sequence[Mapping[str, Any]], kinds: Sequence[str], split: str, best: str | None, writer: FigureWriter
) -> Iterator[Block]:
    drawn = [
        Bar(row["name"], row[split]["accuracy"], row[split]["accuracy_low"], row[split]["accuracy_high"], kind)
        for row, kind in zip(rows, kinds, strict=True)
        if row.get(split)
    ]
    baseline = next((bar.value for bar in drawn if bar.name == best), None)
    images = "held-out images of all folds" if split == "pooled" else f"{split} images"
    note = f" The line is {best}, the best single member by model selection." if baseline is not None else ""
    yield writer.draw(
        "ensemble-against-members",
        f"Accuracy on {images} with 95 % intervals.{note}",
        lambda axes: bars(axes, drawn, xlabel="accuracy", baseline=baseline),
        height=bars_height(drawn),
    )


def _network_bar(row: Mapping[str, Any], split: str) -> Bar:
    value = row[split]["accuracy"]
    if value["sd"] is not None:
        return Bar(row["name"], value["mean"], value["mean"] - value["sd"], value["mean"] + value["sd"])
    training = row["trainings"][0][split]
    return Bar(row["name"], value["mean"], training["accuracy_low"], training["accuracy_high"])


def _sentence(values: Mapping[str, Any]) -> str:
    comparison = Comparison(**{field.name: values[field.name] for field in fields(Comparison)})
    return comparison_text(comparison, values["of"], values["against"])
