"""A hand-made exported file: the mean colour of an image determines its class."""

from pathlib import Path

from onnx import ModelProto, TensorProto, helper

from tercet.inference.onnx_file import write_checked

CLASSES = ["red", "green", "blue"]
DOCUMENT = {
    "tercet": "0",
    "name": "average",
    "classes": CLASSES,
    "members": [{"name": "mean", "network": "mean", "input": {}, "views": "none"}],
    "combiner": "average",
    "sets": None,
    "calibration": None,
    "card": {},
}


def tiny_model(*, scale: float = 9.0, extra: list | None = None) -> ModelProto:
    """Return a model from images B H W 3 to the softmax of the mean colours, with `extra` nodes."""
    nodes = [
        helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats", "axes"], ["means"], keepdims=0),
        helper.make_node("Mul", ["means", "scale"], ["scaled"]),
        helper.make_node("Softmax", ["scaled"], ["probabilities"], axis=1),
        helper.make_node("Unsqueeze", ["probabilities", "one"], ["members"]),
        *(extra or []),
    ]
    constants = [
        helper.make_tensor("axes", TensorProto.INT64, [2], [1, 2]),
        helper.make_tensor("scale", TensorProto.FLOAT, [1], [scale / 255]),
        helper.make_tensor("one", TensorProto.INT64, [1], [1]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["B", "H", "W", 3])],
        [
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["B", 3]),
            helper.make_tensor_value_info("members", TensorProto.FLOAT, ["B", 1, 3]),
        ],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def write_tiny(path: Path, **changes: object) -> Path:
    """Write the file; `changes` replace entries of its metadata."""
    path.write_bytes(write_checked(tiny_model().SerializeToString(), {**DOCUMENT, **changes}))
    return path
