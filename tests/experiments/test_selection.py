"""The model that a finished run ships, and members at chance level."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.fixtures.runs import OPTIONS

from tercet.config.run import DEFAULT_METHODS, METHODS, FusionConfig, RunConfig, head_rows
from tercet.core.predictions import Predictions
from tercet.core.run_folder import RunFolder
from tercet.ensemble.bundle import load_bundle
from tercet.experiments.ensemble import combine
from tercet.experiments.finalize import RunResults, finalize
from tercet.experiments.plan import Plan
from tercet.experiments.selection import members_at_chance
from tercet.experiments.train import Run
from tercet.metrics.paired import paired_difference
from tercet.report.run import write_report

pytestmark = pytest.mark.usefixtures("alone")
NAMES = ("small-cnn", "row-gru", "wide")


@pytest.fixture
def run(finished: Run, tmp_path: Path) -> RunFolder:
    """Return a copy of a finished run, with 60 rows in the predictions of each split."""
    folder = RunFolder(Path(shutil.copytree(finished.path, tmp_path / "run")))
    for split in ("validation", "test"):
        for number, name in enumerate(NAMES):
            skilled(number, 2.0).save(folder.predictions(name, split))
    return folder


def skilled(seed: int, skill: float, *, count: int = 60) -> Predictions:
    labels = np.arange(count) % 3
    logits = np.random.default_rng(seed).normal(size=(count, 3)) + skill * np.eye(3)[labels]
    ids = [f"image-{row}" for row in range(count)]
    return Predictions.from_logits(logits, ids=ids, classes=("disc", "square", "stroke"), labels=labels)


def finished_again(run: RunFolder, *methods: str, **fusion: Any) -> RunResults:
    plan = Plan.load(run)
    config = replace(plan.run, ensemble_methods=methods or ("average", "weighted", "vote"))
    options = replace(plan.fusion, **{"choose": "simplest", **fusion})
    return finalize(run, replace(plan, run=config, fusion=options), None)


def use(run: RunFolder, name: str, predictions: Predictions) -> None:
    for split in ("validation", "test"):
        predictions.save(run.predictions(name, split))


def test_a_single_member_is_shipped_where_ensembles_are_not_measurably_better(run: RunFolder) -> None:
    use(run, "wide", skilled(2, 6.0))
    results = finished_again(run)
    assert (results.name, results.chosen, results.metrics["chosen"]) == ("wide", None, "wide")
    assert [member.name for member in load_bundle(run.bundle).members] == ["wide"]
    choice = results.metrics["choice"]
    assert choice.keys() == {"best", "shipped", "difference", "standard_error", "rule", "reason"}
    assert (choice["shipped"], choice["rule"]) == ("wide", "simplest")
    assert choice["reason"].startswith("Shipped: wide, ") and choice["reason"] in results.report
    run.write_results(results.metrics, results.report)
    assert choice["reason"] in write_report(run.path).path.read_text("utf-8")
    assert results.metrics["comparison"]["of"] == "wide"
    assert results.metrics["comparison"]["against"] in ("average", "weighted", "vote")
    json.dumps(results.metrics, allow_nan=False)


def test_an_ensemble_is_shipped_where_it_is_measurably_better(run: RunFolder) -> None:
    for number, name in enumerate(NAMES):  # every member is wrong about a third of the images of its own
        wrong = np.arange(60) // 20 == number
        predictions = skilled(number, 8.0)
        rolled = np.where(wrong[:, None], np.roll(predictions.probabilities, 1, axis=1), predictions.probabilities)
        use(run, name, replace(predictions, probabilities=rolled))
    results = finished_again(run)
    assert results.name == "average" and results.best.name in NAMES
    assert len(load_bundle(run.bundle).members) == 3
    assert results.metrics["choice"]["shipped"] == "average" and "Shipped: average" in results.report
    paired = paired_difference(
        results.winner.predictions["validation"], results.best.predictions["validation"], "accuracy"
    )
    assert paired.is_measurable


def test_a_single_requested_method_is_shipped(run: RunFolder) -> None:
    use(run, "wide", skilled(2, 6.0))
    results = finished_again(run, "average")
    assert results.name == "average" and results.metrics["choice"]["rule"] == "requested"
    assert "Shipped: average, the only requested method" in results.report
    assert finished_again(run, choose="best").chosen is not None


def test_a_member_at_chance_level_is_named_and_left_out(run: RunFolder) -> None:
    use(run, "row-gru", skilled(5, 0.0))
    results = finished_again(run, "average", "vote")
    assert [row["name"] for row in results.metrics["at_chance"]] == ["row-gru"]
    assert results.metrics["at_chance"][0]["left_out"]
    assert all("row-gru" not in row["members"] for row in results.metrics["ensembles"])
    run.write_results(results.metrics, results.report)
    assert "row-gru is at chance level on validation" in write_report(run.path).path.read_text("utf-8")
    assert "row-gru is at chance level on validation" in results.report and "not combined" in results.report
    assert [row["name"] for row in results.metrics["members"]] == list(NAMES)  # its scores are still reported
    published = finished_again(run, "average", choose="best")
    assert list(published.metrics["ensembles"][0]["members"]) == list(NAMES)
    assert "fusion.choose best" in published.report


def test_one_member_that_is_left_is_shipped(run: RunFolder) -> None:
    for seed, name in ((5, "row-gru"), (6, "small-cnn")):
        use(run, name, skilled(seed, 0.0))
    results = finished_again(run, "average")
    assert (results.name, results.metrics["ensembles"]) == ("wide", [])


def test_no_member_is_left_out_if_all_are_at_chance_level(run: RunFolder) -> None:
    for seed, name in zip((5, 6, 7), NAMES, strict=True):
        use(run, name, skilled(seed, 0.0))
    results = finished_again(run, "average")
    assert [row["left_out"] for row in results.metrics["at_chance"]] == [False] * 3
    assert list(results.metrics["ensembles"][0]["members"]) == list(NAMES)
    assert "All members are at chance level: none was left out." in results.report
    assert members_at_chance(Plan.load(run), {}).to_text() == ""


def test_the_head_is_a_default_where_rows_or_options_call_for_it(finished: Run) -> None:
    plan = Plan.load(RunFolder(finished.path))
    plan = replace(plan, run=RunConfig(), fusion=FusionConfig())
    rows = head_rows(3, 3)
    assert rows >= 1000 and head_rows(3, 100) > 40_000
    assert plan.with_default_head(rows - 1).run.ensemble_methods == DEFAULT_METHODS
    assert plan.with_default_head(rows).run.ensemble_methods == METHODS
    given = replace(plan, fusion=FusionConfig(data="out-of-fold"))
    assert given.with_default_head(10).run.ensemble_methods == METHODS and given.with_default_head(10).needs_folds()
    for other in (
        replace(plan, fusion=FusionConfig(choose="best")),
        replace(plan, members=plan.members[:1]),
        replace(plan, multilabel=True),
        replace(plan, run=RunConfig(ensemble_methods=("average", "vote"))),
    ):
        assert other.with_default_head(10**6) == other


def test_the_head_is_as_wide_as_its_rows_unless_its_size_is_given() -> None:
    assert [FusionConfig().sized(rows).width for rows in (0, 74, 4096, 10**6)] == [1, 74, 4096, 4096]
    assert FusionConfig().sized(74).steps == 300
    given = FusionConfig(width=0, steps=7)
    assert given.sized(74) == given


def test_the_head_takes_no_longer_than_the_members_did(finished: Run, tmp_path: Path) -> None:
    folder = RunFolder(Path(shutil.copytree(finished.path, tmp_path / "run")))
    for name in NAMES:
        path = folder.member(name).path / "member.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "seconds": 1e-4}))
    result = combine([folder.path], ensemble_methods=["e2e"], output=str(tmp_path / "out"))
    assert isinstance(result, Run) and "training the head stopped after 1 of 300 steps" in result.report
    assert result.metrics["ensembles"][0]["note"] in result.report
    given = {**OPTIONS["fusion"], "steps": 3}
    result = combine([folder.path], ensemble_methods=["e2e"], output=str(tmp_path / "given"), fusion=given)
    assert isinstance(result, Run) and "stopped" not in result.report
