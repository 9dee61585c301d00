"""Builder for ONNX graphs: nodes, constants, and embedded models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike
from onnx import ModelProto, NodeProto, TensorProto, compose, helper, numpy_helper

OPSET = 20
IR_VERSION = 10
"""Version of the file format, read by onnxruntime 1.18 and later."""
FLOAT, DOUBLE, INT64 = TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT64


class Graph:
    """Nodes and constants in the order in which they were added; values are referred to by name."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, TensorProto] = {}
        self._constant_names: dict[tuple[Any, ...], str] = {}
        self._count = 0

    def add(self, operator: str, *inputs: str, outputs: int = 1, **attributes: Any) -> str:
        """Add a node and return the name of its first output; the others end in .1, .2, ..."""
        self._count += 1
        name = f"{operator.lower()}-{self._count}"
        names = [name, *(f"{name}.{index}" for index in range(1, outputs))]
        self.nodes.append(helper.make_node(operator, list(inputs), names, name=name, **attributes))
        return name

    def constant(self, values: ArrayLike, dtype: DTypeLike = np.float32) -> str:
        """Return the name of a constant; equal constants are stored once."""
        array = np.asarray(values, dtype=dtype)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constant_names:
            name = self._constant_names[key] = f"constant-{len(self._constant_names) + 1}"
            self.constants[name] = numpy_helper.from_array(array, name)
        return self._constant_names[key]

    def integers(self, *values: int) -> str:
        """Return the name of a constant int64 vector."""
        return self.constant(values, np.int64)

    def cast(self, value: str, dtype: int) -> str:
        """Add a Cast to one of the types above."""
        return self.add("Cast", value, to=dtype)

    def copy_to(self, value: str, name: str) -> None:
        """Give a value the name of an output."""
        self.nodes.append(helper.make_node("Identity", [value], [name], name=f"output-{name}"))

    def embed(self, model: ModelProto, prefix: str, inputs: Sequence[str]) -> list[str]:
        """Add all nodes of a model, with prefixed names, and return the names of its outputs.

        Args:
            model: Has as many inputs as `inputs`.
            prefix: Prefix of its names in this graph.
            inputs: Values that replace its inputs.
        """
        subgraph = compose.add_prefix(model, prefix).graph
        names = {value.name: outer for value, outer in zip(subgraph.input, inputs, strict=True)}
        for node in subgraph.node:
            node.input[:] = [names.get(name, name) for name in node.input]
            self.nodes.append(node)
        self.constants |= {tensor.name: tensor for tensor in subgraph.initializer}
        return [names.get(value.name, value.name) for value in subgraph.output]

    def model(self, name: str, inputs: Sequence[Any], outputs: Sequence[Any]) -> ModelProto:
        """Return the graph as a model with the given inputs and outputs."""
        graph = helper.make_graph(self.nodes, name, list(inputs), list(outputs), list(self.constants.values()))
        imports = [helper.make_opsetid("", OPSET)]
        return helper.make_model(graph, opset_imports=imports, ir_version=IR_VERSION, producer_name="tercet")
