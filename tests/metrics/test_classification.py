"""Classification metrics against scikit-learn, published values and hand-computed ones."""

import json
import math
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from tercet.core.errors import DataError
from tercet.core.predictions import Predictions
from tercet.metrics.classification import (
    QUICK,
    confused_pairs,
    confusion,
    per_class,
    quick_scores,
    reliability,
    score,
    scores_from_confusion,
    validation_scores,
)
from tercet.metrics.metric import is_better

ROW_LSTM = [
    [834, 2, 14, 62, 1, 1, 80, 0, 6, 0],
    [1, 968, 3, 22, 1, 0, 4, 0, 1, 0],
    [11, 2, 790, 14, 133, 0, 50, 0, 0, 0],
    [16, 13, 9, 922, 18, 0, 19, 0, 3, 0],
    [0, 1, 78, 51, 835, 1, 32, 0, 2, 0],
    [0, 0, 0, 1, 0, 946, 0, 30, 2, 21],
    [151, 3, 87, 40, 136, 0, 575, 0, 8, 0],
    [0, 0, 0, 0, 0, 7, 0, 952, 0, 41],
    [4, 1, 8, 3, 2, 1, 1, 4, 976, 0],
    [1, 0, 0, 0, 0, 3, 0, 26, 0, 970],
]
SMALL_CNN = [
    [904, 1, 11, 23, 5, 1, 51, 0, 4, 0],
    [1, 974, 0, 20, 2, 0, 2, 0, 1, 0],
    [23, 1, 860, 9, 66, 0, 40, 1, 0, 0],
    [14, 3, 9, 938, 17, 0, 16, 0, 3, 0],
    [1, 1, 64, 27, 874, 0, 32, 0, 1, 0],
    [0, 0, 0, 0, 0, 977, 0, 14, 0, 9],
    [167, 0, 69, 36, 80, 0, 634, 0, 14, 0],
    [0, 0, 0, 0, 0, 6, 0, 973, 0, 21],
    [2, 3, 0, 5, 1, 5, 4, 4, 975, 1],
    [0, 0, 0, 0, 0, 5, 1, 27, 0, 967],
]


def random_predictions(count: int, width: int, *, seed: int = 0, skill: float = 1.0) -> Predictions:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, width, count)
    logits = generator.normal(size=(count, width)) + skill * np.eye(width)[labels]
    names = [str(number) for number in range(count)]
    return Predictions.from_logits(logits, ids=names, classes=[f"c{number}" for number in range(width)], labels=labels)


@pytest.mark.parametrize(
    ("matrix", "macro_f1", "kappa"), [(ROW_LSTM, 0.8748034992470057, 0.8631), (SMALL_CNN, 0.9059275834044541, 0.8973)]
)
def test_published_confusion_matrices_give_the_published_scores(
    matrix: list[list[int]], macro_f1: float, kappa: float
) -> None:
    scores = scores_from_confusion(matrix)
    assert scores.macro_f1 == macro_f1
    assert round(scores.kappa, 4) == kappa
    assert scores.n == 10_000


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 60), st.integers(2, 8), st.integers(0, 10_000), st.sampled_from([0.0, 1.0, 5.0]))
def test_scores_equal_those_of_scikit_learn(count: int, width: int, seed: int, skill: float) -> None:
    predictions = random_predictions(count, width, seed=seed, skill=skill)
    truth, predicted = predictions.labels, predictions.predicted
    classes = list(range(width))
    scores = score(predictions)
    precision, recall, f1, _ = sklearn_metrics.precision_recall_fscore_support(
        truth, predicted, average="macro", zero_division=0
    )
    assert scores.accuracy == pytest.approx(sklearn_metrics.accuracy_score(truth, predicted))
    assert (scores.macro_precision, scores.macro_recall, scores.macro_f1) == pytest.approx((precision, recall, f1))
    assert scores.log_loss == pytest.approx(sklearn_metrics.log_loss(truth, predictions.probabilities, labels=classes))
    squares = (predictions.probabilities - np.eye(width)[truth]) ** 2
    assert scores.brier == pytest.approx(squares.sum(axis=1).mean())
    recalls = [float((predicted[truth == label] == label).mean()) for label in np.unique(truth)]
    assert scores.balanced_accuracy == pytest.approx(np.mean(recalls))
    if len(set(truth) | set(predicted)) > 1:
        assert scores.kappa == pytest.approx(sklearn_metrics.cohen_kappa_score(truth, predicted))
    if width > 5:
        top = sklearn_metrics.top_k_accuracy_score(truth, predictions.probabilities, k=5, labels=classes)
        assert scores.top5 == pytest.approx(top)
    else:
        assert scores.top5 == 1.0
    assert scores.accuracy_low <= scores.accuracy <= scores.accuracy_high
    json.dumps(scores.to_dict(), allow_nan=False)


@pytest.mark.parametrize(
    ("num_correct", "count", "low", "high"),
    # Wilson's score interval: (p + z2/2n -+ z sqrt(p(1-p)/n + z2/4n2)) / (1 + z2/n), z = 1.959964
    [(8, 10, 0.49016, 0.94331), (0, 10, 0.0, 0.27753), (10, 10, 0.72247, 1.0), (9592, 10_000, 0.95514, 0.96290)],
)
def test_the_accuracy_interval_is_wilsons(num_correct: int, count: int, low: float, high: float) -> None:
    scores = scores_from_confusion([[num_correct, count - num_correct], [0, 0]])
    assert (scores.accuracy_low, scores.accuracy_high) == pytest.approx((low, high), abs=1e-5)


def test_samples_without_a_label_are_ignored() -> None:
    predictions = random_predictions(40, 3)
    partial = np.where(np.arange(40) < 25, predictions.labels, -1)
    assert score(predictions.with_labels(partial)) == score(predictions.take(np.arange(25)))
    assert confusion(predictions.with_labels(partial)).sum() == 25


def test_missing_labels_or_a_single_class_raise() -> None:
    predictions = random_predictions(5, 3)
    with pytest.raises(DataError, match="none of the 5 samples has a label"):
        score(predictions.with_labels(np.full(5, -1)))
    with pytest.raises(DataError, match="two classes"):
        score(Predictions.of(np.ones((3, 1)), labels=[0, 0, 0]))


def test_rounded_probabilities_are_scored_without_a_warning() -> None:
    predictions = random_predictions(50, 4)
    rounded = Predictions.of(predictions.probabilities.astype(np.float16), labels=predictions.labels)
    assert score(rounded).log_loss == pytest.approx(score(predictions).log_loss, abs=1e-2)


def test_kappa_of_a_single_true_class_is_zero() -> None:
    scores = score(Predictions.of([[0.9, 0.1], [0.8, 0.2]], labels=[0, 0]))
    assert (scores.accuracy, scores.macro_f1, scores.balanced_accuracy, scores.kappa) == (1.0, 1.0, 1.0, 0.0)


def test_the_lowest_index_wins_ties_in_top5() -> None:
    uniform = np.full((2, 10), 0.1)
    assert score(Predictions.of(uniform, labels=[4, 5])).top5 == 0.5


def test_calibration_error_equals_a_hand_computed_one() -> None:
    # three at 0.8, two of them correct; one at 0.6, wrong: (3 |2/3 - 0.8| + 1 |0 - 0.6|) / 4
    rows = [[0.8, 0.2], [0.8, 0.2], [0.8, 0.2], [0.6, 0.4]]
    predictions = Predictions.of(rows, labels=[0, 0, 1, 1])
    assert score(predictions).ece == pytest.approx((3 * abs(2 / 3 - 0.8) + 0.6) / 4)
    assert [row["n"] for row in reliability(predictions)] == [1, 3]
    assert all(row["low"] < row["confidence"] <= row["high"] + 1e-12 for row in reliability(predictions))


def test_certain_correct_predictions_have_perfect_scores() -> None:
    scores = score(Predictions.of(np.eye(6), labels=np.arange(6)))
    assert (scores.accuracy, scores.macro_f1, scores.kappa, scores.top5, scores.brier, scores.ece) == (1, 1, 1, 1, 0, 0)


def test_the_confusion_matrix_includes_absent_classes() -> None:
    matrix = confusion(Predictions.of([[0.9, 0.1, 0.0], [0.9, 0.1, 0.0]], labels=[0, 1]))
    assert matrix.tolist() == [[1, 0, 0], [1, 0, 0], [0, 0, 0]]


def test_scores_from_a_confusion_matrix_equal_those_of_the_predictions() -> None:
    predictions = random_predictions(200, 5)
    expected = score(predictions).to_dict()
    assert scores_from_confusion(confusion(predictions)).to_dict().items() <= expected.items()


@pytest.mark.parametrize("matrix", [[[1, 2]], [[-1, 2], [0, 1]], [[0, 0], [0, 0]], [[0.5, 1.0], [1.0, 1.0]], [1, 2]])
def test_an_invalid_confusion_matrix_raises(matrix: Any) -> None:
    with pytest.raises(DataError, match="confusion matrix"):
        scores_from_confusion(matrix)


def test_per_class_rows_and_most_frequent_errors() -> None:
    truth = [0, 0, 0, 0, 1, 1]
    predicted = [0, 1, 1, 2, 1, 0]
    predictions = Predictions.of(np.eye(4)[predicted], classes=["w", "x", "y", "z"], labels=truth)
    rows = per_class(predictions)
    assert [row["class"] for row in rows] == ["w", "x", "y", "z"]
    assert rows[0] == {"class": "w", "n": 4, "precision": 0.5, "recall": 0.25, "f1": pytest.approx(1 / 3)}
    assert rows[3] == {"class": "z", "n": 0, "precision": 0.0, "recall": 0.0, "f1": 0.0}
    pairs = confused_pairs(predictions, limit=2)
    assert pairs[0] == {"truth": "w", "predicted": "x", "n": 2, "share": 0.5}
    assert [(pair["truth"], pair["predicted"]) for pair in pairs] == [("w", "x"), ("w", "y")]
    assert len(confused_pairs(predictions)) == 3


def test_without_errors_there_are_no_confused_pairs() -> None:
    assert confused_pairs(Predictions.of(np.eye(2), labels=[0, 1])) == []


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 80), st.integers(2, 6), st.integers(0, 1000))
def test_validation_scores_equal_the_full_scores(count: int, width: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(count, width)).astype(np.float32)
    labels = generator.integers(0, width, count)
    quick = validation_scores(logits, labels)
    full = score(
        Predictions.from_logits(logits, ids=list(map(str, range(count))), classes=list("abcdef")[:width], labels=labels)
    )
    assert quick == pytest.approx({name: full[name] for name in QUICK})
    assert quick["sum"] == pytest.approx(quick["accuracy"] + quick["macro_f1"] + quick["kappa"])


def test_validation_scores_make_as_many_calls_for_more_images() -> None:
    def calls(count: int) -> int:
        logits, labels = generator.normal(size=(count, 10)), np.arange(count) % 10
        events: list[str] = []
        sys.setprofile(lambda frame, event, argument: events.append(event))
        try:
            validation_scores(logits, labels)
        finally:
            sys.setprofile(None)
        return sum(event in ("call", "c_call") for event in events)

    generator = np.random.default_rng(0)
    validation_scores([[0.0, 1.0]], [1])  # imports
    assert calls(10_000) == calls(100)


def test_the_loss_of_a_certain_error_is_not_clipped() -> None:
    assert validation_scores([[1000.0, 0.0]], [1])["loss"] == 1000.0


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_non_finite_logits_give_nan_scores_that_are_never_better(value: float) -> None:
    scores = validation_scores([[value, 0.0], [1.0, 0.0]], [0, 0])
    assert all(math.isnan(score) for score in scores.values())
    assert not is_better("accuracy", scores, None)


@pytest.mark.parametrize("labels", [[], [0], [0, 3], [-1, 0]])
def test_invalid_labels_raise(labels: list[int]) -> None:
    with pytest.raises(DataError):
        validation_scores(np.zeros((2, 3)), np.array(labels, dtype=int))


def test_quick_scores_include_the_monitored_metric_and_the_loss() -> None:
    predictions = random_predictions(50, 3)
    full = score(predictions)
    for monitor in (*QUICK, "brier"):
        quick = quick_scores(predictions.probabilities, predictions.labels, monitor=monitor)
        assert {monitor, "loss"} <= set(quick) | {"loss"} and quick["loss"] == pytest.approx(full["loss"])
        assert all(full[name] == pytest.approx(value) for name, value in quick.items())


def test_higher_is_better_except_for_the_loss_which_decides_ties() -> None:
    low, high = {"accuracy": 0.8, "loss": 0.5}, {"accuracy": 0.9, "loss": 0.7}
    assert is_better("accuracy", high, low) and not is_better("accuracy", low, high)
    assert is_better("loss", low, high) and not is_better("loss", high, low)
    assert is_better("accuracy", {"accuracy": 0.9, "loss": 0.6}, high)
    assert not is_better("accuracy", high, high)
    assert is_better("accuracy", low, None)


def test_nan_is_never_better_and_always_worse() -> None:
    finite, nan_score, nan_loss = (
        {"kappa": 0.1, "loss": 9.0},
        {"kappa": math.nan, "loss": 0.1},
        {"kappa": 0.9, "loss": math.nan},
    )
    for scores in (nan_score, nan_loss):
        assert not is_better("kappa", scores, finite)
        assert not is_better("kappa", scores, None)
        assert is_better("kappa", finite, scores)
