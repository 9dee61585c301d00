from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tercet.core.errors import DataError
from tercet.core.multilabel import MultilabelPredictions

NAMES = ("=SUM(A1)", "red", "gender=Men")


def predictions_with(
    scores: object = ((0.9, 0.2, 0.6), (0.1, 0.3, 0.2), (0.7, 0.8, 0.1)), **changes: object
) -> MultilabelPredictions:
    values = np.array(scores)
    fields = {"chosen": values > 0.5, "truth": np.array([[1, 0, 1], [0, 0, 0], [-1, -1, -1]])} | changes
    return MultilabelPredictions(("a", "b", "c"), NAMES, values, **fields)  # type: ignore[arg-type]


def test_names_are_sorted_by_score_and_may_be_empty_or_unknown() -> None:
    predictions = predictions_with()
    assert predictions.predicted_names == [("=SUM(A1)", "gender=Men"), (), ("red", "=SUM(A1)")]
    assert predictions.true_names == [("=SUM(A1)", "gender=Men"), (), None]
    assert predictions.known.tolist() == [True, True, False]
    assert predictions.best(0, 1) == {"=SUM(A1)": 0.9, "gender=Men": 0.6}  # chosen labels are always included
    assert list(predictions.best(1, 2)) == ["red", "gender=Men"]


def test_saved_predictions_are_read_back(tmp_path: Path) -> None:
    predictions = predictions_with()
    predictions.save(tmp_path / "saved.npz")
    loaded = MultilabelPredictions.load(tmp_path / "saved.npz")
    assert (loaded.ids, loaded.classes) == (predictions.ids, predictions.classes)
    for name in ("scores", "chosen", "truth"):
        assert np.array_equal(getattr(loaded, name), getattr(predictions, name))
    (tmp_path / "damaged.npz").write_bytes((tmp_path / "saved.npz").read_bytes()[:200])
    with pytest.raises(DataError, match="not a multi-label predictions file"):
        MultilabelPredictions.load(tmp_path / "damaged.npz")


def test_csv_tables_escape_formulas(tmp_path: Path) -> None:
    predictions_with().write_csv(tmp_path / "out.csv")
    lines = (tmp_path / "out.csv").read_text().splitlines()
    assert lines[0] == "id,labels,predicted,'=SUM(A1),red,gender=Men"
    assert lines[1].startswith("a,'=SUM(A1) | gender=Men,'=SUM(A1) | gender=Men,0.9,")
    assert lines[2] == "b,,,0.1,0.3,0.2"
    predictions_with(truth=np.full((3, 3), -1)).write_csv(tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text().startswith("id,predicted,")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scores": [[0.1, 0.2]] * 3}, "scores have shape"),
        ({"scores": [[0.1, 0.2, 1.5]] * 3}, "sample 'a' do not lie"),
        ({"scores": [[0.1, 0.2, 0.3], [0.1, np.nan, 0.3], [0.1, 0.2, 0.3]]}, "sample 'b' do not lie"),
        ({"chosen": np.zeros((3, 3))}, "expected bool"),
        ({"truth": np.array([[1, 0, -1]] * 3)}, "whole row"),
        ({"truth": np.array([[1, 0, 2]] * 3)}, "1 or 0"),
    ],
)
def test_invalid_values_raise(changes: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        predictions_with(**changes)


def test_repeated_ids_raise() -> None:
    with pytest.raises(DataError, match="unique"):
        MultilabelPredictions(("a", "a"), ("x",), np.zeros((2, 1)), np.zeros((2, 1), bool), np.zeros((2, 1)))


@given(st.lists(st.floats(-1e4, 1e4), min_size=3, max_size=3), st.floats(0.01, 0.99))
def test_logits_become_scores_without_overflow(logits: list[float], threshold: float) -> None:
    predictions = MultilabelPredictions.from_logits([logits], ids=["a"], classes=NAMES, threshold=threshold)
    expected = 1 / (1 + np.exp(-np.clip(logits, -500, 500)))
    np.testing.assert_allclose(predictions.scores[0], expected, atol=1e-12)
    assert np.array_equal(predictions.chosen, predictions.scores > threshold) and not predictions.known.any()


def test_samples_are_taken_by_index_or_mask() -> None:
    predictions = predictions_with()
    assert predictions.take([2, 0]).ids == ("c", "a") and len(predictions.take([])) == 0
    assert predictions.take(predictions.known).true_names == [("=SUM(A1)", "gender=Men"), ()]
