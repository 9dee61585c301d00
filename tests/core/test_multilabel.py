from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tercet.core.errors import DataError
from tercet.core.multilabel import MultilabelPredictions

NAMES = ("=SUM(A1)", "red", "gender=Men")


def made(
    scores: object = ((0.9, 0.2, 0.6), (0.1, 0.3, 0.2), (0.7, 0.8, 0.1)), **changes: object
) -> MultilabelPredictions:
    values = np.array(scores)
    given_values = {"chosen": values > 0.5, "truth": np.array([[1, 0, 1], [0, 0, 0], [-1, -1, -1]])} | changes
    return MultilabelPredictions(("a", "b", "c"), NAMES, values, **given_values)  # type: ignore[arg-type]


def test_names_come_highest_first_and_sets_may_be_empty_or_unknown() -> None:
    predictions = made()
    assert predictions.predicted_names == [("=SUM(A1)", "gender=Men"), (), ("red", "=SUM(A1)")]
    assert predictions.true_names == [("=SUM(A1)", "gender=Men"), (), None]
    assert predictions.known.tolist() == [True, True, False]
    assert predictions.best(0, 1) == {"=SUM(A1)": 0.9, "gender=Men": 0.6}  # the chosen ones are told in any case
    assert list(predictions.best(1, 2)) == ["red", "gender=Men"]


def test_what_is_saved_is_read_back(tmp_path: Path) -> None:
    one = made()
    one.save(tmp_path / "one.npz")
    back = MultilabelPredictions.load(tmp_path / "one.npz")
    assert (back.ids, back.classes) == (one.ids, one.classes)
    for name in ("scores", "chosen", "truth"):
        assert np.array_equal(getattr(back, name), getattr(one, name))
    (tmp_path / "two.npz").write_bytes((tmp_path / "one.npz").read_bytes()[:200])
    with pytest.raises(DataError, match="no predictions of label sets"):
        MultilabelPredictions.load(tmp_path / "two.npz")


def test_a_table_for_people_runs_nothing(tmp_path: Path) -> None:
    made().write_csv(tmp_path / "out.csv")
    lines = (tmp_path / "out.csv").read_text().splitlines()
    assert lines[0] == "id,labels,predicted,'=SUM(A1),red,gender=Men"
    assert lines[1].startswith("a,'=SUM(A1) | gender=Men,'=SUM(A1) | gender=Men,0.9,")
    assert lines[2] == "b,,,0.1,0.3,0.2"
    made(truth=np.full((3, 3), -1)).write_csv(tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text().startswith("id,predicted,")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scores": [[0.1, 0.2]] * 3}, "scores have shape"),
        ({"scores": [[0.1, 0.2, 1.5]] * 3}, "sample 'a' do not all lie"),
        ({"scores": [[0.1, 0.2, 0.3], [0.1, np.nan, 0.3], [0.1, 0.2, 0.3]]}, "sample 'b' do not all lie"),
        ({"chosen": np.zeros((3, 3))}, "expected true and false"),
        ({"truth": np.array([[1, 0, -1]] * 3)}, "whole row"),
        ({"truth": np.array([[1, 0, 2]] * 3)}, "1 and 0"),
    ],
)
def test_what_is_no_prediction_of_sets_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        made(**changes)
    with pytest.raises(DataError, match="unique"):
        MultilabelPredictions(("a", "a"), ("x",), np.zeros((2, 1)), np.zeros((2, 1), bool), np.zeros((2, 1)))


@given(st.lists(st.floats(-1e4, 1e4), min_size=3, max_size=3), st.floats(0.01, 0.99))
def test_logits_become_scores_without_overflow(logits: list[float], threshold: float) -> None:
    said = MultilabelPredictions.from_logits([logits], ids=["a"], classes=NAMES, threshold=threshold)
    expected = 1 / (1 + np.exp(-np.clip(logits, -500, 500)))
    np.testing.assert_allclose(said.scores[0], expected, atol=1e-12)
    assert np.array_equal(said.chosen, said.scores > threshold) and not said.known.any()


def test_some_samples_may_be_taken() -> None:
    assert made().take([2, 0]).ids == ("c", "a") and len(made().take([])) == 0
    assert made().take(made().known).true_names == [("=SUM(A1)", "gender=Men"), ()]
