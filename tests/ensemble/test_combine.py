"""Ensemble methods: definitions, invariances, and matching of samples and classes."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tercet.core.errors import ConfigError, DataError, ModelError
from tercet.core.predictions import Predictions, aligned
from tercet.core.registry import PARTS
from tercet.ensemble.combine import (
    Combiner,
    EnsembleMethod,
    average,
    combine_values,
    pruned,
    stack_members,
    vote,
    weighted,
)

few = settings(deadline=None, max_examples=25)


@st.composite
def ensembles(draw: st.DrawFn, min_members: int = 1) -> list[Predictions]:
    """Return members with coarse probabilities, so that ties occur."""
    num_members, rows, width = draw(st.integers(min_members, 4)), draw(st.integers(1, 6)), draw(st.integers(2, 5))
    counts = st.lists(st.integers(0, 4), min_size=width, max_size=width).filter(any)
    labels = draw(st.lists(st.integers(-1, width - 1), min_size=rows, max_size=rows))
    members = []
    for _ in range(num_members):
        values = np.array([draw(counts) for _ in range(rows)], dtype=float)
        members.append(Predictions.of(values / values.sum(axis=1, keepdims=True), labels=labels))
    return members


def shuffled(predictions: Predictions, seed: int) -> Predictions:
    """Return the same predictions with rows and classes in another order."""
    generator = np.random.default_rng(seed)
    rows, columns = generator.permutation(len(predictions)), generator.permutation(len(predictions.classes))
    new_index = np.append(np.argsort(columns), -1)
    return Predictions(
        tuple(predictions.ids[row] for row in rows),
        tuple(predictions.classes[column] for column in columns),
        predictions.probabilities[rows][:, columns],
        new_index[predictions.labels[rows]],
    )


@few
@given(ensembles(), st.integers(1, 4))
def test_identical_members_give_the_member(members: list[Predictions], copies: int) -> None:
    member = members[0]
    members = [member] * copies
    np.testing.assert_allclose(average(members).probabilities, member.probabilities, atol=1e-12)
    np.testing.assert_allclose(weighted(members, range(1, copies + 1)).probabilities, member.probabilities, atol=1e-12)
    for result in (vote(members), pruned(members), vote(members, ties="mean")):
        assert result.predicted.tolist() == member.predicted.tolist()


@few
@given(ensembles(min_members=2), st.data())
def test_the_order_of_members_does_not_matter(members: list[Predictions], data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(members))))
    weights = data.draw(st.lists(st.integers(1, 9), min_size=len(members), max_size=len(members)))
    other = [members[index] for index in order]
    pairs = [
        (average(members), average(other)),
        (vote(members), vote(other)),
        (pruned(members), pruned(other)),
        (weighted(members, weights), weighted(other, [weights[index] for index in order])),
    ]
    for first, second in pairs:
        np.testing.assert_allclose(first.probabilities, second.probabilities, atol=1e-12)


@few
@given(ensembles(min_members=2), st.integers(0, 1000))
def test_members_are_matched_by_id_and_class_name(members: list[Predictions], seed: int) -> None:
    mixed = [members[0], *(shuffled(member, seed + index) for index, member in enumerate(members[1:]))]
    for combine in (average, vote, pruned):
        plain, matched = combine(members), combine(mixed)
        assert (matched.ids, matched.classes) == (members[0].ids, members[0].classes)
        assert matched.labels.tolist() == members[0].labels.tolist()
        # a tie within a member may fall to another class when its columns are moved, but not for the plain mean
        if combine is average:
            np.testing.assert_allclose(matched.probabilities, plain.probabilities, atol=1e-12)
    assert all(member.ids == members[0].ids for member in aligned(mixed))
    np.testing.assert_array_equal(stack_members(mixed)[1], stack_members(members)[1])


@few
@given(ensembles())
def test_every_result_is_a_distribution_with_unchanged_ids(members: list[Predictions]) -> None:
    for result in (average(members), vote(members), vote(members, ties="mean"), pruned(members), pruned(members, 2)):
        np.testing.assert_allclose(result.probabilities.sum(axis=1), 1, atol=1e-9)
        assert result.ids == members[0].ids


@few
@given(ensembles())
def test_equal_weights_are_the_average_and_one_weight_is_the_member(members: list[Predictions]) -> None:
    count = len(members)
    equal = weighted(members, [3.0] * count).probabilities
    np.testing.assert_allclose(equal, average(members).probabilities, atol=1e-12)
    last = weighted(members, [0.0] * (count - 1) + [2.0])
    np.testing.assert_allclose(last.probabilities, members[-1].probabilities, atol=1e-12)


def test_vote_ties_go_to_the_lowest_class_or_to_the_highest_mean() -> None:
    members = [Predictions.of([row]) for row in ([0.6, 0.4, 0.0], [0.1, 0.0, 0.9])]
    assert vote(members).predicted.tolist() == [0]
    assert vote(members).probabilities.tolist() == [[0.5, 0.0, 0.5]]
    assert vote(members, ties="mean").predicted.tolist() == [2]


def test_ties_by_mean_do_not_overrule_a_majority() -> None:
    confident, unsure = [0.0, 1.0], [0.51, 0.49]
    members = [Predictions.of([row]) for row in (confident, unsure, unsure)]
    assert vote(members, ties="mean").predicted.tolist() == vote(members).predicted.tolist() == [0]
    assert average(members).predicted.tolist() == [1]


def test_pruned_keeps_each_first_maximum_with_its_value() -> None:
    # member 1 ties between 0 and 1 and keeps 0; kept 0.4, 0.5 and 0.6, so the mean is (0.4, 0.6, 0.5) / 3
    members = [Predictions.of([row]) for row in ([0.4, 0.4, 0.2], [0.2, 0.3, 0.5], [0.3, 0.6, 0.1])]
    result = pruned(members)
    np.testing.assert_allclose(result.probabilities, [np.array([0.4, 0.6, 0.5]) / 1.5])
    two = pruned(members, keep=2)
    np.testing.assert_allclose(two.probabilities, [np.array([0.7, 1.3, 0.5]) / 2.5])


@few
@given(ensembles())
def test_pruned_keeps_single_members_and_keeping_all_classes_is_the_average(members: list[Predictions]) -> None:
    assert pruned(members[:1]).predicted.tolist() == members[0].predicted.tolist()
    unpruned = pruned(members, keep=len(members[0].classes)).probabilities
    np.testing.assert_allclose(unpruned, average(members).probabilities, atol=1e-12)


@few
@given(ensembles())
def test_combining_keeps_its_input(members: list[Predictions]) -> None:
    _, stack = stack_members(members)
    before = stack.copy()
    for operation in ("mean", "vote", "pruned"):
        combine_values(operation, stack)
    np.testing.assert_array_equal(stack, before)


def test_labels_are_merged_from_all_members() -> None:
    first = Predictions.of(np.eye(3), labels=[0, -1, -1])
    second = Predictions.of(np.eye(3), labels=[-1, 1, -1])
    assert average([first, second]).labels.tolist() == [0, 1, -1]


def test_conflicting_labels_are_named() -> None:
    members = (Predictions.of(np.eye(2), ids=["x", "y"], classes=["cat", "dog"], labels=[0, y]) for y in (1, 0))
    with pytest.raises(DataError, match="sample 'y': 'dog' and 'cat'"):
        average(list(members))


def test_members_with_other_samples_or_classes_are_refused() -> None:
    member = Predictions.of(np.eye(2))
    with pytest.raises(DataError, match="same samples"):
        average([member, Predictions.of(np.eye(2), ids=["0", "z"])])
    with pytest.raises(DataError, match="same classes"):
        vote([member, Predictions.of(np.eye(2), classes=["0", "z"])])
    with pytest.raises(DataError, match="at least one member"):
        pruned([])


@pytest.mark.parametrize("weights", [[1.0], [1.0, -1.0], [0.0, 0.0], [np.nan, 1.0], [[1.0, 1.0]]])
def test_invalid_weights_are_refused(weights: Any) -> None:
    with pytest.raises(ConfigError, match="weights"):
        weighted([Predictions.of(np.eye(2))] * 2, weights)


def test_invalid_options_are_refused() -> None:
    members = [Predictions.of(np.eye(2))]
    with pytest.raises(ConfigError, match="ties"):
        vote(members, ties="highest")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="keep"):
        pruned(members, keep=0)


COMBINERS = [
    Combiner("average", ("a", "b")),
    Combiner("pruned", ("a", "b"), keep=2),
    Combiner("vote", ("a", "b"), ties="mean"),
    Combiner("weighted", ("a", "b"), weights=(3.0, 1.0)),
    Combiner("greedy", ("a", "b"), weights=(0.1, 0.2)),
]


@pytest.mark.parametrize("combiner", COMBINERS, ids=lambda combiner: combiner.method)
def test_combiners_apply_their_method_and_are_saved(combiner: Combiner) -> None:
    members = [Predictions.of([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]]), Predictions.of([[0.2, 0.4, 0.4], [0.6, 0.1, 0.3]])]
    expected = {
        "average": lambda: average(members),
        "pruned": lambda: pruned(members, keep=2),
        "vote": lambda: vote(members, ties="mean"),
        "weighted": lambda: weighted(members, [0.75, 0.25]),
        "greedy": lambda: weighted(members, [1, 2]),
    }[combiner.method]()
    np.testing.assert_allclose(combiner.apply(members).probabilities, expected.probabilities)
    assert Combiner.from_dict(combiner.to_dict()) == combiner


def test_invalid_combiners_are_refused() -> None:
    for construct in (
        lambda: Combiner("mean", ("a",)),
        lambda: Combiner("average", ()),
        lambda: Combiner("weighted", ("a",)),
        lambda: Combiner("vote", ("a",), weights=(1.0,)),
        lambda: Combiner("greedy", ("a", "b"), weights=(1.0,)),
        lambda: Combiner("vote", ("a",), ties="first"),  # type: ignore[arg-type]
        lambda: Combiner("pruned", ("a",), keep=0),
    ):
        with pytest.raises(ConfigError):
            construct()
    with pytest.raises(DataError, match="2 members"):
        Combiner("average", ("a", "b")).apply([Predictions.of(np.eye(2))])


def test_a_head_is_not_a_combiner() -> None:
    with pytest.raises(ConfigError, match="trained head"):
        Combiner("e2e", ("a",))


def second_best(stack: np.ndarray) -> np.ndarray:
    return np.sort(stack, axis=1)[:, -2] / np.sort(stack, axis=1)[:, -2].sum(axis=1, keepdims=True)


def test_combiners_of_the_caller() -> None:
    members = [Predictions.of(row) for row in ([[0.5, 0.5]], [[0.2, 0.8]])]
    methods = {
        "last": EnsembleMethod(fit=lambda members, monitor: np.eye(len(members))[-1]),
        "second": EnsembleMethod("function", function=second_best),
    }
    with PARTS["combiner"].scoped(methods):
        last, second = Combiner("last", ("a", "b"), weights=(0.0, 1.0)), Combiner("second", ("a", "b"))
        stored = [json.loads(json.dumps(combiner.to_dict())) for combiner in (last, second)]
        assert last.apply(members).probabilities.tolist() == [[0.2, 0.8]]
        np.testing.assert_allclose(second.apply(members).probabilities, [[0.2 / 0.7, 0.5 / 0.7]])
        assert [Combiner.from_dict(values) for values in stored] == [last, second]
        with pytest.raises(ConfigError, match="'last' needs weights"):
            Combiner("last", ("a", "b"))
    assert Combiner.from_dict(stored[0]) == last  # weights need no registered code
    with pytest.raises(ModelError, match="unknown ensemble method 'second'"):
        Combiner.from_dict(stored[1])
    with pytest.raises(ModelError, match="operation of 'vote' is vote, not mean"):
        Combiner.from_dict({**stored[0], "method": "vote"})


def test_invalid_methods_are_refused() -> None:
    for options in ({"operation": "function"}, {"operation": "sum"}, {"function": second_best}):
        with pytest.raises(ConfigError, match="operation"):
            EnsembleMethod(**options)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="takes no weights"):
        EnsembleMethod("function", function=second_best, fit=lambda members, monitor: np.ones(len(members)))
    with pytest.raises(ConfigError, match="label sets"):
        EnsembleMethod("pruned", multilabel=True)
    with (
        PARTS["combiner"].scoped({"mine": second_best}),
        pytest.raises(ConfigError, match="'mine' is of type function, expected EnsembleMethod"),
    ):
        Combiner("mine", ("a",))


@pytest.mark.parametrize(
    "change", [{"method": "mean"}, {"weights": "x"}, {"names": 3}, {"weights": [1.0]}, {"keep": None}, {"ties": 1}]
)
def test_a_damaged_combiner_is_a_model_error(change: dict[str, Any]) -> None:
    values = Combiner("weighted", ("a", "b"), weights=(1.0, 1.0)).to_dict()
    with pytest.raises(ModelError, match="damaged"):
        Combiner.from_dict({**values, **change})
    with pytest.raises(ModelError, match="damaged"):
        Combiner.from_dict({})
