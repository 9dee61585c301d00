import numpy as np
import pytest

from tercet.core.predictions import Predictions
from tercet.metrics.classification import Scores, score
from tercet.metrics.tables import SPREAD, as_text, spread, spread_table


def scored(*right: bool) -> Scores:
    rows = [[0.8, 0.2] if good == (index % 2 == 0) else [0.2, 0.8] for index, good in enumerate(right)]
    return score(Predictions.of(rows, labels=np.arange(len(right)) % 2))


def test_mean_and_deviation_are_those_of_the_folds() -> None:
    folds = [scored(True, True, True, True), scored(True, True, False, False), scored(True, True, True, False)]
    found = spread(folds)
    for key in SPREAD:
        values = np.array([getattr(one, key) for one in folds])
        assert found["mean"][key] == pytest.approx(values.mean())
        assert found["sd"][key] == pytest.approx(values.std(ddof=1))


def test_one_fold_has_no_deviation() -> None:
    assert set(spread([scored(True, False)])["sd"].values()) == {None}
    text = as_text(spread_table({"[bold]odd": [scored(True, False)]}))
    assert "[bold]odd" in text and "±" not in text and "0.5000" in text


def test_the_table_fits_eighty_columns() -> None:
    text = as_text(spread_table({"a-member-with-quite-a-long-name": [scored(True, True), scored(False, False)]}))
    assert "0.5000 ± 0.7071" in text and max(map(len, text.splitlines())) <= 80
