"""Multi-label metrics against scikit-learn, thresholds, and ensembles."""

import json
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, f1_score, hamming_loss

from tercet.core.errors import ConfigError, DataError, ModelError
from tercet.core.multilabel import MultilabelPredictions
from tercet.core.registry import PARTS
from tercet.ensemble.combine import EnsembleMethod
from tercet.ensemble.multilabel import MultilabelRule, best_threshold, cross_fitted_multilabel, fit_rule
from tercet.metrics.multilabel import fit_threshold, per_label, score_multilabel, validation_multilabel_scores
from tercet.metrics.tables import ResultRow, classes_table, results_table
from tercet.models.forward import Logits


def random_predictions(count: int = 40, width: int = 5, seed: int = 0, noise: float = 0.3) -> MultilabelPredictions:
    generator = np.random.default_rng(seed)
    truth = (generator.random((count, width)) < 0.4).astype(int)
    scores = np.clip(truth * 0.5 + 0.25 + generator.normal(0, noise, truth.shape), 0, 1)
    ids = tuple(str(row) for row in range(count))
    return MultilabelPredictions(ids, tuple("abcdefgh"[:width]), scores, scores > 0.5, truth)


@given(st.integers(0, 999))
@settings(max_examples=20, deadline=None)
def test_scores_equal_those_of_scikit_learn(seed: int) -> None:
    predictions = random_predictions(seed=seed)
    scores, truth = score_multilabel(predictions), predictions.truth == 1
    assert scores.o_f1 == pytest.approx(f1_score(truth, predictions.chosen, average="micro"))
    assert scores.macro_f1 == pytest.approx(f1_score(truth, predictions.chosen, average="macro"))
    assert scores.map == pytest.approx(average_precision_score(truth, predictions.scores, average="macro"))
    assert scores.hamming == pytest.approx(hamming_loss(truth, predictions.chosen))
    assert scores.exact_match == pytest.approx((truth == predictions.chosen).all(axis=1).mean())
    assert scores.o_f1_low <= scores.o_f1 <= scores.o_f1_high


def test_scores_equal_hand_computed_ones() -> None:
    truth = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0], [-1, -1, -1]])
    chosen = np.array([[1, 0, 0], [1, 0, 0], [1, 0, 0], [1, 1, 1]], dtype=bool)
    predictions = MultilabelPredictions(tuple("wxyz"), tuple("abc"), np.where(chosen, 0.9, 0.1), chosen, truth)
    scores = score_multilabel(predictions)
    assert scores.n == 3
    assert (scores.o_precision, scores.o_recall) == (pytest.approx(2 / 3), pytest.approx(2 / 3))
    # a: precision 2/3, recall 1; b: never predicted, precision 0, recall 0; c does not occur and is ignored
    assert scores.c_precision == pytest.approx(1 / 3) and scores.c_recall == pytest.approx(1 / 2)
    assert scores.c_f1 == pytest.approx(0.4)
    assert scores.exact_match == pytest.approx(1 / 3) and scores.hamming == pytest.approx(2 / 9)
    rows = per_label(predictions)
    assert [row["n"] for row in rows] == [2, 1, 0] and rows[2]["ap"] is None
    with pytest.raises(DataError, match="known labels"):
        score_multilabel(predictions.take([3]))


def test_validation_scores_equal_the_full_scores() -> None:
    predictions = random_predictions()
    logits = np.log(predictions.scores.clip(1e-9, 1 - 1e-9) / (1 - predictions.scores.clip(1e-9, 1 - 1e-9)))
    quick, full = validation_multilabel_scores(logits, predictions.truth.astype(float)), score_multilabel(predictions)
    for name in ("o_f1", "c_f1", "map", "exact_match", "hamming"):
        assert quick[name] == pytest.approx(getattr(full, name)), name
    of_nan = validation_multilabel_scores(np.full((2, 2), np.nan), np.ones((2, 2)))
    assert all(np.isnan(value) for value in of_nan.values())
    assert validation_multilabel_scores([[900.0, -900.0]], [[0, 1]])["loss"] == pytest.approx(1800)


def test_scores_without_predicted_and_true_labels() -> None:
    zeros = np.zeros((3, 2))
    scores = score_multilabel(MultilabelPredictions(tuple("abc"), tuple("xy"), zeros, zeros > 0, zeros))
    assert (scores.o_f1, scores.c_f1, scores.map, scores.exact_match, scores.hamming) == (0, 0, 0, 1, 0)


@pytest.mark.parametrize("monitor", ["o_f1", "c_f1"])
def test_fit_threshold_maximizes_the_metric(monitor: str) -> None:
    predictions = random_predictions(count=200)
    fitted = fit_threshold(predictions.scores, predictions.truth, monitor)

    def metric(threshold: float) -> float:
        return getattr(score_multilabel(predictions.with_threshold(threshold)), monitor)

    assert metric(fitted) >= max(metric(threshold) for threshold in np.arange(0.05, 1, 0.05)) - 1e-12
    assert fit_threshold(np.array([[0.9, 0.1]]), np.array([[1, 0]])) == 0.5  # all are equally good: the middle


def test_cross_fitted_labels_use_thresholds_of_other_rows() -> None:
    predictions = random_predictions(count=30, noise=0.6)

    def fit_predict(
        fitted: Sequence[MultilabelPredictions], others: Sequence[MultilabelPredictions]
    ) -> MultilabelPredictions:
        return others[0].with_threshold(best_threshold(fitted[0], "o_f1"))

    fitted = cross_fitted_multilabel([predictions], fit_predict, folds=5)
    assert np.array_equal(fitted.scores, predictions.scores) and not np.array_equal(fitted.chosen, predictions.chosen)
    best = predictions.with_threshold(best_threshold(predictions, "o_f1"))
    assert score_multilabel(fitted).o_f1 <= score_multilabel(best).o_f1 + 1e-12
    leave_one_out = cross_fitted_multilabel([predictions], fit_predict, folds=30)
    for row in (0, 7):
        others = predictions.take([index for index in range(30) if index != row])
        assert np.array_equal(leave_one_out.chosen[row], predictions.scores[row] > best_threshold(others, "o_f1"))


def test_rules_combine_scores_or_votes() -> None:
    members = [random_predictions(noise=noise) for noise in (0.3, 0.5, 0.8)]
    average = MultilabelRule("average", (0.5,) * 3, 0.4).combine(members)
    assert np.allclose(average.scores, np.mean([member.scores for member in members], axis=0))
    assert np.array_equal(average.chosen, average.scores > 0.4)
    vote = MultilabelRule("vote", (0.5,) * 3).combine(members)
    assert np.array_equal(vote.chosen, np.sum([member.chosen for member in members], axis=0) >= 2)
    assert MultilabelRule("single", (0.3,)).combine(members[:1]) is members[0]
    with pytest.raises(DataError, match="2 members for 3"):
        MultilabelRule("vote", (0.5,) * 3).combine(members[:2])
    with pytest.raises(DataError, match="same samples"):
        MultilabelRule("vote", (0.5,) * 2).combine([members[0], members[1].take([0, 1])])


def test_methods_of_the_caller_combine_label_sets() -> None:
    members = [random_predictions(noise=noise) for noise in (0.3, 0.8)]
    method = EnsembleMethod(fit=lambda members, monitor: [score_multilabel(item).o_f1 for item in members])
    with PARTS["combiner"].scoped({"mine": replace(method, multilabel=True), "single-label": method}):
        rule = fit_rule("mine", members, (0.5, 0.5), "o_f1")
        values = json.loads(json.dumps(rule.to_dict()))
        with pytest.raises(ConfigError, match="'single-label' cannot combine label sets: use average or vote or mine"):
            MultilabelRule("single-label", (0.5, 0.5), weights=(0.5, 0.5))
    assert rule.weights is not None and rule.weights[0] > rule.weights[1]
    combined = rule.combine(members)
    assert np.allclose(combined.scores, rule.weights[0] * members[0].scores + rule.weights[1] * members[1].scores)
    assert MultilabelRule.from_dict(values, 2) == replace(rule, weights=rule.weights)  # weights need no registered code


def test_a_rule_round_trips_through_json_and_damage_raises() -> None:
    rule = MultilabelRule("average", (0.31, 0.5), 0.42)
    values = json.loads(json.dumps(rule.to_dict()))
    assert MultilabelRule.from_dict(values, 2) == rule
    for damage in ({"method": "e2e"}, {"thresholds": "x"}, {"thresholds": [2, 0.5]}, {"threshold": None}):
        with pytest.raises(ModelError, match="damaged"):
            MultilabelRule.from_dict({**values, **damage}, 2)
    with pytest.raises(ModelError, match="for 2 members, not 3"):
        MultilabelRule.from_dict(values, 3)
    with pytest.raises(ConfigError, match="does not fit"):
        MultilabelRule("single", (0.5, 0.5))


def test_logits_of_several_members_are_split() -> None:
    logits = np.array([[4.0, -4.0, 0.2, 0.2], [-4.0, 4.0, 0.2, -0.2]], dtype=np.float32)
    truth = np.array([[1, 0], [0, 1]])
    first, second = MultilabelRule("vote", (0.5, 0.6)).members(Logits(("a", "b"), logits, truth), ("x", "y"))
    assert first.predicted_names == [("x",), ("y",)] and second.predicted_names == [(), ()]
    assert first.known.all()
    unknown = MultilabelRule("single", (0.5,)).members(Logits(("a", "b"), logits[:, :2], np.full(2, -1)), ("x", "y"))
    assert not unknown[0].known.any()
    with pytest.raises(ModelError, match="sample 'b'"):
        logits[1, 0] = np.nan
        MultilabelRule("vote", (0.5, 0.6)).members(Logits(("a", "b"), logits, truth), ("x", "y"))


def test_tables_fit_80_columns_and_escape_names() -> None:
    predictions = random_predictions()
    rows = [
        ResultRow("[red]a", "member", score_multilabel(predictions), 3.2, 1200),
        ResultRow("vote", "ensemble", score_multilabel(predictions), chosen=True),
    ]
    text = results_table(rows, title="t").to_text()
    assert "[red]a" in text and "* vote" in text and "n = 40 samples" in text
    assert max(map(len, (text + classes_table(predictions, title="by label").to_text()).splitlines())) <= 80
