"""Fitted weights are optimal, greedy selection is never worse than the best member, cross-fitting holds rows out."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tercet.config.run import METHODS
from tercet.core.errors import ConfigError, DataError
from tercet.core.predictions import Predictions
from tercet.ensemble import cross_fit as cross_fitting
from tercet.ensemble.combine import Combiner, average, is_fitted, pruned, vote, weighted
from tercet.ensemble.cross_fit import choose, cross_fit, cross_fitted, rank, split_folds
from tercet.ensemble.weights import fit_combiner, fit_weights, greedy_weights
from tercet.metrics.classification import QUICK, score
from tercet.metrics.metric import Scores, is_better

few = settings(deadline=None, max_examples=15)


def members(count: int = 3, *, rows: int = 60, width: int = 4, seed: int = 0) -> list[Predictions]:
    """Return members of different skill whose errors are independent."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, width, rows)
    ids = [f"s{row}" for row in range(rows)]
    logits = [generator.normal(size=(rows, width)) + (1 + skill) * np.eye(width)[labels] for skill in range(count)]
    classes = list("abcdef")[:width]
    return [Predictions.from_logits(values, ids=ids, classes=classes, labels=labels) for values in logits]


def log_loss(group: list[Predictions], weights: np.ndarray) -> float:
    return score(weighted(group, weights)).log_loss


@few
@given(st.integers(1, 5), st.integers(1, 60), st.integers(0, 1000))
def test_fitted_weights_are_never_worse_than_the_average(count: int, rows: int, seed: int) -> None:
    group = members(count, rows=rows, seed=seed)
    weights = fit_weights(group)
    assert weights.shape == (count,)
    assert weights.min() >= 0 and weights.sum() == pytest.approx(1)
    assert log_loss(group, weights) <= score(average(group)).log_loss + 1e-9


def test_fitted_weights_beat_all_weights_of_a_grid() -> None:
    group = members(2, rows=80)
    best = log_loss(group, fit_weights(group))
    assert all(best <= log_loss(group, np.array([weight, 1 - weight])) + 1e-9 for weight in np.linspace(0, 1, 101))


def test_a_useless_member_gets_no_weight() -> None:
    group = members(2, rows=200)
    wrong = Predictions(group[0].ids, group[0].classes, np.roll(np.eye(4)[group[0].labels], 1, axis=1), group[0].labels)
    assert fit_weights([*group, wrong])[2] < 1e-6
    assert greedy_weights([*group, wrong])[2] == 0


def test_weights_do_not_depend_on_the_order_of_members() -> None:
    group = members(3)
    forward, backward = fit_weights(group), fit_weights(group[::-1])
    np.testing.assert_allclose(forward, backward[::-1], atol=1e-4)


def test_rows_with_probability_zero_do_not_break_the_fit() -> None:
    first = Predictions.of([[1.0, 0.0], [0.0, 1.0]], labels=[1, 1])
    second = Predictions.of([[1.0, 0.0], [0.5, 0.5]], labels=[1, 1])
    np.testing.assert_allclose(fit_weights([first, second]), [1, 0], atol=1e-6)


@pytest.mark.parametrize("monitor", ["accuracy", "loss", "sum"])
@few
@given(st.integers(1, 4), st.integers(2, 50), st.integers(0, 1000))
def test_greedy_selection_is_never_worse_than_the_best_member(monitor: str, count: int, rows: int, seed: int) -> None:
    group = members(count, rows=rows, seed=seed)
    weights = greedy_weights(group, monitor, rounds=8)
    chosen = score(weighted(group, weights))
    for member in group:
        single = {name: score(member)[name] for name in QUICK}
        # bags are summed in another order than weighted means, so a loss may differ in its last digits
        assert not is_better(monitor, {**single, "loss": single["loss"] + 1e-9}, chosen)
    assert weights.sum() == pytest.approx(1)


def test_greedy_selection_starts_with_the_best_and_may_repeat_members() -> None:
    group = members(3)
    best = int(np.argmax([score(member).accuracy for member in group]))
    assert greedy_weights(group, rounds=0).tolist() == np.eye(3)[best].tolist()
    copies = greedy_weights(group, "loss", rounds=25) * 26
    assert copies.max() > 1


def test_greedy_selection_returns_the_best_bag_of_all_rounds() -> None:
    # only equal weights predict both samples correctly
    first = Predictions.of([[0.9, 0.1], [0.2, 0.8]], labels=[0, 0])
    second = Predictions.of([[0.2, 0.8], [0.9, 0.1]], labels=[0, 0])
    for rounds in (1, 2, 4):
        assert greedy_weights([first, second], rounds=rounds).tolist() == [0.5, 0.5]


def test_greedy_selection_improves_the_monitored_metric() -> None:
    labels = [0, 0, 1, 1]
    accurate = Predictions.of([[0.51, 0.49], [0.51, 0.49], [0.49, 0.51], [0.49, 0.51]], labels=labels)
    confident = Predictions.of([[0.99, 0.01], [0.99, 0.01], [0.01, 0.99], [0.55, 0.45]], labels=labels)
    assert greedy_weights([confident, accurate], "accuracy", rounds=0).tolist() == [0, 1]
    assert greedy_weights([confident, accurate], "loss", rounds=0).tolist() == [1, 0]


def test_only_labelled_rows_are_used() -> None:
    group = members(3)
    labels = np.where(np.arange(60) < 30, group[0].labels, -1)
    partly = [member.with_labels(labels) for member in group]
    half = [member.take(np.arange(30)) for member in group]
    np.testing.assert_array_equal(fit_weights(partly), fit_weights(half))
    np.testing.assert_array_equal(greedy_weights(partly), greedy_weights(half))


def test_fitting_needs_labels_names_and_a_known_method() -> None:
    group = [member.with_labels(np.full(60, -1)) for member in members(2)]
    for method in ("weighted", "greedy"):
        with pytest.raises(DataError, match="labels"):
            fit_combiner(method, group, names=["a", "b"])
    with pytest.raises(ConfigError, match="did you mean 'average'"):
        fit_combiner("averag", group, names=["a", "b"])
    with pytest.raises(ConfigError, match="1 names for 2 members"):
        fit_combiner("average", group, names=["a"])


def test_only_fitted_combiners_have_weights() -> None:
    group = members(2)
    names = ("a", "b")
    assert fit_combiner("vote", group, names=names) == Combiner("vote", names)
    np.testing.assert_allclose(fit_combiner("weighted", group, names=names).weights, fit_weights(group))
    greedy = fit_combiner("greedy", group, names=names, monitor="loss")
    np.testing.assert_allclose(greedy.weights, greedy_weights(group, "loss"))
    assert [method for method in METHODS if is_fitted(method)] == ["weighted", "greedy", "e2e"]


@few
@given(st.lists(st.integers(0, 4), min_size=2, max_size=40), st.integers(2, 6), st.integers(0, 99))
def test_every_row_is_held_out_once(labels: list[int], folds: int, seed: int) -> None:
    pairs = split_folds(labels, folds=folds, seed=seed)
    assert len(pairs) == min(folds, len(labels))
    rows = np.concatenate([held_out for _, held_out in pairs])
    assert sorted(rows.tolist()) == list(range(len(labels)))
    for fitted, held_out in pairs:
        assert set(fitted.tolist()) == set(range(len(labels))) - set(held_out.tolist())


def test_folds_are_stratified_and_depend_on_the_seed() -> None:
    labels = np.repeat([0, 1], [40, 10])
    for _, held_out in split_folds(labels, folds=5, seed=1):
        assert np.bincount(labels[held_out]).tolist() == [8, 2]
    first, again, other = ([held_out.tolist() for _, held_out in split_folds(labels, seed=seed)] for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize("labels", [[0], [], [0, -1, 1]])
def test_folds_need_rows_and_labels(labels: list[int]) -> None:
    with pytest.raises(DataError, match="cross-fitting"):
        split_folds(np.array(labels, dtype=int))


@given(st.integers(0, 10**6), st.integers(2, 7), st.integers(2, 6))
def test_folds_do_not_divide_groups(seed: int, groups: int, folds: int) -> None:
    generator = np.random.default_rng(seed)
    names = [f"hand {number}" for number in [*range(groups), *generator.integers(0, groups, 30)]]
    labels = generator.integers(0, 3, len(names))
    pairs = split_folds(labels, folds=folds, seed=seed, groups=names)
    assert sorted(row for _, held_out in pairs for row in held_out) == list(range(len(names)))
    assert 2 <= len(pairs) <= min(folds, groups)
    for fitted, held_out in pairs:
        assert len(fitted)
        assert not {names[row] for row in fitted} & {names[row] for row in held_out}


def test_a_single_group_is_ignored() -> None:
    labels = np.array([0, 1] * 10)
    pairs = zip(split_folds(labels, groups=["a"] * 20), split_folds(labels), strict=True)
    assert all(np.array_equal(held_out, expected) for (_, held_out), (_, expected) in pairs)


def test_cross_fitting_detects_memorization() -> None:
    labels = np.arange(40) % 2

    def memorize(fitted: np.ndarray, held_out: np.ndarray) -> Predictions:
        fitted_rows = set(fitted.tolist())
        rows = [np.eye(2)[labels[row]] if row in fitted_rows else [0.5, 0.5] for row in held_out]
        return Predictions.of(rows, ids=[str(row) for row in held_out], labels=labels[held_out])

    result = cross_fit(memorize, labels, folds=4)
    assert (result.probabilities == 0.5).all()
    assert result.ids == tuple(str(row) for row in range(40))
    assert result.labels.tolist() == labels.tolist()


def test_cross_fitting_refuses_missing_rows_and_other_classes() -> None:
    labels = [0, 1, 0, 1]
    with pytest.raises(DataError, match="were held out"):
        cross_fit(lambda fitted, held_out: Predictions.of(np.eye(2)[:1]), labels, folds=2)

    def renamed(fitted: np.ndarray, held_out: np.ndarray) -> Predictions:
        ids = [str(row) for row in held_out]
        return Predictions.of(np.eye(2), ids=ids, classes=["a", "b"] if 0 in held_out else ["b", "a"])

    with pytest.raises(DataError, match="different classes"):
        cross_fit(renamed, labels, folds=2)


@pytest.mark.parametrize("method", ["weighted", "greedy"])
def test_weights_are_never_fitted_on_the_rows_they_predict(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    class Spy:
        def __init__(self, combiner: Combiner, fitted: set[str]) -> None:
            self.combiner, self.fitted = combiner, fitted

        def apply(self, group: list[Predictions]) -> Predictions:
            assert self.fitted.isdisjoint(group[0].ids), "a held-out row was fitted on"
            calls.append(len(self.fitted) + len(group[0]))
            return self.combiner.apply(group)

    def fit_spy(method: str, group: list[Predictions], **options: object) -> Spy:
        return Spy(fit_combiner(method, group, **options), {name for member in group for name in member.ids})

    monkeypatch.setattr(cross_fitting, "fit_combiner", fit_spy)
    result = cross_fitted(method, members(3), folds=5)
    assert calls == [60] * 5
    assert result.ids == members(3)[0].ids


def test_each_fold_is_predicted_with_weights_of_the_other_folds() -> None:
    group = members(3)
    result = cross_fitted("weighted", group, folds=3, seed=7)
    for fitted, held_out in split_folds(group[0].labels, folds=3, seed=7):
        weights = fit_weights([member.take(fitted) for member in group])
        expected = weighted([member.take(held_out) for member in group], weights)
        np.testing.assert_allclose(result.take(held_out).probabilities, expected.probabilities)


@pytest.mark.parametrize(("method", "combine"), [("average", average), ("vote", vote), ("pruned", pruned)])
def test_methods_without_parameters_are_not_cross_fitted(method: str, combine) -> None:  # type: ignore[no-untyped-def]
    group = members(3)
    np.testing.assert_array_equal(cross_fitted(method, group).probabilities, combine(group).probabilities)


@pytest.mark.parametrize("method", ["average", "weighted"])
def test_cross_fitting_leaves_out_rows_without_a_label(method: str) -> None:
    group = [member.with_labels(np.where(np.arange(60) % 3, member.labels, -1)) for member in members(2)]
    result = cross_fitted(method, group)
    assert result.ids == tuple(f"s{row}" for row in range(60) if row % 3)
    assert result.known.all()
    with pytest.raises(DataError, match="no sample has a label"):
        cross_fitted(method, [member.with_labels(np.full(60, -1)) for member in group])


def scores(accuracy: float, loss: float) -> Scores:
    rest = dict.fromkeys(
        ("accuracy_low", "accuracy_high", "balanced_accuracy", "macro_precision", "macro_recall"), accuracy
    )
    return Scores(
        n=9, accuracy=accuracy, macro_f1=accuracy, kappa=accuracy, top5=1, log_loss=loss, brier=0, ece=0, **rest
    )


def test_choice_by_monitor_then_loss_then_order() -> None:
    table = {"vote": scores(0.9, 0.5), "e2e": scores(0.9, 0.3), "weighted": scores(0.8, 0.1)}
    assert choose(table, "accuracy") == "e2e"
    assert choose(table, "loss") == "weighted"
    ties = {method: scores(0.9, 0.5) for method in reversed(METHODS)}
    assert rank(ties, "accuracy") == list(METHODS)
    with pytest.raises(DataError, match="nothing to choose"):
        choose({}, "accuracy")


def test_members_with_equal_scores_keep_their_order() -> None:
    table = {"zebra": scores(0.7, 0.5), "ant": scores(0.9, 0.5), "bee": scores(0.7, 0.5)}
    assert rank(table, "sum") == ["ant", "zebra", "bee"]
