"""Networks of the onnx package, random weights in place of its constant ones, for batches of any size."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper, shape_inference

from ...layer import Array, Size

FOLDER = Path(onnx.__file__).parent / "backend/test/data/light"
Readers = dict[str, tuple[Any, int]]


def randomized(name: str, batch: int = 1) -> onnx.ModelProto:
    """A network x -> y, whose weights are drawn so that values keep their size from layer to layer; y are logits."""
    model = resized(name, batch)
    graph, rng = model.graph, np.random.default_rng(0)
    shapes = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    readers = {name: (node, place) for node in graph.node for place, name in enumerate(node.input)}
    for node in [node for node in graph.node if node.op_type == "ConstantOfShape"]:
        graph.node.remove(node)
        weight = _drawn(rng, readers, node.output[0], tuple(shapes[node.input[0]].tolist()))
        graph.initializer.append(numpy_helper.from_array(weight.astype(np.float32), node.output[0]))
    return model


def resized(name: str, batch: int) -> onnx.ModelProto:
    """The network as it is, but for its batch size, the names of its input and output, and without the softmax of
    thousands of nearly equal scores, which would hide what is wrong."""
    model = onnx.load(FOLDER / f"light_{name}.onnx")
    graph = model.graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    (x,) = (value for value in graph.input if value.name not in constants)
    made = {x.name}
    for node in graph.node:
        if made.intersection(node.input):
            made.update(node.output)
            if node.op_type == "Reshape":  # of one picture: weights, which are no part of what x becomes, stay
                target = constants[node.input[1]].copy()
                target[0] = batch
                graph.initializer.append(numpy_helper.from_array(target, f"{node.output[0]}.shape"))
                node.input[1] = f"{node.output[0]}.shape"
    if graph.node[-1].op_type == "Softmax":
        del graph.node[-1]
    y = graph.node[-1].output[0]
    for node in graph.node:
        node.input[:] = ["x" if name == x.name else name for name in node.input]
        node.output[:] = ["y" if name == y else name for name in node.output]
    x.name = "x"
    x.type.tensor_type.shape.dim[0].dim_value = batch
    graph.output[0].CopyFrom(onnx.ValueInfoProto(name="y"))
    graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    model.ir_version = 8  # before which initializers were inputs, too
    return model


def _drawn(rng: np.random.Generator, readers: Readers, name: str, shape: Size) -> Array:
    """A weight, by what it is for."""
    node, place = readers[name]
    if node.op_type in ("Conv", "Gemm") and place == 1:
        return rng.standard_normal(shape, np.float32) * np.sqrt(2 / np.prod(shape[1:]))
    while node.op_type in ("Unsqueeze", "Reshape"):
        node, place = readers[node.output[0]]
    if node.op_type == "Mul" or (node.op_type == "BatchNormalization" and place in (1, 4)):
        return rng.uniform(0.5, 1.5, shape)
    return rng.standard_normal(shape) * 0.1


def facts(name: str, batch: int) -> dict[str, Any]:
    """Products, parameters and the shape of y, by the shapes that onnx infers."""
    graph = shape_inference.infer_shapes(resized(name, batch)).graph
    values = (*graph.value_info, *graph.input, *graph.output)
    shapes = {value.name: tuple(d.dim_value for d in value.type.tensor_type.shape.dim) for value in values}
    weights = {node.output[0] for node in graph.node if node.op_type == "ConstantOfShape"}
    products = 0
    for node in graph.node:
        if node.op_type in ("Conv", "Gemm"):
            _, *terms = shapes[node.input[1]]
            products += prod(shapes[node.output[0]]) * prod(terms)
    return {
        "multiply_adds": products,
        "parameters": sum(prod(shapes[name]) for name in weights),
        "y_shape": shapes["y"],
    }
