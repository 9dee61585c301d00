"""Exported files that pass every check of a file, and ask for more than there is once they compute."""

from pathlib import Path

from onnx import ModelProto, NodeProto, TensorProto, helper

from tercet.inference.onnx_file import write_checked
from tests.inference.tiny import DOCUMENT, tiny_model

_TENSOR = 64 * 2**20  # bytes of each of the tensors that `many` keeps


def hostile(kind: str) -> ModelProto:
    """Return the tiny model with nodes beside it that its answer waits for.

    Args:
        kind: `expand`: one tensor of 32 GB; `constant`: the same, from constants; `many`: 64 tensors of 64 MiB, all
            kept and all written; `growing`: one whose size grows with the fourth power of the image's; `slow`: hours of
            work in little memory; `overflow`: dimensions whose product is no number of 64 bits.
    """
    node = helper.make_node
    shapes = {
        "expand": [1, 1, 200_000, 40_000],
        "constant": [1, 1, 200_000, 40_000],
        "many": [1, 1, _TENSOR // 4096, 1024],
        "slow": [1, 1, 1500, 1500],
        "overflow": [1, 2**31 - 1, 2**31 - 1, 2**31 - 1],
    }
    nodes: list[NodeProto] = [node("ReduceMean", ["floats", "every"], ["one_mean"], keepdims=1)]
    if kind == "growing":
        nodes += [node("Shape", ["images"], ["sides"]), node("Mul", ["sides", "sides"], ["size"])]
    if kind == "constant":
        nodes += [node("ConstantOfShape", ["size"], ["huge"])]
    elif kind == "many":
        copies = [f"copy{index}" for index in range(64)]
        nodes += [node("Expand", ["one_mean", "size"], [name]) for name in copies]
        nodes += [node("Concat", copies, ["huge"], axis=1)]
    elif kind == "slow":
        nodes += [node("Expand", ["one_mean", "size"], ["step0"])]
        nodes += [node("MatMul", [f"step{index}", "step0"], [f"step{index + 1}"]) for index in range(20_000)]
        nodes += [node("Identity", ["step20000"], ["huge"])]
    else:
        nodes += [node("Expand", ["one_mean", "size"], ["huge"])]
    nodes += [node("ReduceMean", ["huge", "every"], ["summary"], keepdims=0)]
    nodes += [node("Mul", ["summary", "nothing"], ["zero"]), node("Add", ["scaled", "zero"], ["scaled_on"])]
    model = tiny_model()
    graph = model.graph
    own = list(graph.node)
    (place,) = [index for index, one in enumerate(own) if one.op_type == "Softmax"]
    own[place].input[0] = "scaled_on"
    del graph.node[:]
    graph.node.extend([*own[:place], *nodes, *own[place:]])
    graph.initializer.append(helper.make_tensor("every", TensorProto.INT64, [4], [0, 1, 2, 3]))
    graph.initializer.append(helper.make_tensor("nothing", TensorProto.FLOAT, [1], [0.0]))
    if kind in shapes:
        graph.initializer.append(helper.make_tensor("size", TensorProto.INT64, [4], shapes[kind]))
    return model


def write_hostile(path: Path, kind: str) -> Path:
    """Write the file, with hashes that are right."""
    path.write_bytes(write_checked(hostile(kind).SerializeToString(), DOCUMENT))
    return path
