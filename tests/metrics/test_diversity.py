import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tercet.core.errors import DataError
from tercet.core.predictions import Predictions
from tercet.metrics.seed_comparison import agreement_matrix, confused_class_pairs, difficulty, diversity

LABELS = np.array([0, 1, 2, 0, 1, 2, 0, 1])
IDS = [f"image {row}" for row in range(8)]


def said(classes: list[int], labels: np.ndarray = LABELS) -> Predictions:
    return Predictions.of(np.eye(3)[classes], ids=IDS, classes=["cat", "dog", "owl"], labels=labels)


A = said([0, 1, 2, 0, 2, 1, 1, 2])  # right: 0 1 2 3
B = said([0, 1, 0, 1, 1, 1, 2, 2])  # right: 0 1 4; as wrong as A in 5 and 7


def test_pairs_by_construction() -> None:
    found = diversity([(A, B)])
    assert (found.both, found.only_a, found.only_b, found.neither) == (2 / 8, 2 / 8, 1 / 8, 3 / 8)
    assert found.agreement == 4 / 8
    assert found.disagreement == 3 / 8
    assert found.to_dict()["disagreement"] == 3 / 8


def test_several_trainings_are_averaged() -> None:
    assert diversity([(A, B), (A, A)]).agreement == (4 / 8 + 1) / 2


def test_hard_pairs_count_both_directions_and_average_over_trainings() -> None:
    # A takes dog and owl for each other three times, B twice
    assert confused_class_pairs([A]) == [
        {"a": "dog", "b": "owl", "mistakes": 3.0},
        {"a": "cat", "b": "dog", "mistakes": 1.0},
    ]
    assert confused_class_pairs([A, B], most=1) == [{"a": "dog", "b": "owl", "mistakes": 2.5}]
    assert confused_class_pairs([said(list(LABELS))]) == []


def test_easy_and_hard_by_construction() -> None:
    c = said([0, 0, 2, 0, 1, 1, 1, 2])  # right: 0 2 3 4
    found = difficulty([A, B, c])
    assert found.easy == ["image 0"]
    assert found.hard == ["image 5", "image 6", "image 7"]
    assert found.right == (3, 2, 2, 2, 2, 0, 0, 0)
    assert found.labels == ("cat", "dog", "owl", "cat", "dog", "owl", "cat", "dog")


def test_unlabelled_images_do_not_count() -> None:
    known = np.where(np.arange(8) < 5, LABELS, -1)
    found = difficulty([said([0, 1, 2, 0, 2, 1, 1, 2], known), said([0, 1, 0, 1, 1, 1, 2, 2], known)])
    assert found.ids == tuple(IDS[:5])
    assert found.hard == []
    with pytest.raises(DataError, match="label"):
        difficulty([said([0] * 8, np.full(8, -1))])


@pytest.mark.parametrize("measure", [diversity, difficulty])
def test_nothing_cannot_be_compared(measure: object) -> None:
    with pytest.raises(DataError):
        measure([])  # type: ignore[operator]


@given(arrays(np.int64, (2, 8), elements=st.integers(0, 2)))
def test_shares_add_up(classes: np.ndarray) -> None:
    a, b = (said(row.tolist()) for row in classes)
    found = diversity([(a, b)])
    assert found.both + found.only_a + found.only_b + found.neither == pytest.approx(1)
    assert found.both <= found.agreement <= 1 - found.disagreement + 1e-12
    hardness = difficulty([a, b])
    assert (len(hardness.easy), len(hardness.hard)) == (round(8 * found.both), round(8 * found.neither))


def test_agreement_of_each_two_by_construction() -> None:
    c = Predictions.of(np.eye(3)[[0, 1, 2, 0, 1, 2, 0, 1]][::-1], ids=IDS[::-1], classes=["cat", "dog", "owl"])
    shares = agreement_matrix([A, B, c])
    assert shares.tolist() == [[1, 4 / 8, 4 / 8], [4 / 8, 1, 3 / 8], [4 / 8, 3 / 8, 1]]
    with pytest.raises(DataError, match="at least one"):
        agreement_matrix([])
