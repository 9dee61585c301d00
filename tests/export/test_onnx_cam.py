"""Class-activation maps in ONNX files equal Grad-CAM by autograd, averaged over members."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import ModelProto
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
]
MLP = member("test_resnet", head="mlp")
NAMES = tuple(item.name for item in MEMBERS)


@pytest.fixture(scope="module")
def graphs() -> list[ModelProto]:
    return [export_member(item, with_cam=True) for item in MEMBERS]


def grad_cam(item: Member, image: np.ndarray, label: int) -> torch.Tensor:
    """Return the map h w of a member by the definition of Grad-CAM."""
    outputs: list[torch.Tensor] = []
    classifier = item.classifier
    features = classifier.features
    layer = features.network.layer4 if hasattr(features, "network") else features.activation
    handle = layer.register_forward_hook(lambda _, inputs, output: outputs.append(output))
    logits = classifier(prepare(image, classifier.spec)[None])
    handle.remove()
    (gradients,) = torch.autograd.grad(logits[0, label], outputs[0])
    cells = (outputs[0] * gradients.mean((2, 3), keepdim=True)).sum(1).relu()[0]
    return cells / cells.max().clamp(min=1e-12)


def check_maps(members: list[Member], graphs: list[ModelProto], tmp_path: Path) -> None:
    """Compare the maps of an exported average with the mean of the members' Grad-CAM maps."""
    names = tuple(item.name for item in members)
    bundle = Bundle(CLASSES, tuple(members), Combiner("average", names))
    (tmp_path / "model.onnx").write_bytes(assemble_onnx(bundle, graphs, version="1"))
    model = OnnxModel.load(tmp_path / "model.onnx", threads=1)
    assert model.has_maps and model.metadata["maps"] == list(names)
    images = np.random.default_rng(0).integers(0, 256, (3, 40, 40, 3), dtype=np.uint8)
    output = model.run(images)
    assert output.maps is not None and output.maps.shape == (3, 8, 8)
    for image, cells, probabilities in zip(images, output.maps, output.probabilities, strict=True):
        maps = [grad_cam(item, image, int(probabilities.argmax())) for item in members]
        mean = torch.stack([functional.interpolate(each[None, None], (8, 8), mode="bilinear")[0, 0] for each in maps])
        mean = mean.mean(0)
        np.testing.assert_allclose(cells, (mean / mean.max().clamp(min=1e-12)).detach().numpy(), atol=1e-4)
    assert output.maps.min() >= 0 and output.maps.max() <= 1
    assert compare_outputs(bundle, model, VerificationImages(tuple(images), None, "drawn")).passed


def test_the_maps_are_the_mean_of_the_members_maps(graphs: list[ModelProto], tmp_path: Path) -> None:
    check_maps(MEMBERS, graphs, tmp_path)


@pytest.mark.slow
def test_the_maps_of_an_mlp_head_equal_grad_cam(graphs: list[ModelProto], tmp_path: Path) -> None:
    check_maps([*MEMBERS, MLP], [*graphs, export_member(MLP, with_cam=True)], tmp_path)


def test_int8_members_have_maps(graphs: list[ModelProto], tmp_path: Path) -> None:
    wide = MEMBERS[1]
    bundle = Bundle(CLASSES, (wide,))
    images = np.random.default_rng(0).integers(0, 256, (16, 40, 40, 3), dtype=np.uint8)
    quantized = quantize(graphs[1], calibration_batches(bundle, 0, list(images)), name=wide.name)
    assert quantized is not None
    (tmp_path / "model.onnx").write_bytes(assemble_onnx(bundle, [quantized], version="1", quantized=[wide.name]))
    output = OnnxModel.load(tmp_path / "model.onnx", threads=1).run(images)
    assert output.maps is not None and output.maps.shape == (16, 8, 8)
    expected = bundle.predict(list(images)).probabilities
    np.testing.assert_allclose(output.probabilities, expected, atol=0.1)
    exact = grad_cam(wide, images[0], int(output.probabilities[0].argmax()))
    assert np.corrcoef(output.maps[0].ravel(), exact.detach().numpy().ravel())[0, 1] > 0.9


@pytest.mark.parametrize(
    "item",
    [
        replace(MEMBERS[0], views=TTAConfig.parse("flip")),
        member("test_resnet", head="linear", recurrent="lstm", hidden_size=4),
        member("small-cnn", size=16),
        member("row-rnn", size=16),
        member("test_vit", head="linear"),
    ],
    ids=["augmentation", "recurrent", "no global pooling", "rows", "tokens"],
)
def test_other_members_do_not_support_maps(item: Member) -> None:
    assert not supports_cam(item)


def test_only_members_with_equal_crops_are_averaged() -> None:
    spec = replace(MEMBERS[1].classifier.spec, crop_pct=0.5)
    closer = member("wrn-10-1", size=32)
    closer.classifier.spec = spec
    bundle = Bundle(CLASSES, (*MEMBERS, closer), Combiner("average", (*NAMES, "closer")))
    assert cam_members(bundle) == MEMBERS
