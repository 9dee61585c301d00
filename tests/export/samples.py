"""Images, members and layers for the tests of both export formats.

Both formats trace the same networks, so the default run exports a choice of member kinds in which each cell occurs in
one of the formats; the slow run exports all kinds in both.
"""

from typing import Any

import numpy as np
import pytest
import torch
from tests.fixtures.bundles import CLASSES
from torch import nn

from tercet.config.model import InputConfig, ModelConfig
from tercet.core.types import InputSpec
from tercet.ensemble.bundle import Member
from tercet.export.verification import VerificationImages
from tercet.models.build import build
from tercet.models.classifier import Classifier

LABELS = np.array([0, 1, 2, -1] * 6)

ROWS: dict[str, dict[str, Any]] = {
    "row-lstm": {},
    "row-bilstm": {"activation": "relu", "recurrent_activation": "hard_sigmoid", "num_biases": 1},
    "row-gru": {"reset_after": True, "num_biases": 1},
    "row-gru, reset before": {"reset_after": False, "num_biases": 1, "activation": "sigmoid"},
    "row-gru, one layer": {"reset_after": True, "activation": "relu", "num_layers": 1},
    "row-rnn": {"activation": "relu", "num_layers": 1},
    "row-rnn, sigmoid": {"activation": "sigmoid"},
    "row-rnn, columns": {"scan": "columns", "bidirectional": True},
    "row-gru, pixels": {"scan": "pixels", "bidirectional": True, "num_layers": 1},
}
"""Row classifiers, by network and options."""
NETWORKS: dict[str, dict[str, Any]] = {
    "wrn-10-1": {"channels": 3},
    "test_resnet, columns": {"recurrent": "gru", "scan": "columns", "bidirectional": True, "num_layers": 2},
    "test_resnet, pooled": {"recurrent": "lstm", "scan": "pooled", "recurrent_activation": "hard_sigmoid"},
    "test_vit": {"channels": 3, "recurrent": "rnn", "scan": "snake", "head": "linear"},
    "test_convnext": {"channels": 3, "recurrent": "lstm", "scan": "cells", "head": "mlp"},
}
"""Convolutional networks and backbones with a recurrent module."""


def kinds(*fast: str) -> list[Any]:
    """Return all kinds of members as parameters; those not named are slow."""
    marks = {kind: () if kind in fast else pytest.mark.slow for kind in (*ROWS, *NETWORKS)}
    return [pytest.param(kind, marks=mark) for kind, mark in marks.items()]


def member_of(kind: str, **changes: Any) -> Member:
    """Return an untrained member of one of the kinds above."""
    name = kind.partition(",")[0]
    options = {**({"hidden_size": 5} if kind in ROWS else {}), **(ROWS | NETWORKS)[kind], **changes}
    return member(name, **options)


def member(name: str, channels: int = 1, image_size: tuple[int, int] = (12, 10), **options: Any) -> Member:
    defaults: dict[str, Any] = {}
    if not name.startswith(("row", "small", "wrn")):
        defaults = {"pretrained": False, "input": InputConfig(size=(64,)), "hidden_size": 4}
    config = ModelConfig(**{**defaults, **options})
    torch.manual_seed(5)
    classifier = build(name, num_classes=len(CLASSES), config=config, channels=channels, image_size=image_size)
    for parameter in classifier.parameters():  # zero biases would hide swapped gates
        nn.init.normal_(parameter, std=0.3)
    return Member(name, classifier, config)


def random_images(count: int = 24) -> tuple[np.ndarray, ...]:
    """Return images of four sizes, greyscale and colour, with a black and a white one."""
    generator = np.random.default_rng(3)
    sizes = ((15, 11), (12, 12), (31, 40), (1, 9))
    images = [generator.integers(0, 256, (*sizes[row % 4], 1 + 2 * (row % 2)), dtype=np.uint8) for row in range(count)]
    return (*images[:-2], np.zeros_like(images[-2]), np.full_like(images[-1], 255))


SAMPLES = VerificationImages(random_images(), LABELS, "drawn")
MULTILABEL_SAMPLES = VerificationImages(SAMPLES.images, np.eye(3, dtype=np.int64)[LABELS.clip(0)], "drawn")
UNLABELLED_SAMPLES = VerificationImages(SAMPLES.images, None, "drawn")


class DataDependent(nn.Module):
    """Cannot be traced: its output size depends on the values."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1)[:, : int(images.sum() * 0 + 12)]


def member_with_layer(layer: nn.Module) -> Member:
    """Return a member named mine, whose network named own has a layer named features.special."""
    features = nn.Sequential()
    features.add_module("special", layer)
    spec = InputSpec((4, 4), channels=1)
    classifier = Classifier("own", spec=spec, num_classes=3, features=features, head=nn.Linear(12, 3))
    return Member("mine", classifier, ModelConfig())
