"""Heads fitted on features: against scikit-learn, and on small and uneven data."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.metrics import log_loss
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler, normalize

from tercet.config.model import ModelConfig
from tercet.core.errors import ConfigError, DataError
from tercet.experiments.frozen import FITTERS
from tercet.models.heads import FITTED, HEADS
from tercet.training import similarity_heads
from tercet.training.fitted_heads import FittedHead, TrainingFeatures
from tercet.training.linear_heads import INVERSE_PENALTIES, fit_logistic, fit_ridge
from tercet.training.similarity_heads import fit_knn, fit_prototype

HEAD_NAMES = sorted(FITTERS)


def clusters(counts: list[int], *, features: int = 6, spread: float = 1.5, seed: int = 0) -> TrainingFeatures:
    """Return features around one centre per class."""
    generator = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(counts)), counts)
    centres = generator.normal(0, spread, (len(counts), features))
    values = centres[labels] + generator.normal(0, 1, (len(labels), features))
    return TrainingFeatures((5 + 3 * values).astype(np.float32), labels, len(counts))


def logits(name: str, data: TrainingFeatures, features: np.ndarray | None = None) -> np.ndarray:
    """Return the logits of the module with the fitted tensors."""
    return module_logits(name, FITTERS[name](data), data, features)


def module_logits(
    name: str, head: FittedHead, data: TrainingFeatures, features: np.ndarray | None = None
) -> np.ndarray:
    module = HEADS[name](data.features.shape[1], data.num_classes, ModelConfig()).eval()
    module.load_state_dict({key: torch.from_numpy(value) for key, value in head.tensors.items()})
    with torch.no_grad():
        values: np.ndarray = module(torch.from_numpy(data.features if features is None else features)).numpy()
    return values


def test_every_fitted_head_has_a_function() -> None:
    assert set(FITTERS) == FITTED


def with_balanced_weights(data: TrainingFeatures) -> TrainingFeatures:
    counts = np.bincount(data.labels, minlength=data.num_classes)
    return replace(data, weights=(len(data.labels) / np.maximum(counts, 1)[data.labels]).astype(np.float32))


@pytest.mark.parametrize("classes", [2, 4])
def test_logistic_equals_a_standardized_regression(classes: int) -> None:
    data = clusters([20] * classes)
    head = fit_logistic(data)
    regression = LogisticRegression(C=head.setting["C"], max_iter=1000)
    reference = make_pipeline(StandardScaler(), regression).fit(data.features, data.labels)
    probabilities = softmax(module_logits("logistic", head, data), axis=1)
    np.testing.assert_allclose(probabilities, reference.predict_proba(data.features), atol=5e-3)


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("balanced", [False, True])
def test_ridge_equals_a_standardized_ridge_classifier(classes: int, balanced: bool) -> None:
    data = clusters([10, *[25] * (classes - 1)])
    data = with_balanced_weights(data) if balanced else data
    head = fit_ridge(data)
    standardized = StandardScaler().fit(data.features, sample_weight=data.weights).transform(data.features)
    ridge = RidgeClassifier(head.setting["penalty"]).fit(standardized, data.labels, sample_weight=data.weights)
    values = ridge.decision_function(standardized)
    if classes == 2:
        values = np.stack([-values, values], axis=1) / 2
    expected = values / head.setting["temperature"]
    np.testing.assert_allclose(module_logits("ridge", head, data), expected, rtol=1e-3, atol=1e-3)


def test_prototypes_predict_the_nearest_class_mean_of_normalized_features() -> None:
    data, others = clusters([20] * 4), clusters([50] * 4, seed=0)
    centre = data.features.mean(axis=0)
    reference = NearestCentroid().fit(normalize(data.features - centre), data.labels)
    predicted = logits("prototype", data, others.features).argmax(axis=1)
    np.testing.assert_array_equal(predicted, reference.predict(normalize(others.features - centre)))


@pytest.mark.parametrize("counts", [[20] * 4, [4, 60, 30]])
def test_knn_equals_the_weighted_neighbours_of_scikit_learn(counts: list[int]) -> None:
    data, others = clusters(counts), clusters(counts, seed=0)
    head = fit_knn(data)
    k, temperature, smoothing = (head.setting[name] for name in ("k", "temperature", "smoothing"))

    def weights(distances: np.ndarray) -> np.ndarray:
        values = np.exp((distances[:, :1] - distances) / temperature)
        return np.maximum(values - 0.999 * values[:, -1:], 0) * (np.arange(int(k) + 1) < k)

    centre = data.features.mean(axis=0)
    reference = KNeighborsClassifier(int(k) + 1, weights=weights, metric="cosine", algorithm="brute")
    votes = reference.fit(data.features - centre, data.labels).predict_proba(others.features - centre)
    expected = (votes + smoothing * data.frequencies) / (1 + smoothing)
    probabilities = softmax(module_logits("knn", head, data, others.features), axis=1)
    np.testing.assert_allclose(probabilities, expected, atol=1e-3)


@pytest.mark.parametrize("name", HEAD_NAMES)
def test_the_setting_has_the_lowest_held_out_loss(name: str) -> None:
    head = FITTERS[name](clusters([15, 15, 15], features=40))
    assert head.losses[tuple(head.setting.values())] == min(head.losses.values())
    assert all(f"{value:g}" in head.note for value in head.setting.values())
    if name == "logistic":
        assert set(head.losses) == {(penalty,) for penalty in INVERSE_PENALTIES}


@pytest.mark.parametrize("name", HEAD_NAMES)
def test_probabilities_are_better_than_the_class_frequencies(name: str) -> None:
    data = clusters([40, 40, 40], features=10)
    others = np.arange(120) % 2 == 1
    test = data.take(np.flatnonzero(others))
    probabilities = softmax(logits(name, data.take(np.flatnonzero(~others)), test.features).astype(float), axis=1)
    assert log_loss(test.labels, probabilities) < 0.5 * np.log(3)


@pytest.mark.parametrize("name", HEAD_NAMES)
def test_groups_stay_together_when_the_setting_is_chosen(name: str) -> None:
    """Each image is in its group many times: rows that leak would make the loss seem low."""
    data = clusters([6, 6], features=30, spread=0.2)
    copies = np.repeat(np.arange(len(data.labels)), 5)
    leaking = data.take(copies)
    grouped = replace(leaking, groups=[f"group {row}" for row in copies])
    assert min(FITTERS[name](grouped).losses.values()) > min(FITTERS[name](leaking).losses.values())


@pytest.mark.parametrize("name", HEAD_NAMES)
def test_one_image_per_class_is_fitted_without_cross_validation(name: str) -> None:
    data = clusters([1, 1, 1])
    assert FITTERS[name](data).losses == {}
    assert (logits(name, data).argmax(axis=1) == data.labels).all()


@pytest.mark.parametrize("name", HEAD_NAMES)
@pytest.mark.parametrize("balanced", [False, True])
def test_classes_without_images_are_never_predicted(name: str, balanced: bool) -> None:
    data = clusters([10, 10])
    data = replace(data, labels=np.where(data.labels == 1, 3, 0), num_classes=5)
    data = with_balanced_weights(data) if balanced else data
    far = np.random.default_rng(0).normal(0, 100, (50, 6)).astype(np.float32)
    values = logits(name, data, np.concatenate([data.features, far]))
    assert values.shape == (70, 5) and np.isfinite(values).all()
    assert softmax(values.astype(float), axis=1)[:, [1, 2, 4]].max() < 1e-6


@pytest.mark.parametrize("name", HEAD_NAMES)
def test_balanced_weights_raise_the_probability_of_small_classes(name: str) -> None:
    data = clusters([60, 6], seed=1)
    plain, balanced = (
        softmax(logits(name, rows), axis=1)[data.labels == 1, 1].mean() for rows in (data, with_balanced_weights(data))
    )
    assert balanced > plain


@pytest.mark.parametrize("name", ["logistic", "ridge", "prototype"])
def test_a_row_of_weight_two_equals_two_rows(name: str) -> None:
    data = clusters([1, 12, 12])  # one row in a class: the settings are the defaults
    weights = np.ones(len(data.labels), dtype=np.float32)
    weights[[3, 4, 20]] = 2.0
    rows = np.repeat(np.arange(len(data.labels)), weights.astype(int))
    weighted, repeated = FITTERS[name](replace(data, weights=weights)), FITTERS[name](data.take(rows))
    assert weighted.setting == repeated.setting
    for tensor, values in weighted.tensors.items():
        np.testing.assert_allclose(values, repeated.tensors[tensor], atol=2e-4)


def test_neighbours_cannot_be_weighted_within_a_class() -> None:
    data = clusters([6, 6])
    with pytest.raises(ConfigError, match="knn cannot weight single images"):
        fit_knn(replace(data, weights=np.arange(1, 13, dtype=np.float32)))


@pytest.mark.parametrize("name", HEAD_NAMES)
def test_constant_features_and_one_class(name: str) -> None:
    data = clusters([8, 8])
    data.features[:, 2] = 7.0
    assert np.isfinite(logits(name, data)).all()
    data.features[:] = 7.0
    assert np.isfinite(logits(name, data)).all()
    with pytest.raises(DataError, match="at least two classes"):
        replace(data, labels=np.zeros_like(data.labels))


def test_knn_keeps_a_part_of_each_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(similarity_heads, "MAX_ROWS", 20)
    head = fit_knn(clusters([60, 30, 1]))
    assert np.bincount(head.tensors["labels"]).tolist() == [13, 6, 1]
    assert "20 of 91 training images" in head.note


def test_copies_of_a_training_image_get_its_class() -> None:
    """More equal rows than neighbours are compared."""
    data = clusters([10, 10])
    data = data.take(np.array([*range(20), *[3] * 80]))
    assert softmax(logits("knn", data, data.features[3:4]), axis=1)[0, 0] > 0.9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": np.array([0, 1, 7] * 10)}, "not indices of 3 classes"),
        ({"labels": np.array([0, 1])}, "rows, labels and scale"),
        ({"scale": np.ones(31, dtype=np.float32)}, "rows, labels and scale"),
        ({"rows": np.ones((30, 5), dtype=np.float32)}, "size mismatch"),
    ],
)
def test_tensors_of_knn_that_do_not_fit_are_rejected(change: dict[str, np.ndarray], message: str) -> None:
    data = clusters([10, 10, 10])
    head = fit_knn(data)
    with pytest.raises(RuntimeError, match=message):
        module_logits("knn", replace(head, tensors=head.tensors | change), data)


Fit = Callable[[TrainingFeatures], FittedHead]


@pytest.mark.parametrize("fit", [fit_prototype, fit_knn])
def test_cosine_heads_do_not_depend_on_the_scale_of_features(fit: Fit) -> None:
    data = clusters([10, 10])
    scaled = replace(data, features=data.features * 1000)
    assert fit(data).setting == fit(scaled).setting
