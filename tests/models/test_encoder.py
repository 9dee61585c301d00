"""Encoders give the features of the network, whichever way computes them."""

import numpy as np
import pytest
import torch

from tercet.config.model import ModelConfig
from tercet.models import encoder
from tercet.models.build import build
from tercet.models.classifier import Classifier
from tercet.models.encoder import TOLERANCE, Encoder


def encode(encoder: Encoder, images: torch.Tensor, expected: int = 10**9) -> np.ndarray:
    (features,) = encoder.encode([images], expected=expected)
    return features


def random_images(count: int) -> torch.Tensor:
    return torch.rand(count, 3, 32, 32)


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    torch.manual_seed(0)
    return build("test_resnet", num_classes=3, config=ModelConfig(pretrained=False), image_size=(32, 32)).eval()


@pytest.mark.parametrize("expected", [0, 1, 10**9])
def test_features_are_those_of_the_network(classifier: Classifier, expected: int) -> None:
    images = torch.rand(40, 3, 32, 32)
    run = Encoder(classifier)
    with torch.inference_mode():
        reference = classifier.embed(images).numpy()
    for part in (images, images[:1], images[:7]):  # the way is chosen with the first batch and kept
        features = encode(run, part, expected)
        np.testing.assert_allclose(features, reference[: len(part)], atol=TOLERANCE * max(1, abs(reference).max()))
    assert expected > 1 or run.engine == "pytorch"


def test_a_way_that_differs_is_not_used(classifier: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder, "_onnx_run", lambda module, images: lambda images: torch.zeros(len(images), 1))
    monkeypatch.setattr(Encoder, "_channels_last", lambda self, images: self._prefix(images) + 1)
    assert encode(Encoder(classifier), random_images(4)).any()


def test_a_network_that_cannot_be_exported_is_computed_by_pytorch(
    classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(module: object, images: object) -> None:
        raise RuntimeError("unsupported operator")

    monkeypatch.setattr(encoder, "_onnx_run", fail)
    run = Encoder(classifier)
    assert encode(run, random_images(2)).shape[0] == 2
    assert run.engine in ("pytorch", "channels-last")


def test_the_mode_of_the_network_is_restored(classifier: Classifier) -> None:
    classifier.train()
    encode(Encoder(classifier), random_images(2))
    assert classifier.training
    classifier.eval()
