"""ONNX files have the outputs of their bundles: kinds of members, combiners, augmentation, label sets, calibration."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto
from tests.export.samples import (
    MULTILABEL_SAMPLES,
    SAMPLES,
    UNLABELLED_SAMPLES,
    DataDependent,
    kinds,
    member,
    member_of,
    member_with_layer,
)
from tests.fixtures.bundles import CLASSES, KINDS, NAMES
from torch import nn

from tercet.config.model import LabelsConfig
from tercet.config.tta import TTAConfig
from tercet.core.calibration import Calibration
from tercet.core.errors import ModelError
from tercet.core.types import InputSpec
from tercet.ensemble.bundle import Bundle, Member
from tercet.ensemble.combine import Combiner
from tercet.ensemble.multilabel import MultilabelRule
from tercet.export.onnx_assembly import assemble_onnx
from tercet.export.onnx_members import export_member
from tercet.export.verification import LIMIT, Verification, compare_outputs
from tercet.inference.onnx_model import OnnxModel
from tercet.models.build import build

FAST = ("row-bilstm", "row-gru, reset before", "row-rnn", "row-rnn, columns", "row-gru, pixels")


def write_model(tmp_path: Path, bundle: Bundle, graphs: list[ModelProto]) -> OnnxModel:
    path = tmp_path / "model.onnx"
    path.write_bytes(assemble_onnx(bundle, graphs, version="1.2.3"))
    return OnnxModel.load(path, threads=1)


def check_equal(model: OnnxModel, bundle: Bundle) -> Verification:
    result = compare_outputs(bundle, model, SAMPLES)
    assert result.passed, result
    assert result.images == 24 and result.close_calls < 6
    return result


@pytest.mark.parametrize("kind", KINDS)
def test_every_combiner_is_exported(
    kind: str, bundles: dict[str, Bundle], graphs: list[ModelProto], tmp_path: Path
) -> None:
    bundle = bundles[kind]
    model = write_model(tmp_path, bundle, graphs[: len(bundle.members)])
    result = check_equal(model, bundle)
    assert result.largest_gap < 1e-5 or kind == "vote"
    assert result.accuracy_change == 0
    expected = bundle.predict(list(SAMPLES.images))
    predictions = model.predict(list(SAMPLES.images), batch_size=5)
    assert (predictions.ids, predictions.classes) == (expected.ids, expected.classes)
    np.testing.assert_allclose(predictions.probabilities, expected.probabilities, atol=LIMIT)


def test_metadata_describes_the_bundle(bundles: dict[str, Bundle], graphs: list[ModelProto], tmp_path: Path) -> None:
    model = write_model(tmp_path, bundles["e2e"], graphs)
    assert (model.classes, model.member_names, model.name) == (CLASSES, NAMES, "e2e")
    assert model.metadata["members"][1]["network"] == "small-cnn"
    assert InputSpec.from_dict(model.metadata["members"][1]["input"]) == bundles["e2e"].members[1].classifier.spec
    assert model.metadata["card"] == {"data": {"source": "drawn"}}
    assert (model.metadata["tercet"], model.metadata["calibration"], model.metadata["sets"]) == ("1.2.3", None, None)


def test_the_graph_is_valid_and_contains_no_paths(
    bundles: dict[str, Bundle], graphs: list[ModelProto], tmp_path: Path
) -> None:
    proto = onnx.load(write_model(tmp_path, bundles["e2e"], graphs).path)
    onnx.checker.check_model(proto, full_check=True)
    assert {node.domain for node in proto.graph.node} == {""}
    assert "/" not in "".join(node.doc_string for node in proto.graph.node)


def test_equal_bundles_give_equal_files(bundles: dict[str, Bundle], graphs: list[ModelProto]) -> None:
    first, second = (assemble_onnx(bundles["average"], graphs, version="1") for _ in range(2))
    assert first == second


def test_pruning_may_keep_more_classes_than_exist(
    bundles: dict[str, Bundle], graphs: list[ModelProto], tmp_path: Path
) -> None:
    bundle = replace(bundles["average"], combiner=Combiner("pruned", NAMES, keep=9))
    check_equal(write_model(tmp_path, bundle, graphs), bundle)


@pytest.mark.parametrize("method", ["average", "vote"])  # a vote has probabilities of exactly zero
def test_the_temperature_is_applied_after_combining(
    method: str, bundles: dict[str, Bundle], graphs: list[ModelProto], tmp_path: Path
) -> None:
    calibration = Calibration(temperature=2.5, rows=9)
    bundle = replace(bundles["average"], combiner=Combiner(method, NAMES), calibration=calibration)  # type: ignore[arg-type]
    model = write_model(tmp_path, bundle, graphs)
    check_equal(model, bundle)
    assert Calibration.from_dict(model.metadata["calibration"]) == calibration


# ---------------------------------------------------------------------------------------------------- members


@pytest.mark.parametrize("kind", kinds(*FAST))
def test_every_kind_of_member_is_exported(kind: str, tmp_path: Path) -> None:
    model_member = member_of(kind)
    bundle, graph = Bundle(CLASSES, (model_member,)), export_member(model_member)
    check_equal(write_model(tmp_path, bundle, [graph]), bundle)
    recurrent = [node.op_type for node in graph.graph.node if node.op_type in ("LSTM", "GRU", "RNN")]
    config = model_member.config
    is_row = kind.startswith("row")
    has_scan = is_row or (config.recurrent != "none" and config.scan != "pooled")
    assert len(recurrent) == (config.num_layers or (2 if is_row else 1)) * has_scan


def test_test_time_augmentation_is_exported(tmp_path: Path) -> None:
    augmented = replace(member("small-cnn", channels=3), views=TTAConfig.parse("crops:2@14+flip", seed=3))
    bundle = Bundle(CLASSES, (augmented,))
    model = write_model(tmp_path, bundle, [export_member(augmented)])
    check_equal(model, bundle)
    assert model.metadata["members"][0]["views"] == "crops:2@14+flip"


@pytest.mark.parametrize("method", ["average", "vote"])
def test_multilabel_bundles_are_exported(
    method: str, graphs: list[ModelProto], bundles: dict[str, Bundle], tmp_path: Path
) -> None:
    rule = MultilabelRule(method, (0.4, 0.5, 0.6), 0.45)  # type: ignore[arg-type]
    bundle = Bundle(CLASSES, bundles["average"].members, sets=rule)
    model = write_model(tmp_path, bundle, graphs)
    assert compare_outputs(bundle, model, MULTILABEL_SAMPLES).passed and model.multilabel
    images = list(SAMPLES.images)
    assert model.predict(images).predicted_names == bundle.predict(images).predicted_names


@pytest.mark.parametrize("beam", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_label_decoders_are_exported_as_greedy(beam: int, tmp_path: Path) -> None:
    labels = LabelsConfig(decoder="cnn-rnn", embedding_dim=6, hidden_size=5, beam_size=beam)
    decoder = member("small-cnn", channels=3, labels=labels)
    bundle = Bundle(CLASSES, (decoder,), sets=MultilabelRule("single", (0.5,)))
    model = write_model(tmp_path, bundle, [export_member(decoder)])
    result = compare_outputs(bundle, model, UNLABELLED_SAMPLES)
    assert result.passed, result
    assert (result.beam_differs is None) == (beam == 1)
    assert model.metadata["sets"]["search"] == ("greedy" if beam > 1 else None)
    assert decoder.classifier.head.classes.beam_size == beam  # unchanged


def test_an_unsupported_layer_is_named() -> None:
    with pytest.raises(ModelError, match=r"member 'mine' \(own\) cannot be exported: .*layer features\.special "):
        export_member(member_with_layer(DataDependent()))


# ------------------------------------------------------------------------------------------------- verification


def test_a_different_combiner_or_member_is_detected(
    bundles: dict[str, Bundle], graphs: list[ModelProto], tmp_path: Path
) -> None:
    model = write_model(tmp_path, bundles["average"], graphs)
    other = replace(bundles["average"], combiner=Combiner("weighted", NAMES, weights=(0.34, 0.33, 0.33)))
    result = compare_outputs(other, model, SAMPLES)
    assert not result.passed and LIMIT < result.largest_gap < 0.1 and result.member_gap < LIMIT
    swapped = replace(bundles["average"], members=bundles["average"].members[::-1])
    assert compare_outputs(swapped, model, SAMPLES).member_gap > 0.1


def test_ties_count_as_close_calls(bundles: dict[str, Bundle], graphs: list[ModelProto], tmp_path: Path) -> None:
    """With zero weights all classes are equally probable, so that rounding decides a vote."""
    members = []
    for original in bundles["average"].members:
        config, channels = original.config, original.classifier.spec.channels
        blank = build(original.classifier.network, num_classes=3, config=config, channels=channels, image_size=(12, 12))
        nn.init.zeros_(list(blank.parameters())[-1])
        nn.init.zeros_(list(blank.parameters())[-2])
        members.append(Member(original.name, blank, config))
    bundle = Bundle(CLASSES, tuple(members), Combiner("vote", NAMES))
    model = write_model(tmp_path, bundles["vote"], graphs)
    assert compare_outputs(bundle, model, SAMPLES).close_calls == 24
