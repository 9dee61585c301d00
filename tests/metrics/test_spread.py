"""Mean and standard deviation of scores over folds."""

from typing import Any

import numpy as np
import pytest

from tercet.core.predictions import Predictions
from tercet.metrics.classification import score
from tercet.metrics.metric import Detail, Scores, fold_spread, metric_names
from tercet.metrics.tables import spread_table


def make_scores(*correct: bool) -> Scores:
    rows = [[0.8, 0.2] if hit == (index % 2 == 0) else [0.2, 0.8] for index, hit in enumerate(correct)]
    return score(Predictions.of(rows, labels=np.arange(len(correct)) % 2))


def row(name: str, *folds: Scores) -> dict[str, Any]:
    return {"name": name, "folds": folds, **fold_spread(folds)}


def test_mean_and_standard_deviation_are_over_folds() -> None:
    folds = [
        make_scores(True, True, True, True),
        make_scores(True, True, False, False),
        make_scores(True, True, True, False),
    ]
    result = fold_spread(folds)
    assert list(result["mean"]) == metric_names("single", Detail.FILE)
    for key, mean in result["mean"].items():
        values = np.array([fold[key] for fold in folds])
        assert mean == pytest.approx(values.mean())
        assert result["sd"][key] == pytest.approx(values.std(ddof=1))


def test_a_single_fold_has_no_standard_deviation() -> None:
    single = row("[bold]odd", make_scores(True, False))
    assert set(single["sd"].values()) == {None}
    text = spread_table([single]).to_text()
    assert "[bold]odd" in text and "±" not in text and "0.5000" in text


def test_the_table_fits_80_columns() -> None:
    folds = make_scores(True, True), make_scores(False, False)
    text = spread_table([row("a-member-with-quite-a-long-name", *folds)]).to_text()
    assert "0.5000 ± 0.7071" in text and max(map(len, text.splitlines())) <= 80
