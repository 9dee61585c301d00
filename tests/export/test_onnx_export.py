"""The file says what the bundle says: every kind of member, every way to combine, views, sets and calibration."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto
from tests.fixtures.bundles import CLASSES, KINDS, NAMES
from torch import nn

from tercet.config.model import InputConfig, LabelsConfig, ModelConfig
from tercet.config.tta import TTAConfig
from tercet.core.calibration import Calibration
from tercet.core.errors import ModelError
from tercet.core.types import InputSpec
from tercet.ensemble.bundle import Bundle, Member
from tercet.ensemble.combine import Combiner
from tercet.ensemble.multilabel import MultilabelRule
from tercet.export.onnx_assembly import assemble_onnx
from tercet.export.onnx_members import export_member, member_graphs
from tercet.export.verification import LIMIT, Verification, VerificationImages, compare_outputs
from tercet.inference.onnx_model import OnnxModel
from tercet.models.build import build
from tercet.models.classifier import Classifier

TRUTH = np.array([0, 1, 2, -1] * 6)


def pictures(count: int = 24) -> tuple[np.ndarray, ...]:
    """Return images of four sizes, grey and colour, black and white among them."""
    generator = np.random.default_rng(3)
    sizes = ((15, 11), (12, 12), (31, 40), (1, 9))
    drawn = [generator.integers(0, 256, (*sizes[row % 4], 1 + 2 * (row % 2)), dtype=np.uint8) for row in range(count)]
    return (*drawn[:-2], np.zeros_like(drawn[-2]), np.full_like(drawn[-1], 255))


SHOWN = VerificationImages(pictures(), TRUTH, "drawn")


def written(tmp_path: Path, bundle: Bundle, graphs: list[ModelProto]) -> OnnxModel:
    path = tmp_path / "model.onnx"
    path.write_bytes(assemble_onnx(bundle, graphs, version="1.2.3"))
    return OnnxModel.load(path, threads=1)


def proved(tmp_path: Path, bundle: Bundle, graphs: list[ModelProto]) -> Verification:
    found = compare_outputs(bundle, written(tmp_path, bundle, graphs), SHOWN)
    assert found.passed, found
    assert found.images == 24 and found.close_calls < 6
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_every_way_to_combine(kind: str, bundles: dict[str, Bundle], graphs: list[ModelProto], tmp_path: Path) -> None:
    bundle = bundles[kind]
    found = proved(tmp_path, bundle, graphs[: len(bundle.members)])
    assert found.largest_gap < 1e-5 or kind == "vote"
    assert found.accuracy_bundle == found.accuracy_file is not None


@pytest.mark.parametrize("kind", KINDS)
def test_predictions_are_those_of_the_bundle(
    kind: str, bundles: dict[str, Bundle], graphs: list[ModelProto], tmp_path: Path
) -> None:
    bundle = bundles[kind]
    model = written(tmp_path, bundle, graphs[: len(bundle.members)])
    expected, said = bundle.predict(list(SHOWN.pictures)), model.predict(list(SHOWN.pictures), batch_size=5)
    assert (said.ids, said.classes) == (expected.ids, expected.classes)
    np.testing.assert_allclose(said.probabilities, expected.probabilities, atol=LIMIT)


def test_the_file_tells_what_it_holds(bundles: dict[str, Bundle], graphs: list[ModelProto], tmp_path: Path) -> None:
    model = written(tmp_path, bundles["e2e"], graphs)
    assert (model.classes, model.member_names, model.name) == (CLASSES, NAMES, "e2e")
    assert model.metadata["members"][1]["network"] == "small-cnn"
    assert InputSpec.from_dict(model.metadata["members"][1]["input"]) == bundles["e2e"].members[1].classifier.spec
    assert model.metadata["card"] == {"data": {"source": "drawn"}}
    assert (model.metadata["tercet"], model.metadata["calibration"], model.metadata["sets"]) == ("1.2.3", None, None)
    proto = onnx.load(model.path)
    onnx.checker.check_model(proto, full_check=True)
    assert {node.domain for node in proto.graph.node} == {""}
    assert "/" not in "".join(node.doc_string for node in proto.graph.node)  # no path of the machine that wrote it


def test_the_same_bundle_makes_the_same_file(bundles: dict[str, Bundle], graphs: list[ModelProto]) -> None:
    once, again = (assemble_onnx(bundles["average"], graphs, version="1") for _ in range(2))
    assert once == again


def test_a_pruned_mean_may_keep_more_classes_than_there_are(
    bundles: dict[str, Bundle], graphs: list[ModelProto], tmp_path: Path
) -> None:
    proved(tmp_path, replace(bundles["average"], combiner=Combiner("pruned", NAMES, keep=9)), graphs)


def test_the_temperature_is_applied_after_combining(
    bundles: dict[str, Bundle], graphs: list[ModelProto], tmp_path: Path
) -> None:
    for combiner in (Combiner("average", NAMES), Combiner("vote", NAMES)):  # a vote has exact zeros
        bundle = replace(bundles["average"], combiner=combiner, calibration=Calibration(temperature=2.5, rows=9))
        proved(tmp_path, bundle, graphs)
        model = OnnxModel.load(tmp_path / "model.onnx", threads=1)
        assert Calibration.from_dict(model.metadata["calibration"]) == bundle.calibration


# ---------------------------------------------------------------------------------------------------- members


def member(name: str, channels: int = 1, image_size: tuple[int, int] = (12, 10), **options: object) -> Member:
    timm = {} if name.startswith(("row", "small", "wrn")) else {"pretrained": False, "input": InputConfig(size=(64,))}
    config = ModelConfig(**{**timm, **options})  # type: ignore[arg-type]
    torch.manual_seed(5)
    classifier = build(name, num_classes=len(CLASSES), config=config, channels=channels, image_size=image_size)
    for parameter in classifier.parameters():  # zero biases would hide a gate in the wrong place
        nn.init.normal_(parameter, std=0.3)
    return Member(name, classifier, config)


@pytest.mark.parametrize(
    "options",
    [
        {"name": "row-lstm", "hidden_size": 5},
        {
            "name": "row-bilstm",
            "hidden_size": 5,
            "activation": "relu",
            "recurrent_activation": "hard_sigmoid",
            "num_biases": 1,
        },
        {"name": "row-gru", "hidden_size": 5, "reset_after": True},
        {"name": "row-gru", "hidden_size": 5, "reset_after": False, "num_biases": 1, "activation": "sigmoid"},
        {"name": "row-rnn", "hidden_size": 5, "activation": "relu", "num_layers": 1},
        {"name": "wrn-10-1", "channels": 3},
        {
            "name": "test_resnet",
            "recurrent": "gru",
            "scan": "columns",
            "hidden_size": 4,
            "bidirectional": True,
            "num_layers": 2,
        },
        {
            "name": "test_resnet",
            "recurrent": "lstm",
            "scan": "pooled",
            "hidden_size": 4,
            "recurrent_activation": "hard_sigmoid",
        },
        {"name": "test_vit", "channels": 3, "recurrent": "rnn", "scan": "snake", "hidden_size": 4, "head": "linear"},
        {"name": "test_convnext", "channels": 3, "recurrent": "lstm", "scan": "cells", "hidden_size": 4, "head": "mlp"},
    ],
    ids=lambda options: " ".join(
        str(value) for key, value in options.items() if key not in ("hidden_size", "channels")
    ),
)
def test_every_kind_of_member(options: dict, tmp_path: Path) -> None:
    one = member(**options)
    bundle = Bundle(CLASSES, (one,))
    graph = export_member(one)
    proved(tmp_path, bundle, [graph])
    recurrent = [node.op_type for node in graph.graph.node if node.op_type in ("LSTM", "GRU", "RNN")]
    stepwise = str(options["name"]).startswith("row") or options.get("scan", "pooled") != "pooled"
    assert len(recurrent) == (options.get("num_layers", 2 if str(options["name"]).startswith("row") else 1)) * stepwise


def test_views_are_shown_inside_the_file(tmp_path: Path) -> None:
    one = member("small-cnn", channels=3)
    shown = replace(one, views=TTAConfig.parse("crops:2@14+flip", seed=3))
    bundle = Bundle(CLASSES, (shown,))
    proved(tmp_path, bundle, [export_member(shown)])
    said = OnnxModel.load(tmp_path / "model.onnx", threads=1)
    assert said.metadata["members"][0]["views"] == "crops:2@14+flip"


@pytest.mark.parametrize("method", ["average", "vote"])
def test_sets_of_labels(method: str, graphs: list[ModelProto], bundles: dict[str, Bundle], tmp_path: Path) -> None:
    rule = MultilabelRule(method, (0.4, 0.5, 0.6), 0.45)  # type: ignore[arg-type]
    bundle = Bundle(CLASSES, bundles["average"].members, sets=rule)
    shown = replace(SHOWN, truth=np.eye(3, dtype=np.int64)[TRUTH.clip(0)])
    model = written(tmp_path, bundle, graphs)
    found = compare_outputs(bundle, model, shown)
    assert found.passed and model.sets
    expected, said = bundle.predict(list(SHOWN.pictures)), model.predict(list(SHOWN.pictures))
    assert said.predicted_names == expected.predicted_names


@pytest.mark.parametrize("beam", [1, 4])
def test_a_decoder_names_labels_greedily(beam: int, tmp_path: Path) -> None:
    labels = LabelsConfig(decoder="cnn-rnn", embedding_dim=6, hidden_size=5, beam_size=beam)
    one = member("small-cnn", channels=3, labels=labels)
    bundle = Bundle(CLASSES, (one,), sets=MultilabelRule("single", (0.5,)))
    model = written(tmp_path, bundle, member_graphs(bundle))
    found = compare_outputs(bundle, model, replace(SHOWN, truth=None))
    assert found.passed, found
    assert (found.beam_differs is None) == (beam == 1)
    assert model.metadata["sets"]["search"] == ("greedy" if beam > 1 else None)
    assert one.classifier.head.classes.beam_size == beam  # as it was


class Peculiar(nn.Module):
    """Does something that no graph can: the number of its steps depends on the values."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1)[:, : int(images.sum() * 0 + 12)]


def test_a_layer_that_cannot_be_exported_is_named() -> None:
    trunk = nn.Sequential()
    trunk.add_module("strange", Peculiar())
    classifier = Classifier(
        "own", spec=InputSpec((4, 4), channels=1), num_classes=3, features=trunk, head=nn.Linear(12, 3)
    )
    with pytest.raises(ModelError, match=r"member 'mine' \(own\) cannot be exported: layer features\.strange "):
        export_member(Member("mine", classifier, ModelConfig()))


# ------------------------------------------------------------------------------------------------- verification


def test_a_file_that_differs_is_found_out(bundles: dict[str, Bundle], graphs: list[ModelProto], tmp_path: Path) -> None:
    model = written(tmp_path, bundles["average"], graphs)
    other = replace(bundles["average"], combiner=Combiner("weighted", NAMES, weights=(0.34, 0.33, 0.33)))
    found = compare_outputs(other, model, SHOWN)
    assert not found.passed and LIMIT < found.largest_gap < 0.1 and found.member_gap < LIMIT
    swapped = replace(bundles["average"], members=bundles["average"].members[::-1])
    assert compare_outputs(swapped, model, SHOWN).member_gap > 0.1


def test_close_calls_are_told_apart(bundles: dict[str, Bundle], graphs: list[ModelProto], tmp_path: Path) -> None:
    """All weights zero: every member gives every class the same, and a vote is decided by the last bit."""
    members = []
    for one in bundles["average"].members:
        config, channels = one.config, one.classifier.spec.channels
        blank = build(one.classifier.network, num_classes=3, config=config, channels=channels, image_size=(12, 12))
        nn.init.zeros_(list(blank.parameters())[-1])
        nn.init.zeros_(list(blank.parameters())[-2])
        members.append(Member(one.name, blank, config))
    bundle = Bundle(CLASSES, tuple(members), Combiner("vote", NAMES))
    model = written(tmp_path, bundles["vote"], graphs)
    assert compare_outputs(bundle, model, SHOWN).close_calls == 24
