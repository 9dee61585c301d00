"""A graph under construction: nodes by their operator, constants by their values, networks joined in whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike
from onnx import ModelProto, NodeProto, TensorProto, compose, helper, numpy_helper

OPSET = 20
IR_VERSION = 10
"""Version of the file's form: onnxruntime 1.18 and later read it."""
FLOAT, DOUBLE, INT64, BOOL = TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT64, TensorProto.BOOL


class Graph:
    """Nodes and constants in the order in which they were added; values are known by their names."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, TensorProto] = {}
        self._known: dict[tuple[Any, ...], str] = {}
        self._count = 0

    def add(self, operator: str, *inputs: str, outputs: int = 1, **attributes: Any) -> str:
        """Add a node and return the name of its first output; the others end in .1, .2, ..."""
        self._count += 1
        name = f"{operator.lower()}-{self._count}"
        names = [name, *(f"{name}.{index}" for index in range(1, outputs))]
        self.nodes.append(helper.make_node(operator, list(inputs), names, name=name, **attributes))
        return name

    def constant(self, values: ArrayLike, dtype: DTypeLike = np.float32) -> str:
        """Return the name of a constant; equal ones are kept once."""
        array = np.asarray(values, dtype=dtype)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._known:
            self._known[key] = f"constant-{len(self._known) + 1}"
            self.constants[self._known[key]] = numpy_helper.from_array(array, self._known[key])
        return self._known[key]

    def integers(self, *values: int) -> str:
        """Return the name of a constant vector of whole numbers."""
        return self.constant(values, np.int64)

    def cast(self, value: str, kind: int) -> str:
        """Add a conversion to one of the types above."""
        return self.add("Cast", value, to=kind)

    def copy_to(self, value: str, name: str) -> None:
        """Give a value the name of an output."""
        self.nodes.append(helper.make_node("Identity", [value], [name], name=f"output-{name}"))

    def join(self, model: ModelProto, prefix: str, inputs: Sequence[str]) -> list[str]:
        """Add all of another model, its names behind a prefix, and return the names of its outputs.

        Args:
            model: Its inputs are as many as `inputs`.
            prefix: What its names begin with here.
            inputs: What it reads.
        """
        own = compose.add_prefix(model, prefix).graph
        names = {value.name: outer for value, outer in zip(own.input, inputs, strict=True)}
        for node in own.node:
            node.input[:] = [names.get(name, name) for name in node.input]
            self.nodes.append(node)
        self.constants |= {tensor.name: tensor for tensor in own.initializer}
        return [names.get(value.name, value.name) for value in own.output]

    def model(self, name: str, inputs: Sequence[Any], outputs: Sequence[Any]) -> ModelProto:
        """Return the graph as a model between the given inputs and outputs."""
        graph = helper.make_graph(self.nodes, name, list(inputs), list(outputs), list(self.constants.values()))
        imports = [helper.make_opsetid("", OPSET)]
        return helper.make_model(graph, opset_imports=imports, ir_version=IR_VERSION, producer_name="tercet")
