"""The choice of the shipped model: simplest first, never measurably worse than the best, whatever the order of rows."""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tercet.core.errors import DataError
from tercet.core.multilabel import MultilabelPredictions
from tercet.core.predictions import Predictions
from tercet.ensemble.choice import MEMBER, Candidate, Choice, choose_among, choose_simplest, complexity
from tercet.metrics.classification import score
from tercet.metrics.metric import METRICS, rank_key
from tercet.metrics.multilabel import score_multilabel
from tercet.metrics.paired import paired_difference

LEVELS = (MEMBER, *map(complexity, ("average", "vote", "weighted", "e2e")))


def model(seed: int, skill: float, labels: Any) -> Predictions:
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(len(labels), 3)) + skill * np.eye(3)[labels]
    ids = [f"image-{row}" for row in range(len(labels))]
    return Predictions.from_logits(logits, ids=ids, classes=("a", "b", "c"), labels=labels)


def candidate(name: str, level: int, predictions: Predictions) -> Candidate:
    return Candidate(name, level, predictions, score(predictions))


@st.composite
def candidates(draw: st.DrawFn) -> list[Candidate]:
    count = draw(st.integers(6, 60))
    labels = np.arange(count) % 3
    levels = draw(st.lists(st.sampled_from(LEVELS), min_size=1, max_size=6))
    skills = draw(st.lists(st.sampled_from((0.0, 0.5, 1.0, 1.2)), min_size=len(levels), max_size=len(levels)))
    shared = draw(st.booleans())  # few noise patterns: many ties
    return [
        candidate(f"model-{index}", level, model(index % 2 if shared else index, skill, labels))
        for index, (level, skill) in enumerate(zip(levels, skills, strict=True))
    ]


def of_levels(choices: Sequence[Candidate], level: int) -> list[Candidate]:
    return [item for item in choices if item.complexity == level]


@given(candidates(), st.sampled_from(("accuracy", "loss")))
@settings(max_examples=25, deadline=None)
def test_the_shipped_model_is_the_simplest_that_is_not_measurably_worse(items: list[Candidate], monitor: Any) -> None:
    choice = choose_simplest(items, monitor)
    key = rank_key(monitor, choice.best.scores)
    assert all(key[0] <= rank_key(monitor, item.scores)[0] + 1e-9 for item in items)
    assert choice.paired.difference <= choice.paired.standard_error
    expected = abs(choice.best.scores[monitor] - choice.shipped.scores[monitor])
    assert choice.paired.difference == pytest.approx(expected, abs=1e-9)
    same = of_levels(items, choice.shipped.complexity)
    assert all(rank_key(monitor, choice.shipped.scores)[0] <= rank_key(monitor, item.scores)[0] + 1e-9 for item in same)
    for level in LEVELS[: LEVELS.index(choice.shipped.complexity)]:
        if simpler := of_levels(items, level):
            first = min(simpler, key=lambda item: rank_key(monitor, item.scores))
            assert paired_difference(choice.best.predictions, first.predictions, monitor).is_measurable


@given(candidates(), st.sampled_from(("accuracy", "loss")), st.randoms(use_true_random=False))
@settings(max_examples=15, deadline=None)
def test_the_choice_does_not_depend_on_the_order_of_the_rows(items: list[Candidate], monitor: Any, random: Any) -> None:
    order = list(range(len(items[0].predictions)))
    random.shuffle(order)
    shuffled = [candidate(item.name, item.complexity, item.predictions.take(order)) for item in items]
    first, second = (choose_simplest(rows, monitor) for rows in (items, shuffled))
    assert first.to_dict() == second.to_dict()


def test_the_bootstrap_does_not_depend_on_the_order_of_the_rows() -> None:
    labels = np.arange(45) % 3
    a, b = model(0, 1.0, labels), model(1, 0.5, labels)
    order = np.random.default_rng(0).permutation(45)
    expected = paired_difference(a, b, "macro_f1")
    assert paired_difference(a.take(order), b, "macro_f1") == expected
    assert paired_difference(b, a, "macro_f1").difference == -expected.difference
    assert expected.difference == pytest.approx(score(a).macro_f1 - score(b).macro_f1)


def test_the_error_of_the_accuracy_follows_from_the_discordant_samples() -> None:
    labels = np.zeros(20, dtype=np.int64)
    correct, wrong = np.array([0.9, 0.1]), np.array([0.1, 0.9])
    # 5 samples that only a classifies correctly, 2 that only b does
    a = Predictions.of(np.where((np.arange(20) < 15)[:, None], correct, wrong), labels=labels)
    b = Predictions.of(np.where(((np.arange(20) >= 5) & (np.arange(20) < 17))[:, None], correct, wrong), labels=labels)
    paired = paired_difference(a, b, "accuracy")
    assert paired.difference == pytest.approx(3 / 20)
    assert paired.standard_error == pytest.approx(math.sqrt(7 - 9 / 20) / 20)
    assert paired.is_measurable and not paired_difference(b, a, "accuracy").is_measurable


@pytest.mark.parametrize("monitor", ["macro_f1", "kappa", "balanced_accuracy"])
def test_the_bootstrap_agrees_with_the_error_of_the_accuracy_on_balanced_classes(monitor: str) -> None:
    labels = np.arange(150) % 3
    a, b = model(0, 1.0, labels), model(1, 0.7, labels)
    scale = 1.5 if monitor == "kappa" else 1.0
    expected = scale * paired_difference(a, b, "accuracy").standard_error
    assert paired_difference(a, b, monitor).standard_error == pytest.approx(expected, rel=0.3)


def test_a_metric_of_the_callers_is_bootstrapped() -> None:
    labels = np.arange(60) % 3
    a, b = model(0, 1.0, labels), model(1, 0.7, labels)
    with METRICS.scoped({"own": lambda rows: float((rows.predicted == rows.labels).mean())}):
        own = paired_difference(a, b, "own")
    accuracy = paired_difference(a, b, "accuracy")
    assert own.difference == pytest.approx(accuracy.difference)
    assert own.standard_error == pytest.approx(accuracy.standard_error, rel=0.3)


@pytest.mark.parametrize("monitor", ["o_f1", "c_f1", "map", "exact_match", "hamming"])
def test_label_sets_are_compared_too(monitor: Any) -> None:
    generator = np.random.default_rng(0)
    truth = (generator.random((80, 4)) < 0.4).astype(np.int8)
    ids, classes = tuple(map(str, range(80))), tuple("abcd")
    rows = []
    for noise in (0.3, 0.3, 0.9):
        scores = np.clip(truth * 0.6 + 0.2 + generator.normal(0, noise, truth.shape), 0, 1)
        rows.append(MultilabelPredictions(ids, classes, scores, scores > 0.5, truth))
    good, similar, bad = (Candidate(str(row), row, item, score_multilabel(item)) for row, item in enumerate(rows))
    assert choose_simplest([replace(bad, complexity=0), replace(good, complexity=1)], monitor).shipped.name == "0"
    choice = choose_simplest([good, similar, bad], monitor)
    assert choice.paired.difference <= choice.paired.standard_error
    assert choice.shipped.complexity <= choice.best.complexity


def test_the_vote_is_never_preferred_to_an_equal_average() -> None:
    labels = np.arange(30) % 3
    predictions = model(0, 1.0, labels)
    hard = replace(predictions, probabilities=np.eye(3)[predictions.predicted])
    items = [candidate("vote", complexity("vote"), hard), candidate("average", complexity("average"), predictions)]
    assert choose_simplest(items, "accuracy").shipped.name == "average"


def test_methods_are_ordered_by_complexity() -> None:
    order = [complexity(method) for method in ("average", "vote", "weighted", "e2e")]
    assert [MEMBER, *order] == sorted({MEMBER, *order})
    assert complexity("pruned") == complexity("vote") and complexity("greedy") == complexity("weighted")
    assert all(left < right for left, right in pairwise(LEVELS))


def shipped_by(rule: Any, requested: Sequence[str]) -> Choice:
    labels = np.arange(60) % 3
    single = [candidate("cnn", MEMBER, model(0, 1.5, labels))]
    several = [
        candidate("average", complexity("average"), model(1, 0.1, labels)),
        candidate("vote", complexity("vote"), model(2, 0.3, labels)),
    ]
    combined = [item for item in several if item.name in requested]
    return choose_among(single, combined, "accuracy", rule, requested=requested)


def test_a_single_requested_method_and_the_rule_best_ship_ensembles() -> None:
    assert shipped_by("simplest", ["average", "vote"]).shipped.name == "cnn"
    requested = shipped_by("simplest", ["average"])
    assert (requested.rule, requested.best.name, requested.shipped.name) == ("requested", "cnn", "average")
    assert "average, the only requested method. cnn is best on validation" in requested.to_text()
    best = shipped_by("best", ["average", "vote"])
    assert best.shipped is best.best and best.shipped.name in ("average", "vote")
    assert shipped_by("simplest", []).shipped.name == "cnn"
    with pytest.raises(DataError, match="nothing to choose"):
        choose_among([], [], "accuracy", "simplest", requested=())


def test_the_reason_names_best_and_shipped_with_difference_and_error() -> None:
    labels = np.zeros(20, dtype=np.int64)
    right = np.arange(20)[:, None]
    correct, wrong = np.array([0.9, 0.1]), np.array([0.1, 0.9])
    # 2 samples that only the ensemble classifies correctly, 1 that only the network does
    network = Predictions.of(np.where(right >= 2, correct, wrong), labels=labels)
    ensemble = Predictions.of(np.where(right < 19, correct, wrong), labels=labels)
    items = [candidate("cnn", MEMBER, network), candidate("weighted", complexity("weighted"), ensemble)]
    assert choose_simplest(items, "accuracy").to_text() == (
        "Shipped: cnn, the simplest model that is not measurably worse than the best. weighted is best on validation: "
        "accuracy 0.0500 higher, standard error 0.0859."
    )
    sharper = Predictions.of(np.where(right >= 2, np.array([0.95, 0.05]), wrong), labels=labels)
    items[1] = candidate("weighted", complexity("weighted"), sharper)
    assert (
        choose_simplest(items, "accuracy")
        .to_text()
        .endswith("weighted has the same accuracy 0.9000 on validation, and a lower log loss.")
    )
    better = Predictions.of(np.where(right >= 0, correct, wrong), labels=labels)
    items[1] = candidate("weighted", complexity("weighted"), better)
    assert choose_simplest(items, "accuracy").to_text() == (
        "Shipped: weighted, the best on validation: accuracy 1.0000 (no simpler model comes within one standard error)."
    )
