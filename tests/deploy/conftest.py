"""Bundles of small untrained networks: what a bundle promises does not depend on how good its members are."""

from pathlib import Path

import pytest
import torch
from onnx import ModelProto

from tercet.deploy.answers import FoldMean, Part
from tercet.deploy.bundle import Bundle, Member
from tercet.deploy.export.members import member_graphs
from tercet.evaluation.combining import Combiner
from tercet.models.build import build
from tercet.models.fusion import FusionHead
from tercet.records.model_config import InputConfig, ModelConfig

CLASSES = ("cat", "dog", "émeu 🐦")
CONFIGS = {
    "rows": ("row-gru", ModelConfig(hidden_size=8, num_layers=1, head_hidden_dim=6), 1, (12, 12)),
    "colours": ("small-cnn", ModelConfig(head_hidden_dim=8, input=InputConfig(size=(20, 16))), 3, (12, 12)),
    "backbone": (
        "test_resnet",
        ModelConfig(
            pretrained=False,
            recurrent="lstm",
            hidden_size=8,
            scan="rows",
            head_hidden_dim=8,
            input=InputConfig(size=(64,)),
        ),
        3,
        (12, 12),
    ),
}
NAMES = tuple(CONFIGS)
COMBINERS = {
    "average": Combiner("average", NAMES),
    "pruned": Combiner("pruned", NAMES, keep=2),
    "vote": Combiner("vote", NAMES, ties="mean"),
    "weighted": Combiner("weighted", NAMES, weights=(0.2, 0.7, 0.1)),
    "greedy": Combiner("greedy", NAMES, weights=(0.5, 0.0, 0.5)),
}
KINDS = ("single", *COMBINERS, "e2e", "equation-19", "fold-mean")


def make_member(name: str) -> Member:
    network, config, channels, size = CONFIGS[name]
    torch.manual_seed(NAMES.index(name))
    classifier = build(network, num_classes=len(CLASSES), config=config, channels=channels, image_size=size)
    for parameter in classifier.parameters():  # far from uniform answers, so that differences show
        torch.nn.init.normal_(parameter, std=0.4)
    return Member(name, classifier, config)


def make_bundle(kind: str) -> Bundle:
    if kind == "single":
        return Bundle(CLASSES, (make_member("rows"),))
    members = tuple(make_member(name) for name in NAMES)
    if kind in COMBINERS:
        return Bundle(CLASSES, members, COMBINERS[kind])
    torch.manual_seed(7)
    if kind == "fold-mean":
        head = FusionHead(2, len(CLASSES), width=8, slope=0.3)
        return Bundle(CLASSES, members, FoldMean((Part(1), Part(2, head))))
    width = 16 if kind == "e2e" else 0
    return Bundle(CLASSES, members, FusionHead(3, len(CLASSES), width=width, slope=0.3), {"data": {"source": "drawn"}})


@pytest.fixture(scope="session")
def bundles() -> dict[str, Bundle]:
    return {kind: make_bundle(kind) for kind in KINDS}


@pytest.fixture(scope="session")
def saved(bundles: dict[str, Bundle], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a saved end-to-end bundle; copy it before changing anything."""
    return bundles["e2e"].save(tmp_path_factory.mktemp("bundles") / "bundle")


@pytest.fixture(scope="session")
def graphs(bundles: dict[str, Bundle]) -> list[ModelProto]:
    """Return the graphs of the members of every bundle; exporting takes seconds."""
    return member_graphs(bundles["average"])
