"""scikit-learn's own estimator checks."""

import warnings
from typing import Any

import numpy as np
import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks
from sklearn.utils.validation import validate_data

from tercet import TercetClassifier


class ColumnsAsPixels(TercetClassifier):
    """The checks have arrays N x features: each row becomes an image of one column, quantized to 256 levels."""

    def fit(self, X: Any, y: Any = None) -> Any:
        if y is None:
            return super().fit(X, y)
        X = validate_data(self, X, dtype="numeric", ensure_min_samples=2)
        self._range = float(X.min()), float(np.ptp(X)) or 1.0
        return super().fit(self._images(X), y)

    def _images(self, X: Any) -> Any:
        low, extent = self._range
        pixels = (255 * (np.asarray(X, dtype=float) - low) / extent).round().clip(0, 255).astype(np.uint8)
        return pixels[:, :, None]

    def _predict(self, X: Any) -> Any:
        self._fitted_bundle()
        return super()._predict(self._images(validate_data(self, X, reset=False)))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        tags.target_tags.required = True
        return tags


FAILING: dict[str, str] = {}


def estimator(kind: type[TercetClassifier] = ColumnsAsPixels) -> TercetClassifier:
    members = [{"model": "row-rnn", "hidden_size": 8, "num_layers": 1}]
    return kind(members, epochs=4, lr=0.02, threads=1, verbose=False, val_fraction=0.25, options={"tensorboard": False})


@pytest.mark.slow
@parametrize_with_checks([estimator()], expected_failed_checks=lambda _: FAILING)
def test_scikit_learn_checks(estimator: TercetClassifier, check: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check(estimator)
