"""Maps in the file are the gradients that autograd finds, laid over each other."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from tercet.config.model import InputConfig, ModelConfig
from tercet.config.tta import TTAConfig
from tercet.data.loader import prepare
from tercet.ensemble.bundle import Bundle, Member
from tercet.ensemble.combine import Combiner
from tercet.export.onnx_assembly import assemble_onnx
from tercet.export.onnx_cam import cam_members, supports_cam
from tercet.export.onnx_members import export_member
from tercet.export.quantization import calibration_batches, quantize
from tercet.export.verification import VerificationImages, compare_outputs
from tercet.inference.onnx_model import OnnxModel
from tercet.models.build import build

CLASSES = ("cat", "dog", "owl")


def member(network: str, size: int = 64, **options: object) -> Member:
    timm = {"pretrained": False} if network.startswith("test") else {}
    config = ModelConfig(input=InputConfig(size=(size,)), **timm, **options)  # type: ignore[arg-type]
    torch.manual_seed(len(network))
    classifier = build(network, num_classes=3, config=config, channels=3, image_size=(20, 20)).eval()
    for parameter in classifier.head.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return Member(f"{network}-{options.get('head', '')}", classifier, config)


MEMBERS = [
    member("test_resnet", head="paper", head_hidden_dim=7),
    member("wrn-10-1", size=32),
    member("test_resnet", head="mlp"),
]


def seen_by_autograd(one: Member, image: np.ndarray, label: int) -> torch.Tensor:
    """Return the map h w of a member by Grad-CAM's own definition."""
    kept: list[torch.Tensor] = []
    classifier = one.classifier
    network = classifier.features
    part = network.network.layer4 if hasattr(network, "network") else network.activation
    handle = part.register_forward_hook(lambda _, given, made: kept.append(made))
    logits = classifier(prepare(image, classifier.spec)[None])
    handle.remove()
    (slopes,) = torch.autograd.grad(logits[0, label], kept[0])
    seen = (kept[0] * slopes.mean((2, 3), keepdim=True)).sum(1).relu()[0]
    return seen / seen.max().clamp(min=1e-12)


def test_the_mean_of_the_members_maps(tmp_path: Path) -> None:
    bundle = Bundle(CLASSES, tuple(MEMBERS), Combiner("average", tuple(one.name for one in MEMBERS)))
    graphs = [export_member(one, mapped=True) for one in MEMBERS]
    (tmp_path / "seen.onnx").write_bytes(assemble_onnx(bundle, graphs, version="1"))
    model = OnnxModel.load(tmp_path / "seen.onnx", threads=1)
    assert model.has_maps and model.metadata["maps"] == [one.name for one in MEMBERS]
    images = np.random.default_rng(0).integers(0, 256, (3, 40, 40, 3), dtype=np.uint8)
    output = model.run(images)
    assert output.maps is not None and output.maps.shape == (3, 8, 8)
    for image, told, probabilities in zip(images, output.maps, output.probabilities, strict=True):
        parts = [seen_by_autograd(one, image, int(probabilities.argmax())) for one in MEMBERS]
        laid = [functional.interpolate(one[None, None], (8, 8), mode="bilinear")[0, 0] for one in parts]
        mean = torch.stack(laid).mean(0)
        np.testing.assert_allclose(told, (mean / mean.max().clamp(min=1e-12)).detach().numpy(), atol=1e-4)
    assert output.maps.min() >= 0 and output.maps.max() <= 1
    assert compare_outputs(bundle, model, VerificationImages(tuple(images), None, "drawn")).passed


def test_maps_beside_8_bits(tmp_path: Path) -> None:
    one = MEMBERS[1]
    bundle = Bundle(CLASSES, (one,))
    images = np.random.default_rng(0).integers(0, 256, (16, 40, 40, 3), dtype=np.uint8)
    changed = quantize(export_member(one, mapped=True), calibration_batches(bundle, 0, list(images)), name=one.name)
    assert changed is not None
    (tmp_path / "seen.onnx").write_bytes(assemble_onnx(bundle, [changed], version="1", quantized=[one.name]))
    output = OnnxModel.load(tmp_path / "seen.onnx", threads=1).run(images)
    assert output.maps is not None and output.maps.shape == (16, 8, 8)
    expected = bundle.predict(list(images)).probabilities
    np.testing.assert_allclose(output.probabilities, expected, atol=0.1)
    exact = seen_by_autograd(one, images[0], int(output.probabilities[0].argmax()))
    assert np.corrcoef(output.maps[0].ravel(), exact.detach().numpy().ravel())[0, 1] > 0.9


@pytest.mark.parametrize(
    "one",
    [
        replace(MEMBERS[0], views=TTAConfig.parse("flip")),
        member("test_resnet", head="linear", recurrent="lstm", hidden_size=4),
        member("small-cnn", size=16),
        member("row-rnn", size=16),
        member("test_vit", head="linear"),
    ],
    ids=["views", "recurrent", "no average", "rows", "tokens"],
)
def test_others_have_no_map(one: Member) -> None:
    assert not supports_cam(one)


def test_maps_are_laid_over_each_other_only_where_the_same_is_shown() -> None:
    spec = replace(MEMBERS[1].classifier.spec, crop_pct=0.5)
    closer = member("wrn-10-1", size=32)
    closer.classifier.spec = spec
    names = tuple(one.name for one in MEMBERS)
    bundle = Bundle(CLASSES, (MEMBERS[0], closer, MEMBERS[2]), Combiner("average", names))
    assert cam_members(bundle) == [MEMBERS[0], MEMBERS[2]]
