import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tercet.core.errors import ModelError
from tercet.core.history import EpochRow, History

numbers = st.floats(allow_nan=False, allow_infinity=False)
rows = st.builds(
    EpochRow,
    stage=st.integers(0, 9),
    epoch=st.integers(0, 99),
    step=st.integers(0),
    rate=numbers,
    train_loss=numbers,
    train_accuracy=numbers,
    validation=st.dictionaries(st.sampled_from(["accuracy", "loss", "macro_f1"]), numbers),
    seconds=numbers,
    best=st.booleans(),
    note=st.text(),
)


def row(epoch: int, **scores: float) -> EpochRow:
    return EpochRow(0, epoch, 10 * epoch, 1e-3, 0.5, 0.8, scores, 1.5, best=False)


@settings(max_examples=30, deadline=None)
@given(st.lists(rows, max_size=4))
def test_a_saved_history_is_read_back_equal(tmp_path_factory: pytest.TempPathFactory, epochs: list[EpochRow]) -> None:
    path = tmp_path_factory.mktemp("history") / "history.jsonl"
    History(epochs).save(path)
    assert History.load(path) == History(epochs)
    assert len(path.read_bytes().splitlines()) == len(epochs)  # line breaks in notes are escaped


def test_rows_keep_their_order() -> None:
    history = History()
    for epoch in range(3):
        history.append(row(epoch))
    assert len(history) == 3
    assert [item.epoch for item in history] == [0, 1, 2]


def test_a_column_is_a_field_or_a_validation_score() -> None:
    history = History([row(0, accuracy=0.5, loss=2.0), row(1, accuracy=0.75, loss=1.0)])
    assert history.column("accuracy") == [0.5, 0.75]
    assert history.column("step") == [0, 10]


def test_rows_are_saved_as_json_objects(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    History([row(0, accuracy=0.5)]).save(path)
    assert json.loads(path.read_text())["validation"] == {"accuracy": 0.5}


@pytest.mark.parametrize("content", ["{", '{"stage": 0}\n', "[1, 2]\n", "\xff"])
def test_a_damaged_history_raises_with_its_path(tmp_path: Path, content: str) -> None:
    path = tmp_path / "history.jsonl"
    path.write_text(content, "latin-1")
    with pytest.raises(ModelError, match=r"history\.jsonl"):
        History.load(path)


def test_a_missing_history_raises_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"cannot read the history .*missing\.jsonl"):
        History.load(tmp_path / "missing.jsonl")
