"""ONNX files: inference, and refusal of truncated, changed, foreign and unsafe files."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from PIL import Image

from tercet.core.errors import ConfigError, DataError, ModelError
from tercet.data.inputs import ImageInputs
from tercet.inference.onnx_file import KEY, read_checked, write_checked
from tercet.inference.onnx_model import OnnxModel
from tests.inference.tiny import CLASSES, DOCUMENT, tiny_model, write_tiny


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("exported") / "model.onnx")


@pytest.fixture(scope="module")
def model(path: Path) -> OnnxModel:
    return OnnxModel.load(path, threads=1)


def flat(colour: str, size: tuple[int, int] = (5, 4)) -> np.ndarray:
    pixels = np.zeros((*size, 3), dtype=np.uint8)
    pixels[..., CLASSES.index(colour)] = 200
    return pixels


def test_metadata_of_a_file(model: OnnxModel, path: Path) -> None:
    assert (model.classes, model.member_names, model.name) == (tuple(CLASSES), ("mean",), "average")
    assert not model.multilabel and not model.has_maps
    onnx.checker.check_model(onnx.load(path), full_check=True)  # with the appended metadata entry
    assert {entry.key for entry in onnx.load(path).metadata_props} == {KEY}


def test_run_returns_probabilities_and_members(model: OnnxModel) -> None:
    output = model.run(np.stack([flat("blue"), flat("red"), flat("green")]))
    assert output.probabilities.argmax(axis=1).tolist() == [2, 0, 1]
    assert output.members.shape == (3, 1, 3) and output.chosen is None and output.maps is None


def test_predictions_keep_the_order_of_the_inputs(model: OnnxModel, tmp_path: Path) -> None:
    Image.fromarray(flat("green", (3, 9))).save(tmp_path / "b.png")
    Image.fromarray(flat("blue")).save(tmp_path / "a.png")
    predictions = model.predict(
        [flat("red", (9, 9)), tmp_path, Image.fromarray(flat("red")), np.zeros((4, 4), np.uint8)]
    )
    assert predictions.ids == ("0", str(tmp_path / "a.png"), str(tmp_path / "b.png"), "2", "3")
    assert predictions.predicted_names == ["red", "blue", "green", "red", "red"]  # grey: a tie, won by the lowest index


@pytest.mark.parametrize("batch_size", [1, 7])
def test_predictions_do_not_depend_on_the_batch_size(model: OnnxModel, batch_size: int) -> None:
    images = [flat(name, (4 + index % 3, 5)) for index, name in enumerate(CLASSES * 5)]
    predictions = model.predict(images, batch_size=batch_size)
    assert predictions.predicted_names == CLASSES * 5
    assert predictions.ids == tuple(map(str, range(15)))


def test_pending_images_are_bounded(model: OnnxModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tercet.inference.exported_model.MAX_PENDING_BYTES", 150)
    batch_sizes = []
    run = model.run
    monkeypatch.setattr(model, "run", lambda images: batch_sizes.append(len(images)) or run(images))
    predictions = model.predict([flat(name, (4 + index % 2, 5)) for index, name in enumerate(CLASSES * 2)])
    assert predictions.predicted_names == CLASSES * 2
    assert len(batch_sizes) > 2


def test_unreadable_images_raise_or_are_skipped(model: OnnxModel, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"bad\.png.*not an image"):
        model.predict(tmp_path / "bad.png")
    inputs = ImageInputs([tmp_path / "bad.png", flat("red")], skip_bad=True)
    assert model.predict(inputs).ids == ("1",)
    assert [bad.id for bad in inputs.bad] == [str(tmp_path / "bad.png")]
    with pytest.raises(DataError, match="no images"):
        model.predict(ImageInputs([tmp_path / "bad.png"], skip_bad=True))
    with pytest.raises(ConfigError, match="batch_size 0"):
        model.predict(flat("red"), batch_size=0)


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((2, 3, 3), np.uint8),
        np.zeros((1, 3, 3, 1), np.uint8),
        np.zeros((1, 3, 3, 3), np.float32),
        np.zeros((1, 0, 3, 3), np.uint8),
        [[1]],
    ],
)
def test_other_shapes_and_types_are_load_fails(model: OnnxModel, images: object) -> None:
    with pytest.raises(DataError, match="uint8 B H W 3"):
        model.run(images)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------ foreign files


def write_file(tmp_path: Path, proto: onnx.ModelProto, **changes: object) -> Path:
    target = tmp_path / "other.onnx"
    target.write_bytes(write_checked(proto.SerializeToString(), {**DOCUMENT, **changes}))
    return target


def load_fails(path: Path, match: str) -> None:
    with pytest.raises(ModelError, match=match):
        OnnxModel.load(path, threads=1)


@pytest.mark.parametrize("fraction", [0.0, 0.5, 0.999])
def test_truncated_files_are_refused(path: Path, tmp_path: Path, fraction: float) -> None:
    content = path.read_bytes()
    (tmp_path / "truncated.onnx").write_bytes(content[: int(len(content) * fraction)])
    load_fails(tmp_path / "truncated.onnx", "is truncated|empty|damaged|not written by tercet")


def test_random_bytes_and_missing_files_are_refused(tmp_path: Path) -> None:
    for seed in range(20):
        (tmp_path / "random.onnx").write_bytes(np.random.default_rng(seed).bytes(500))
        load_fails(tmp_path / "random.onnx", "not an ONNX file|refused|not written by")
    load_fails(tmp_path / "absent.onnx", "No such file")
    load_fails(tmp_path, "not a regular file|Is a directory")


def test_changed_bytes_are_detected(path: Path, tmp_path: Path) -> None:
    content = bytearray(path.read_bytes())
    for offset in range(0, len(content), 23):
        changed = content.copy()
        changed[offset] ^= 0x41
        (tmp_path / "changed.onnx").write_bytes(changed)
        load_fails(tmp_path / "changed.onnx", "changed.onnx")


def test_swapped_classes_are_detected(path: Path, tmp_path: Path) -> None:
    content = path.read_bytes()
    (tmp_path / "swapped.onnx").write_bytes(content.replace(b'["red", "green", "blue"]', b'["blue", "green", "red"]'))
    load_fails(tmp_path / "swapped.onnx", "metadata do not match")


def test_onnx_files_of_other_programs_are_refused(tmp_path: Path) -> None:
    onnx.save(tiny_model(), tmp_path / "foreign.onnx")
    load_fails(tmp_path / "foreign.onnx", "not written by tercet export")


def test_other_formats_are_refused(path: Path, tmp_path: Path) -> None:
    later = path.read_bytes().replace(b"tercet-onnx-1", b"tercet-onnx-9")
    (tmp_path / "later.onnx").write_bytes(later)
    load_fails(tmp_path / "later.onnx", "not of format tercet-onnx-1")


def test_external_weights_are_refused(tmp_path: Path) -> None:
    proto = tiny_model()
    (scale,) = [tensor for tensor in proto.graph.initializer if tensor.name == "scale"]
    del scale.float_data[:]
    scale.data_location = TensorProto.EXTERNAL
    entry = scale.external_data.add()
    entry.key, entry.value = "location", "/etc/hostname"
    load_fails(write_file(tmp_path, proto), "external data")


def test_external_weights_of_nodes_are_refused(tmp_path: Path) -> None:
    tensor = helper.make_tensor("inner", TensorProto.FLOAT, [1], [1.0])
    tensor.data_location = TensorProto.EXTERNAL
    node = helper.make_node("Constant", [], ["unused"], value=tensor)
    load_fails(write_file(tmp_path, tiny_model(extra=[node])), "external data")


def test_custom_operators_are_refused(tmp_path: Path) -> None:
    node = helper.make_node("Run", ["floats"], ["unused"], domain="evil.ops")
    load_fails(write_file(tmp_path, tiny_model(extra=[node])), "domain 'evil.ops'")


def test_branches_and_loops_are_refused(tmp_path: Path) -> None:
    body = helper.make_graph([], "body", [], [])
    node = helper.make_node("If", ["one"], ["unused"], then_branch=body, else_branch=body)
    load_fails(write_file(tmp_path, tiny_model(extra=[node])), "branches or loops")


def test_functions_are_refused(tmp_path: Path) -> None:
    proto = tiny_model()
    call = helper.make_node("f", ["x"], ["y"])
    proto.functions.append(helper.make_function("", "f", ["x"], ["y"], [call], [helper.make_opsetid("", 20)]))
    load_fails(write_file(tmp_path, proto), "functions")


def test_unknown_operators_are_refused(tmp_path: Path) -> None:
    load_fails(
        write_file(tmp_path, tiny_model(extra=[helper.make_node("Nothing", ["floats"], ["n"])])), "cannot be used"
    )


def test_other_signatures_are_refused(tmp_path: Path) -> None:
    proto = tiny_model()
    proto.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT
    load_fails(write_file(tmp_path, proto), "not uint8 images")
    proto = tiny_model()
    del proto.graph.output[1]
    load_fails(write_file(tmp_path, proto), "not uint8 images B H W 3 and probabilities, members")
    load_fails(write_file(tmp_path, tiny_model(), sets={"method": "single"}), "members, chosen")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": ["a", "b"]}, "metadata are wrong"),
        ({"classes": ["a", "a", "b"]}, "duplicate class"),
        ({"classes": [1, 2, 3]}, "names of its classes"),
        ({"members": []}, "names of its members"),
        ({"members": [{}]}, "names of its members"),
        ({"name": None}, "no model name"),
    ],
)
def test_malformed_metadata_are_refused(tmp_path: Path, changes: dict, message: str) -> None:
    load_fails(write_file(tmp_path, tiny_model(), **changes), message)


def test_outputs_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    proto = tiny_model(scale=float("nan"))
    load_fails(write_file(tmp_path, proto), "not finite")
    loaded = OnnxModel.load(write_file(tmp_path, proto), threads=1, check=False)
    with pytest.raises(ModelError, match="not finite"):
        loaded.predict(flat("red"))


def test_a_second_graph_is_refused(path: Path, tmp_path: Path) -> None:
    other = onnx.ModelProto()
    other.graph.CopyFrom(tiny_model(scale=-9.0).graph)
    (tmp_path / "two.onnx").write_bytes(path.read_bytes() + other.SerializeToString())
    load_fails(tmp_path / "two.onnx", "not an ONNX file")


def test_two_metadata_documents_are_refused(tmp_path: Path) -> None:
    once = write_checked(tiny_model().SerializeToString(), DOCUMENT)
    (tmp_path / "twice.onnx").write_bytes(write_checked(once, {**DOCUMENT, "classes": ["x", "y", "z"]}))
    load_fails(tmp_path / "twice.onnx", "two metadata documents")


def test_metadata_of_another_model_are_refused(tmp_path: Path) -> None:
    metadata = write_checked(tiny_model().SerializeToString(), DOCUMENT)[len(tiny_model().SerializeToString()) :]
    (tmp_path / "other.onnx").write_bytes(tiny_model(scale=-9.0).SerializeToString() + metadata)
    load_fails(tmp_path / "other.onnx", "model does not match")


def test_the_number_of_fields_is_bounded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tercet.inference.onnx_file._MAX_FIELDS", 20)
    load_fails(path, "too many fields")


def test_sparse_tensors_are_refused(tmp_path: Path) -> None:
    proto = tiny_model()
    proto.graph.sparse_initializer.add().values.name = "hidden"
    load_fails(write_file(tmp_path, proto), "sparse tensors")


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused(content: bytes) -> None:
    with pytest.raises(ModelError):
        read_checked(content, "any.onnx")


def test_an_incomplete_entry_is_refused() -> None:
    with pytest.raises(ModelError, match="not an ONNX file"):
        read_checked(b"\x72\x02", "x.onnx")


LIGHT = """
import sys
from tercet.inference.onnx_model import OnnxModel
import tercet.inference.predict, tercet.serve.supervisor
print(OnnxModel.load(sys.argv[1]).predict(sys.argv[2]).predicted_names)
print([name for name in ("torch", "timm", "sklearn", "lightning", "scipy", "matplotlib") if name in sys.modules])
"""


def test_predicting_and_serving_files_do_not_import_pytorch(path: Path, tmp_path: Path) -> None:
    Image.fromarray(flat("green")).save(tmp_path / "one.png")
    arguments = [sys.executable, "-c", LIGHT, str(path), str(tmp_path / "one.png")]
    process = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=True)
    assert process.stdout.splitlines() == ["['green']", "[]"]
