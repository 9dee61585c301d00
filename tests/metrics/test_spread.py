"""Mean and standard deviation of scores over folds."""

import numpy as np
import pytest

from tercet.core.predictions import Predictions
from tercet.metrics.classification import Scores, score
from tercet.metrics.tables import AGGREGATED, as_text, spread, spread_table


def make_scores(*correct: bool) -> Scores:
    rows = [[0.8, 0.2] if hit == (index % 2 == 0) else [0.2, 0.8] for index, hit in enumerate(correct)]
    return score(Predictions.of(rows, labels=np.arange(len(correct)) % 2))


def test_mean_and_standard_deviation_are_over_folds() -> None:
    folds = [
        make_scores(True, True, True, True),
        make_scores(True, True, False, False),
        make_scores(True, True, True, False),
    ]
    result = spread(folds)
    for key in AGGREGATED:
        values = np.array([getattr(fold, key) for fold in folds])
        assert result["mean"][key] == pytest.approx(values.mean())
        assert result["sd"][key] == pytest.approx(values.std(ddof=1))


def test_a_single_fold_has_no_standard_deviation() -> None:
    assert set(spread([make_scores(True, False)])["sd"].values()) == {None}
    text = as_text(spread_table({"[bold]odd": [make_scores(True, False)]}))
    assert "[bold]odd" in text and "±" not in text and "0.5000" in text


def test_the_table_fits_80_columns() -> None:
    text = as_text(
        spread_table({"a-member-with-quite-a-long-name": [make_scores(True, True), make_scores(False, False)]})
    )
    assert "0.5000 ± 0.7071" in text and max(map(len, text.splitlines())) <= 80
