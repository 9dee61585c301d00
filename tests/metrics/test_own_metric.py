"""A metric of the caller's needs one registration: it is in results, tables and reports, and can be the monitor."""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.fixtures.runs import one_core

import tercet
from tercet.config.commands import TRAIN
from tercet.core.errors import ConfigError, DataError, TercetError
from tercet.core.files import read_json
from tercet.core.multilabel import MultilabelPredictions
from tercet.core.predictions import Predictions
from tercet.core.registry import PARTS
from tercet.experiments.train import train
from tercet.experiments.tune import tune
from tercet.metrics import Metric, score, score_multilabel
from tercet.metrics.classification import quick_scores, validation_scores
from tercet.metrics.metric import BUILT_IN, METRICS, Detail, describe_metric, find_metric, is_better, metric_names
from tercet.metrics.multilabel import validation_multilabel_scores
from tercet.metrics.tables import ResultRow, results_table
from tercet.report.run import write_report

QUICK: dict[str, Any] = {"epochs": 2, "lr": 3e-3, "batch_size": 16, "threads": 1, "tensorboard": False}


def worst_recall(predictions: Predictions) -> float:
    """Return the smallest recall of all classes."""
    hits = predictions.predicted == predictions.labels
    return min(float(hits[predictions.labels == label].mean()) for label in np.unique(predictions.labels))


def cost_of_disc(predictions: Predictions) -> float:
    """Return the share of discs that are missed, by the name of the class."""
    discs = predictions.labels == predictions.classes.index("disc")
    return float((predictions.predicted != predictions.labels)[discs].mean()) if discs.any() else 0.0


@pytest.fixture
def own() -> Iterator[None]:
    metric = Metric("disc_cost", "cost of discs", cost_of_disc, higher_is_better=False, format=".2f")
    with PARTS["metric"].scoped({"worst_recall": worst_recall, "disc_cost": metric}):
        yield


@pytest.mark.usefixtures("alone", "own")
def test_a_registered_metric_is_in_results_tables_and_reports_and_can_be_the_monitor(
    shapes: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    done = train(shapes, members=["small-cnn"], monitor="worst_recall", output=str(output), **QUICK)
    (member,) = read_json(output / "metrics.json")["members"]
    assert done.metrics["protocol"]["monitor"] == "worst_recall"
    values = [member[split][name] for split in ("validation", "test") for name in ("worst_recall", "disc_cost")]
    assert all(0 <= value <= 1 for value in values)
    report = (output / "report.txt").read_text("utf-8")
    assert re.search(r"ECE +discs +recall", report) and f"{member['test']['worst_recall']:.4f}" in report
    assert {"worst_recall", "disc_cost"} <= set(member["best"])
    assert "worst_recall" in (output / "members/small-cnn/train.log").read_text("utf-8")
    card = tercet.load_bundle(output / "bundle").card["metrics"]
    assert card["test"]["worst_recall"] == member["test"]["worst_recall"]
    assert "recall" in tercet.evaluate(output / "bundle", shapes, include_seen=True).to_text()
    page = write_report(output)
    html = page.path.read_text("utf-8")
    assert "cost of discs</th>" in html and "by worst recall on" in html
    assert {"training-worst-recall.svg", "training-disc-cost.svg"} <= {path.name for path in page.figures}


@pytest.mark.usefixtures("alone")
def test_a_report_of_a_run_with_a_metric_that_is_not_registered_here_shows_it(shapes: Path, tmp_path: Path) -> None:
    with PARTS["metric"].scoped({"worst_recall": worst_recall}):
        train(shapes, members=["small-cnn"], output=str(tmp_path / "run"), **QUICK)
    assert "worst recall</th>" in write_report(tmp_path / "run").path.read_text("utf-8")
    assert describe_metric("worst_recall").title == "worst recall"


@pytest.mark.usefixtures("alone", "own")
def test_a_registered_metric_is_the_objective_of_a_search(shapes: Path, tmp_path: Path) -> None:
    space = {"head_hidden_dim": [4, 16]}
    options = {"members": ["small-cnn"], "monitor": "disc_cost", "trials": 2, **QUICK}
    done = tune(shapes, space=space, output=str(tmp_path / "search"), **options)
    document = read_json(tmp_path / "search" / "metrics.json")
    scores = [row["score"] for row in document["trials"]]
    assert document["monitor"] == "disc_cost" and document["best"]["score"] == min(scores)
    assert "disc_cost" in (tmp_path / "search" / "report.txt").read_text("utf-8") and done is not None


def predictions(count: int = 40) -> Predictions:
    generator = np.random.default_rng(0)
    values = generator.dirichlet(np.ones(3), count)
    return Predictions.of(values, classes=["disc", "square", "stroke"], labels=np.arange(count) % 3)


@pytest.mark.usefixtures("own")
def test_scores_of_validations_and_of_greedy_selection_include_it() -> None:
    rows = predictions()
    full = score(rows)
    assert full.worst_recall == worst_recall(rows) and full.disc_cost == cost_of_disc(rows)
    logits = np.log(rows.probabilities)
    quick = validation_scores(logits, rows.labels, classes=rows.classes, monitor="worst_recall")
    assert quick["worst_recall"] == full["worst_recall"] and quick["disc_cost"] == full["disc_cost"]
    greedy = quick_scores(rows.probabilities, rows.labels, monitor="disc_cost", like=rows)
    assert greedy["disc_cost"] == full["disc_cost"]
    assert all(math.isnan(value) for value in validation_scores([[math.nan, 0]], [0]).values())
    table = results_table([ResultRow("a", "member", full)]).to_text()
    assert f"{full.disc_cost:.2f}" in table and f"{full.worst_recall:.4f}" in table
    low, high = {"disc_cost": 0.1, "loss": 9.0}, {"disc_cost": 0.2, "loss": 1.0}
    assert is_better("disc_cost", low, high) and not is_better("disc_cost", high, low)


def test_a_multilabel_metric_is_scored_for_label_sets_only() -> None:
    def labels_per_image(predictions: MultilabelPredictions) -> float:
        return float(predictions.chosen.sum(axis=1).mean())

    generator = np.random.default_rng(0)
    logits, truth = generator.normal(size=(9, 3)), generator.integers(0, 2, (9, 3))
    sets = MultilabelPredictions.from_logits(logits, ids=list("abcdefghi"), classes=list("xyz"), truth=truth)
    metric = Metric("size", "labels per image", labels_per_image, tasks={"multi": Detail.RESULTS})
    with PARTS["metric"].scoped({"size": metric}):
        expected = labels_per_image(sets)
        assert score_multilabel(sets)["size"] == validation_multilabel_scores(logits, truth)["size"] == expected
        assert "size" not in score(predictions()) and "size" in metric_names("multi")
        assert "labels\n" not in results_table([ResultRow("a", "member", score(predictions()))]).to_text()


def fails(predictions: Predictions) -> float:
    raise ZeroDivisionError("no discs")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda _: math.nan, "metric 'odd' is nan on 40 images: it must be a finite number"),
        (lambda _: None, "metric 'odd' failed: TypeError: "),
        (fails, "metric 'odd' failed: ZeroDivisionError: no discs"),
    ],
)
def test_a_metric_that_fails_is_named_in_one_line(function: Any, message: str) -> None:
    with PARTS["metric"].scoped({"odd": function}), pytest.raises(DataError, match=re.escape(message)) as error:
        score(predictions())
    assert "\n" not in str(error.value)


@pytest.mark.usefixtures("alone")
def test_a_metric_that_fails_ends_a_training_which_can_be_resumed(shapes: Path, tmp_path: Path) -> None:
    values = iter([0.5, math.nan])
    with (
        PARTS["metric"].scoped({"odd": lambda _: next(values)}),
        one_core(),
        pytest.raises(TercetError, match=r"metric 'odd' is nan .* continue with --resume"),
    ):
        train(shapes, members=["small-cnn"], output=str(tmp_path / "run"), **QUICK)
    with PARTS["metric"].scoped({"odd": lambda _: 0.5}):
        done = train(resume=str(tmp_path / "run"))
    assert done.metrics["members"][0]["validation"]["odd"] == 0.5


def test_unknown_and_taken_names_are_errors() -> None:
    with pytest.raises(ConfigError, match="unknown metric 'acuracy', did you mean 'accuracy'"):
        find_metric("acuracy")
    with pytest.raises(ConfigError, match="got 'kapa', did you mean 'kappa'"):
        TRAIN.parse_object({"monitor": "kapa"})
    scores = score(predictions())
    with pytest.raises(AttributeError, match="no score 'acuracy', did you mean 'accuracy'"):
        _ = scores.acuracy
    for unknown in (scores.__getitem__, lambda name: validation_scores(np.eye(3), np.arange(3), monitor=name)):
        with pytest.raises(ConfigError, match="no score 'o_f1'"):
            unknown("o_f1")
    with pytest.raises(ConfigError, match="already registered"):
        tercet.register("metric", "accuracy", worst_recall)
    with PARTS["metric"].scoped({"n": worst_recall}), pytest.raises(ConfigError, match="register it under another"):
        score(predictions())


def test_the_table_of_metrics_is_complete() -> None:
    single, multi = metric_names("single"), metric_names("multi")
    assert {metric.name for metric in BUILT_IN} == set(METRICS) == {*single, *multi}
    assert [name for name in score(predictions()) if name in single] == metric_names("single", Detail.FILE)
    assert metric_names("single", Detail.RESULTS) == ["accuracy", "macro_f1", "kappa", "log_loss", "ece"]
    assert metric_names("multi", Detail.RESULTS) == ["o_f1", "c_f1", "map", "exact_match", "hamming"]
