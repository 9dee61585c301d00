"""`Predictions`: validation, alignment, and files."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tercet.core.errors import DataError
from tercet.core.predictions import Predictions

names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=8)


@st.composite
def random_predictions(draw: st.DrawFn) -> Predictions:
    rows, width = draw(st.integers(1, 8)), draw(st.integers(1, 5))
    ids = draw(st.lists(names, min_size=rows, max_size=rows, unique=True))
    classes = draw(st.lists(names, min_size=width, max_size=width, unique=True))
    labels = draw(st.lists(st.integers(-1, width - 1), min_size=rows, max_size=rows))
    values = np.random.default_rng(draw(st.integers(0, 999))).dirichlet(np.ones(width), rows)
    return Predictions.of(values, ids=ids, classes=classes, labels=labels)


def equal(a: Predictions, b: Predictions) -> bool:
    arrays = np.array_equal(a.probabilities, b.probabilities) and np.array_equal(a.labels, b.labels)
    return a.ids == b.ids and a.classes == b.classes and arrays


@settings(deadline=None, max_examples=30)
@given(random_predictions())
def test_files_are_read_back_exactly(tmp_path_factory: pytest.TempPathFactory, predictions: Predictions) -> None:
    path = tmp_path_factory.mktemp("files") / "member.npz"
    predictions.save(path)
    assert equal(Predictions.load(path), predictions)


def test_undecodable_names_are_preserved_in_files(tmp_path: Path) -> None:
    predictions = Predictions.of(np.eye(2), ids=["a\udcff.jpg", "b"], classes=["x", "y\udc80"])
    predictions.save(tmp_path / "x.npz")
    assert equal(Predictions.load(tmp_path / "x.npz"), predictions)


@settings(deadline=None, max_examples=30)
@given(random_predictions(), st.integers(0, 999))
def test_alignment_undoes_any_shuffling(predictions: Predictions, seed: int) -> None:
    generator = np.random.default_rng(seed)
    columns = generator.permutation(len(predictions.classes))
    index_of = np.append(np.argsort(columns), -1)
    shuffled = Predictions(
        predictions.ids,
        tuple(predictions.classes[column] for column in columns),
        predictions.probabilities[:, columns],
        index_of[predictions.labels],
    ).take(generator.permutation(len(predictions)))
    assert equal(shuffled.aligned_to(predictions), predictions)


def test_alignment_of_different_predictions_raises() -> None:
    predictions = Predictions.of(np.eye(2), ids=["x", "y"], classes=["cat", "dog"])
    with pytest.raises(DataError, match="same samples: 2 differ, such as 'y'"):
        predictions.aligned_to(Predictions.of(np.eye(2), ids=["x", "z"], classes=["cat", "dog"]))
    with pytest.raises(DataError, match="same classes: 2 differ, such as 'dog'"):
        predictions.aligned_to(Predictions.of(np.eye(2), ids=["x", "y"], classes=["cat", "owl"]))


def test_softmax_does_not_overflow() -> None:
    result = Predictions.from_logits([[1000.0, 1000.0], [-1000.0, 0.0], [-np.inf, 3.0]], ids="abc", classes="xy")
    np.testing.assert_allclose(result.probabilities, [[0.5, 0.5], [0.0, 1.0], [0.0, 1.0]])
    assert result.known.tolist() == [False] * 3


@pytest.mark.parametrize("row", [[np.nan, 0.0], [np.inf, 0.0], [-np.inf, -np.inf]])
def test_non_finite_logits_raise_with_the_sample(row: list[float]) -> None:
    with pytest.raises(DataError, match="'b' are not finite"):
        Predictions.from_logits([[0.0, 1.0], row], ids="ab", classes="xy")


@pytest.mark.parametrize("logits", [[1.0, 2.0], np.zeros((2, 0)), np.zeros((1, 2, 3))])
def test_logits_of_another_shape_raise(logits: Any) -> None:
    with pytest.raises(DataError, match="shape"):
        Predictions.from_logits(logits, ids="ab", classes="xy")


def test_the_lowest_index_wins_ties() -> None:
    result = Predictions.of([[0.5, 0.5], [0.2, 0.8]], classes=["cat", "dog"])
    assert result.predicted.tolist() == [0, 1]
    assert result.predicted_names == ["cat", "dog"]


def test_samples_are_taken_by_index_or_mask() -> None:
    predictions = Predictions.of(np.eye(3), labels=[0, 1, 2])
    assert predictions.take([2, 0]).ids == ("2", "0")
    assert predictions.take(np.array([False, True, False])).labels.tolist() == [1]
    assert len(predictions.take([])) == 0
    assert len(predictions.take([]).take([])) == 0


def test_known_labels_are_those_that_are_set() -> None:
    predictions = Predictions.of(np.eye(2)).with_labels([1, -1])
    assert predictions.known.tolist() == [True, False]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"probabilities": [[0.5, 0.4]]}, "not summing to 1"),
        ({"probabilities": [[1.5, -0.5]]}, "negative"),
        ({"probabilities": [[np.nan, 1.0]]}, "'x' are not finite"),
        ({"probabilities": [[0.3, 0.3, 0.4]]}, "shape"),
        ({"ids": ["x", "y"]}, "shape"),
        ({"classes": ["cat", "cat"]}, "class names are not unique"),
        ({"labels": [2]}, "labels lie in 2..2"),
        ({"labels": [0, 1]}, "labels have shape"),
        ({"labels": [0.5]}, "labels are of type float64"),
    ],
)
def test_invalid_values_raise(change: dict[str, Any], message: str) -> None:
    values: dict[str, Any] = {"probabilities": [[0.5, 0.5]], "ids": ["x"], "classes": ["cat", "dog"], "labels": [1]}
    Predictions.of(**values)
    with pytest.raises(DataError, match=message):
        Predictions.of(**{**values, **change})


def test_repeated_samples_raise() -> None:
    with pytest.raises(DataError, match="ids are not unique"):
        Predictions.of(np.eye(2), ids=["x", "x"])


def test_damaged_files_raise_data_error(tmp_path: Path) -> None:
    path, good = tmp_path / "bad.npz", tmp_path / "good.npz"
    Predictions.of(np.eye(40)).save(good)
    content = good.read_bytes()
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 0xFF
    for bad in (b"", b"PK\x03\x04", b"hello", content[:100], content[: len(content) // 2], bytes(flipped)):
        path.write_bytes(bad)
        with pytest.raises(DataError, match="not a predictions file"):
            Predictions.load(path)
    with pytest.raises(DataError, match="not a predictions file"):
        Predictions.load(tmp_path / "missing.npz")


def test_other_files_raise_data_error(tmp_path: Path) -> None:
    np.save(tmp_path / "array.npy", np.eye(2))
    np.savez(tmp_path / "other.npz", weights=np.eye(2))
    np.savez(tmp_path / "wrong.npz", ids=["x"], classes=["a"], probabilities=[[7.0]], labels=[0])
    np.savez(tmp_path / "objects.npz", ids=np.array([{}], dtype=object), classes=["a"], probabilities=[[1]], labels=[0])
    with zipfile.ZipFile(tmp_path / "text.npz", "w") as archive:
        for name in ("ids", "classes", "probabilities", "labels"):
            archive.writestr(f"{name}.npy", "not an array")
    for name in ("array.npy", "other.npz", "wrong.npz", "objects.npz", "text.npz"):
        with pytest.raises(DataError, match=name):
            Predictions.load(tmp_path / name)


def test_reading_executes_no_pickles(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return Path.touch, (str(tmp_path / "executed"),)

    trap = np.empty(1, dtype=object)
    trap[0] = Trap()
    np.savez(tmp_path / "trap.npz", ids=trap, classes=["a"], probabilities=[[1.0]], labels=[0])
    with pytest.raises(DataError):
        Predictions.load(tmp_path / "trap.npz")
    assert not (tmp_path / "executed").exists()
