"""The test of a model against chance."""

import numpy as np
import pytest

from tercet.core.predictions import Predictions
from tercet.metrics.paired import chance_test


def hard(predicted: np.ndarray, labels: np.ndarray, classes: int) -> Predictions:
    return Predictions.of(np.eye(classes)[predicted], labels=labels)


def test_a_constant_answer_is_at_chance_level() -> None:
    labels = np.repeat([0, 1, 2], [60, 25, 15])
    for answer, expected in ((0, 0.6), (1, 0.25), (2, 0.15)):
        test = chance_test(hard(np.full(100, answer), labels, 3))
        assert test.at_chance and test.expected == pytest.approx(expected) == test.accuracy


def test_random_answers_are_at_chance_level_and_good_ones_are_not() -> None:
    generator = np.random.default_rng(0)
    labels = np.arange(200) % 4
    assert chance_test(hard(generator.permutation(labels), labels, 4)).at_chance
    half = np.where(np.arange(200) < 100, labels, generator.permutation(labels))
    assert not chance_test(hard(half, labels, 4)).at_chance


def test_a_model_that_finds_a_rare_class_is_better_than_chance() -> None:
    labels = np.repeat([0, 1], [180, 20])
    predicted = np.concatenate([np.repeat([0, 1], [150, 30]), np.repeat([0, 1], [2, 18])])
    test = chance_test(hard(predicted, labels, 2))
    assert test.accuracy < 0.9 and not test.at_chance  # less accurate than always answering with the frequent class


def test_few_or_unlabelled_rows_cannot_tell() -> None:
    labels = np.arange(19) % 2
    assert not chance_test(hard(1 - labels, labels, 2)).at_chance
    assert chance_test(hard(1 - np.arange(20) % 2, np.arange(20) % 2, 2)).at_chance
    assert not chance_test(hard(labels, np.full(19, -1), 2)).at_chance
