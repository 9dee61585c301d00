"""Hand-made ONNX files for the server: the mean colour determines the class."""

import io
from pathlib import Path

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper
from PIL import Image

from tercet.inference.onnx_file import write_checked
from tests.inference.tiny import CLASSES, DOCUMENT

MEMBERS = ("warm", "cold")
MAP = (2, 3)
_WIDTH = 256


def coloured(*, maps: bool = False, sets: bool = False, work: int = 0, spoilt: bool = False) -> ModelProto:
    """Return a model of images B H W 3: softmax(9 x mean colour); member `cold` uses 3 instead of 9.

    Args:
        maps: Add a map that decreases from left to right.
        sets: Multi-label: add the labels above 0.4.
        work: Matrix products per image, about a millisecond each, to slow the model down.
        spoilt: Return NaN for images whose red channel is 255 everywhere.
    """
    node, tensor = helper.make_node, helper.make_tensor
    floats, integers = TensorProto.FLOAT, TensorProto.INT64
    nodes = [
        node("Cast", ["images"], ["floats"], to=floats),
        node("ReduceMean", ["floats", "axes"], ["means"], keepdims=0),
    ]
    constants = [
        tensor("axes", integers, [2], [1, 2]),
        tensor("warm_scale", floats, [1], [9 / 255]),
        tensor("cold_scale", floats, [1], [3 / 255]),
        tensor("one", integers, [1], [1]),
    ]
    colour = "means"
    if work:
        weights = np.random.default_rng(0).normal(0, 0.06, (_WIDTH, _WIDTH)).astype(np.float32)
        constants += [
            numpy_helper.from_array(weights, "weights"),
            numpy_helper.from_array(np.ones((3, _WIDTH * _WIDTH), np.float32), "widen"),
            tensor("shape", integers, [3], [-1, _WIDTH, _WIDTH]),
            tensor("nothing", floats, [1], [0.0]),
            tensor("both", integers, [2], [1, 2]),
        ]
        nodes += [node("MatMul", ["means", "widen"], ["wide"]), node("Reshape", ["wide", "shape"], ["step0"])]
        for index in range(work):
            nodes += [node("MatMul", [f"step{index}", "weights"], [f"raw{index}"])]
            nodes += [node("Tanh", [f"raw{index}"], [f"step{index + 1}"])]
        nodes += [node("ReduceMean", [f"step{work}", "both"], ["worked"], keepdims=0)]
        nodes += [node("Mul", ["worked", "nothing"], ["zeroed"]), node("Unsqueeze", ["zeroed", "one"], ["zero"])]
        nodes += [node("Add", [colour, "zero"], ["colour_worked"])]
        colour = "colour_worked"
    if spoilt:
        constants += [tensor("limit", floats, [3], [254.5, 999.0, 999.0]), tensor("none", floats, [1], [0.0])]
        nodes += [node("Sub", ["limit", "means"], ["below"]), node("Sqrt", ["below"], ["root"])]
        nodes += [node("Mul", ["root", "none"], ["spoil"]), node("Add", [colour, "spoil"], ["colour_spoilt"])]
        colour = "colour_spoilt"
    for name, output in (("warm", "probabilities"), ("cold", "cold_probabilities")):
        nodes += [node("Mul", [colour, f"{name}_scale"], [f"{name}_logits"])]
        nodes += [node("Softmax", [f"{name}_logits"], [output], axis=1)]
    nodes += [
        node("Unsqueeze", ["probabilities", "one"], ["first"]),
        node("Unsqueeze", ["cold_probabilities", "one"], ["second"]),
    ]
    nodes += [node("Concat", ["first", "second"], ["members"], axis=1)]
    outputs = [("probabilities", floats, ["B", 3]), ("members", floats, ["B", 2, 3])]
    if sets:
        constants += [tensor("threshold", floats, [1], [0.4])]
        nodes += [node("Greater", ["probabilities", "threshold"], ["chosen"])]
        outputs += [("chosen", TensorProto.BOOL, ["B", 3])]
    if maps:
        constants += [
            tensor("falling", floats, [1, *MAP], [1.0, 0.5, 0.0] * 2),
            tensor("last", integers, [1], [2]),
            tensor("zero_scale", floats, [1], [0.0]),
        ]
        nodes += [node("ReduceMax", ["probabilities", "one"], ["highest"], keepdims=1)]
        nodes += [node("Unsqueeze", ["highest", "last"], ["high"]), node("Mul", ["high", "zero_scale"], ["flat"])]
        nodes += [node("Add", ["flat", "falling"], ["maps"])]
        outputs += [("maps", floats, ["B", *MAP])]
    graph = helper.make_graph(
        nodes,
        "coloured",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["B", "H", "W", 3])],
        [helper.make_tensor_value_info(*output) for output in outputs],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def write_coloured(
    path: Path,
    *,
    maps: bool = False,
    sets: bool = False,
    work: int = 0,
    spoilt: bool = False,
    **changes: object,
) -> Path:
    """Write the file; `changes` are other entries of its metadata."""
    spec = {"size": [8, 8], "crop_mode": "center", "crop_pct": 1.0}
    members = [{"name": name, "network": "mean", "input": spec, "views": "none"} for name in MEMBERS]
    document = {**DOCUMENT, "members": members, **({"sets": {}} if sets else {}), **changes}
    model = coloured(maps=maps, sets=sets, work=work, spoilt=spoilt)
    path.write_bytes(write_checked(model.SerializeToString(), document))
    return path


def picture(colour: tuple[int, int, int], size: tuple[int, int] = (8, 6), kind: str = "PNG") -> bytes:
    """Return an image file of one colour; `size` is width, height."""
    stream = io.BytesIO()
    Image.new("RGB", size, colour).save(stream, kind)
    return stream.getvalue()


def expected(colour: tuple[int, int, int], scale: float = 9.0) -> np.ndarray:
    """Return the expected probabilities for an image of one colour."""
    logits = np.array(colour) / 255 * scale
    exponentials = np.exp(logits - logits.max())
    return exponentials / exponentials.sum()


RED, GREEN, BLUE = (picture(tuple(200 if channel == name else 0 for channel in CLASSES)) for name in CLASSES)  # type: ignore[arg-type]
