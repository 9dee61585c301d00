"""Loading files that are whole, changed, foreign or hostile; answering images of any kind."""

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


def test_a_file_tells_what_it_is(model: OnnxModel, path: Path) -> None:
    assert (model.classes, model.member_names, model.name) == (tuple(CLASSES), ("mean",), "average")
    assert not model.sets and not model.has_maps
    onnx.checker.check_model(onnx.load(path), full_check=True)  # the entry behind the model is proper ONNX
    assert {entry.key for entry in onnx.load(path).metadata_props} == {KEY}


def test_it_answers_a_batch_of_any_size(model: OnnxModel) -> None:
    output = model.run(np.stack([flat("blue"), flat("red"), flat("green")]))
    assert output.probabilities.argmax(axis=1).tolist() == [2, 0, 1]
    assert output.members.shape == (3, 1, 3) and output.chosen is None and output.maps is None


def test_pictures_of_several_sizes_and_kinds_keep_their_order(model: OnnxModel, tmp_path: Path) -> None:
    Image.fromarray(flat("green", (3, 9))).save(tmp_path / "b.png")
    Image.fromarray(flat("blue")).save(tmp_path / "a.png")
    said = model.predict([flat("red", (9, 9)), tmp_path, Image.fromarray(flat("red")), np.zeros((4, 4), np.uint8)])
    assert said.ids == ("0", str(tmp_path / "a.png"), str(tmp_path / "b.png"), "2", "3")
    assert said.predicted_names == ["red", "blue", "green", "red", "red"]  # grey: a tie, which the lowest wins


@pytest.mark.parametrize("batch_size", [1, 2, 7])
def test_the_size_of_a_batch_changes_nothing(model: OnnxModel, batch_size: int) -> None:
    images = [flat(name, (4 + index % 3, 5)) for index, name in enumerate(CLASSES * 5)]
    said = model.predict(images, batch_size=batch_size)
    assert said.predicted_names == CLASSES * 5
    assert said.ids == tuple(map(str, range(15)))


def test_many_large_images_are_answered_before_all_are_read(model: OnnxModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tercet.inference.outputs.MAX_PENDING_BYTES", 150)
    seen = []
    run = model.run
    monkeypatch.setattr(model, "run", lambda images: seen.append(len(images)) or run(images))
    said = model.predict([flat(name, (4 + index % 2, 5)) for index, name in enumerate(CLASSES * 2)])
    assert said.predicted_names == CLASSES * 2
    assert len(seen) > 2


def test_images_that_cannot_be_read_are_named_or_left_out(model: OnnxModel, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"bad\.png.*not an image"):
        model.predict(tmp_path / "bad.png")
    pictures = ImageInputs([tmp_path / "bad.png", flat("red")], skip_bad=True)
    assert model.predict_inputs(pictures).ids == ("1",)
    assert [bad.id for bad in pictures.bad] == [str(tmp_path / "bad.png")]
    with pytest.raises(DataError, match="none of the 1 image"):
        model.predict_inputs(ImageInputs([tmp_path / "bad.png"], skip_bad=True))
    with pytest.raises(ConfigError, match="batch_size 0"):
        model.predict(flat("red"), batch_size=0)


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((2, 3, 3), np.uint8),
        np.zeros((1, 3, 3, 1), np.uint8),
        np.zeros((1, 3, 3, 3), np.float32),
        np.zeros((0, 3, 3, 3), np.uint8),
        np.zeros((1, 0, 3, 3), np.uint8),
        [[1]],
    ],
)
def test_other_shapes_and_types_are_refused(model: OnnxModel, images: object) -> None:
    with pytest.raises(DataError, match="uint8 B H W 3"):
        model.run(images)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------ foreign files


def sealed(tmp_path: Path, proto: onnx.ModelProto, **changes: object) -> Path:
    target = tmp_path / "other.onnx"
    target.write_bytes(write_checked(proto.SerializeToString(), {**DOCUMENT, **changes}))
    return target


def refused(path: Path, match: str) -> None:
    with pytest.raises(ModelError, match=match):
        OnnxModel.load(path, threads=1)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_file_that_is_cut_short(path: Path, tmp_path: Path, share: float) -> None:
    content = path.read_bytes()
    (tmp_path / "cut.onnx").write_bytes(content[: int(len(content) * share)])
    refused(tmp_path / "cut.onnx", "cut short|empty|damaged|not written by tercet")


def test_random_bytes_and_other_things(tmp_path: Path) -> None:
    for seed in range(20):
        (tmp_path / "random.onnx").write_bytes(np.random.default_rng(seed).bytes(500))
        refused(tmp_path / "random.onnx", "no ONNX file|refused|not written by")
    refused(tmp_path / "absent.onnx", "No such file")
    refused(tmp_path, "not a regular file|Is a directory")


def test_every_changed_byte_is_noticed(path: Path, tmp_path: Path) -> None:
    content = bytearray(path.read_bytes())
    for place in range(0, len(content), 7):
        changed = content.copy()
        changed[place] ^= 0x41
        (tmp_path / "changed.onnx").write_bytes(changed)
        refused(tmp_path / "changed.onnx", "changed.onnx")


def test_swapped_classes_are_noticed(path: Path, tmp_path: Path) -> None:
    content = path.read_bytes()
    (tmp_path / "swapped.onnx").write_bytes(content.replace(b'["red", "green", "blue"]', b'["blue", "green", "red"]'))
    refused(tmp_path / "swapped.onnx", "classes and inputs do not match")


def test_a_strangers_onnx_file(tmp_path: Path) -> None:
    onnx.save(tiny_model(), tmp_path / "foreign.onnx")
    refused(tmp_path / "foreign.onnx", "not written by tercet export")


def test_another_format(path: Path, tmp_path: Path) -> None:
    later = path.read_bytes().replace(b"tercet-onnx-1", b"tercet-onnx-9")
    (tmp_path / "later.onnx").write_bytes(later)
    refused(tmp_path / "later.onnx", "not of format tercet-onnx-1")


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/hostname", "weights.bin", "a/b/c.bin"])
def test_weights_in_other_files_are_refused_before_the_runtime_sees_them(tmp_path: Path, location: str) -> None:
    proto = tiny_model()
    (scale,) = [one for one in proto.graph.initializer if one.name == "scale"]
    del scale.float_data[:]
    scale.data_location = TensorProto.EXTERNAL
    entry = scale.external_data.add()
    entry.key, entry.value = "location", location
    refused(sealed(tmp_path, proto), "lie in other files")


def test_weights_in_other_files_are_found_inside_nodes_too(tmp_path: Path) -> None:
    tensor = helper.make_tensor("inner", TensorProto.FLOAT, [1], [1.0])
    tensor.data_location = TensorProto.EXTERNAL
    node = helper.make_node("Constant", [], ["unused"], value=tensor)
    refused(sealed(tmp_path, tiny_model(extra=[node])), "lie in other files")


def test_operators_from_elsewhere(tmp_path: Path) -> None:
    node = helper.make_node("Run", ["floats"], ["unused"], domain="evil.ops")
    refused(sealed(tmp_path, tiny_model(extra=[node])), "domain 'evil.ops'")


def test_branches_and_loops(tmp_path: Path) -> None:
    body = helper.make_graph([], "body", [], [])
    node = helper.make_node("If", ["one"], ["unused"], then_branch=body, else_branch=body)
    refused(sealed(tmp_path, tiny_model(extra=[node])), "branches or loops")


def test_functions(tmp_path: Path) -> None:
    proto = tiny_model()
    call = helper.make_node("f", ["x"], ["y"])
    proto.functions.append(helper.make_function("", "f", ["x"], ["y"], [call], [helper.make_opsetid("", 20)]))
    refused(sealed(tmp_path, proto), "functions")


def test_an_operator_that_does_not_exist(tmp_path: Path) -> None:
    refused(sealed(tmp_path, tiny_model(extra=[helper.make_node("Nothing", ["floats"], ["n"])])), "cannot be used")


def test_another_signature(tmp_path: Path) -> None:
    proto = tiny_model()
    proto.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT
    refused(sealed(tmp_path, proto), "not uint8 images")
    proto = tiny_model()
    del proto.graph.output[1]
    refused(sealed(tmp_path, proto), "not uint8 images B H W 3 to probabilities, members")
    refused(sealed(tmp_path, tiny_model(), sets={"method": "single"}), "members, chosen")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"classes": ["a", "b"]}, "its description is wrong"),
        ({"classes": ["a", "a", "b"]}, "a class twice"),
        ({"classes": None}, "names of its classes"),
        ({"classes": [1, 2, 3]}, "names of its classes"),
        ({"members": []}, "names of its members"),
        ({"members": [{}]}, "names of its members"),
        ({"members": 3}, "names of its members"),
        ({"name": None}, "does not tell its name"),
    ],
)
def test_odd_descriptions(tmp_path: Path, changes: dict, told: str) -> None:
    refused(sealed(tmp_path, tiny_model(), **changes), told)


def test_answers_that_are_not_finite_are_no_answers(tmp_path: Path) -> None:
    proto = tiny_model(scale=float("nan"))
    refused(sealed(tmp_path, proto), "not finite")
    loaded = OnnxModel.load(sealed(tmp_path, proto), threads=1, check=False)
    with pytest.raises(ModelError, match="not finite"):
        loaded.predict(flat("red"))


def test_a_second_graph_is_not_merged_into_the_first(path: Path, tmp_path: Path) -> None:
    other = onnx.ModelProto()
    other.graph.CopyFrom(tiny_model(scale=-9.0).graph)
    (tmp_path / "two.onnx").write_bytes(path.read_bytes() + other.SerializeToString())
    refused(tmp_path / "two.onnx", "no ONNX file")


def test_two_descriptions(tmp_path: Path) -> None:
    once = write_checked(tiny_model().SerializeToString(), DOCUMENT)
    (tmp_path / "twice.onnx").write_bytes(write_checked(once, {**DOCUMENT, "classes": ["x", "y", "z"]}))
    refused(tmp_path / "twice.onnx", "describes itself twice")


def test_a_description_of_another_model(tmp_path: Path) -> None:
    ours = write_checked(tiny_model().SerializeToString(), DOCUMENT)[len(tiny_model().SerializeToString()) :]
    (tmp_path / "other.onnx").write_bytes(tiny_model(scale=-9.0).SerializeToString() + ours)
    refused(tmp_path / "other.onnx", "model does not match")


def test_reading_a_file_has_an_end(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tercet.inference.onnx_file._MOST_FIELDS", 20)
    refused(path, "more fields than any model")


def test_sparse_tensors(tmp_path: Path) -> None:
    proto = tiny_model()
    proto.graph.sparse_initializer.add().values.name = "hidden"
    refused(sealed(tmp_path, proto), "sparse tensors")


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.binary(max_size=200))
def test_any_bytes_end_in_a_refusal(content: bytes) -> None:
    with pytest.raises(ModelError):
        read_checked(content, "any.onnx")


def test_a_document_that_is_no_object() -> None:
    with pytest.raises(ModelError, match="no ONNX file"):
        read_checked(b"\x72\x02", "x.onnx")


LIGHT = """
import sys
from tercet.inference.onnx_model import ExportedModel
print(ExportedModel.load(sys.argv[1]).predict(sys.argv[2]).predicted_names)
print([name for name in ("torch", "timm", "sklearn", "lightning", "scipy", "matplotlib") if name in sys.modules])
"""


def test_answering_loads_no_training_library(path: Path, tmp_path: Path) -> None:
    Image.fromarray(flat("green")).save(tmp_path / "one.png")
    words = [sys.executable, "-c", LIGHT, str(path), str(tmp_path / "one.png")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines() == ["['green']", "[]"]
