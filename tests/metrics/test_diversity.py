"""Diversity of models: agreement, joint errors, hard images and confused classes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tercet.core.errors import DataError
from tercet.core.predictions import Predictions
from tercet.metrics.significance import agreement_matrix, confused_class_pairs, difficulty, diversity

LABELS = np.array([0, 1, 2, 0, 1, 2, 0, 1])
IDS = [f"image {row}" for row in range(8)]


def make_predictions(classes: list[int], labels: np.ndarray = LABELS) -> Predictions:
    return Predictions.of(np.eye(3)[classes], ids=IDS, classes=["cat", "dog", "owl"], labels=labels)


A = make_predictions([0, 1, 2, 0, 2, 1, 1, 2])  # correct: 0 1 2 3
B = make_predictions([0, 1, 0, 1, 1, 1, 2, 2])  # correct: 0 1 4; the same errors as A in 5 and 7


def test_diversity_of_constructed_predictions() -> None:
    result = diversity([(A, B)])
    assert (result.both, result.only_a, result.only_b, result.neither) == (2 / 8, 2 / 8, 1 / 8, 3 / 8)
    assert result.agreement == 4 / 8
    assert result.disagreement == 3 / 8
    assert result.to_dict()["disagreement"] == 3 / 8


def test_diversity_is_averaged_over_trainings() -> None:
    assert diversity([(A, B), (A, A)]).agreement == (4 / 8 + 1) / 2


def test_confused_class_pairs_count_both_directions_and_average_over_trainings() -> None:
    # A confuses dog and owl three times, B twice
    assert confused_class_pairs([A]) == [
        {"a": "dog", "b": "owl", "mistakes": 3.0},
        {"a": "cat", "b": "dog", "mistakes": 1.0},
    ]
    assert confused_class_pairs([A, B], limit=1) == [{"a": "dog", "b": "owl", "mistakes": 2.5}]
    assert confused_class_pairs([make_predictions(list(LABELS))]) == []


def test_difficulty_of_constructed_predictions() -> None:
    c = make_predictions([0, 0, 2, 0, 1, 1, 1, 2])  # correct: 0 2 3 4
    result = difficulty([A, B, c])
    assert result.easy == ["image 0"]
    assert result.hard == ["image 5", "image 6", "image 7"]
    assert result.num_correct == (3, 2, 2, 2, 2, 0, 0, 0)
    assert result.labels == ("cat", "dog", "owl", "cat", "dog", "owl", "cat", "dog")


def test_unlabelled_images_are_ignored() -> None:
    known = np.where(np.arange(8) < 5, LABELS, -1)
    result = difficulty(
        [make_predictions([0, 1, 2, 0, 2, 1, 1, 2], known), make_predictions([0, 1, 0, 1, 1, 1, 2, 2], known)]
    )
    assert result.ids == tuple(IDS[:5])
    assert result.hard == []
    with pytest.raises(DataError, match="label"):
        difficulty([make_predictions([0] * 8, np.full(8, -1))])


@pytest.mark.parametrize("measure", [diversity, difficulty])
def test_no_predictions_raise(measure: object) -> None:
    with pytest.raises(DataError):
        measure([])  # type: ignore[operator]


@given(arrays(np.int64, (2, 8), elements=st.integers(0, 2)))
def test_fractions_sum_to_one(classes: np.ndarray) -> None:
    a, b = (make_predictions(row.tolist()) for row in classes)
    result = diversity([(a, b)])
    assert result.both + result.only_a + result.only_b + result.neither == pytest.approx(1)
    assert result.both <= result.agreement <= 1 - result.disagreement + 1e-12
    difficulties = difficulty([a, b])
    assert (len(difficulties.easy), len(difficulties.hard)) == (round(8 * result.both), round(8 * result.neither))


def test_agreement_matrix_of_constructed_predictions() -> None:
    c = Predictions.of(np.eye(3)[[0, 1, 2, 0, 1, 2, 0, 1]][::-1], ids=IDS[::-1], classes=["cat", "dog", "owl"])
    matrix = agreement_matrix([A, B, c])
    assert matrix.tolist() == [[1, 4 / 8, 4 / 8], [4 / 8, 1, 3 / 8], [4 / 8, 3 / 8, 1]]
    with pytest.raises(DataError, match="at least one"):
        agreement_matrix([])
