"""ONNX files that pass all static checks, and need excessive memory or time when they run."""

from pathlib import Path

from onnx import ModelProto, NodeProto, TensorProto, helper

from tercet.inference.onnx_file import write_checked
from tests.inference.tiny import DOCUMENT, tiny_model

_TENSOR = 64 * 2**20  # bytes per tensor of `many`


def hostile(kind: str) -> ModelProto:
    """Return the tiny model with additional nodes on which its output depends.

    Args:
        kind: `expand`: one tensor of 32 GB; `constant`: the same, from constants; `many`: 64 tensors of 64 MiB, all
            alive at once; `growing`: a tensor whose size grows with the fourth power of the image size; `slow`: hours
            of computation in little memory; `overflow`: dimensions whose product exceeds 64 bits.
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
    original = list(graph.node)
    (softmax,) = [index for index, entry in enumerate(original) if entry.op_type == "Softmax"]
    original[softmax].input[0] = "scaled_on"
    del graph.node[:]
    graph.node.extend([*original[:softmax], *nodes, *original[softmax:]])
    graph.initializer.append(helper.make_tensor("every", TensorProto.INT64, [4], [0, 1, 2, 3]))
    graph.initializer.append(helper.make_tensor("nothing", TensorProto.FLOAT, [1], [0.0]))
    if kind in shapes:
        graph.initializer.append(helper.make_tensor("size", TensorProto.INT64, [4], shapes[kind]))
    return model


def write_hostile(path: Path, kind: str) -> Path:
    """Write the file with correct checksums."""
    path.write_bytes(write_checked(hostile(kind).SerializeToString(), DOCUMENT))
    return path
