"""A layer as an ONNX model with constant weights, for the engines that run such."""

from __future__ import annotations

from typing import Any

from onnx import GraphProto, TensorProto, helper, numpy_helper

from ..layer import Layer
from ..shapes import out_shape
from ..task import Operands, Task
from . import Unsupported

OPERATORS = {"conv": "Conv", "conv_transpose": "ConvTranspose", "max_pool": "MaxPool", "avg_pool": "AveragePool"}
OPSET, IR_VERSION = 21, 10
ELEMENTS = {"float32": TensorProto.FLOAT, "float64": TensorProto.DOUBLE}


def model(task: Task, operands: Operands) -> bytes:
    """The serialised model of a layer's forward pass, x -> y, channels first.

    Raises
    ------
    Unsupported
        Backward.
    """
    if task.backward:
        raise Unsupported("backward")
    layer, element = task.layer, ELEMENTS[task.dtype]
    given = {"w": operands.weight, "b": operands.bias}
    constants = [numpy_helper.from_array(array, name) for name, array in given.items() if array is not None]
    node = helper.make_node(OPERATORS[layer.operator], ["x", *(c.name for c in constants)], ["y"], **_attributes(layer))
    x = helper.make_tensor_value_info("x", element, layer.x_shape)
    y = helper.make_tensor_value_info("y", element, out_shape(layer))
    return serialise(helper.make_graph([node], "layer", [x], [y], constants))


def serialise(graph: GraphProto) -> bytes:
    """The model of a graph."""
    opset = helper.make_opsetid("", OPSET)
    serialised: bytes = helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION).SerializeToString()
    return serialised


def _attributes(layer: Layer) -> dict[str, Any]:
    befores, afters = zip(*layer.padding, strict=True)
    attributes: dict[str, Any] = {"kernel_shape": layer.kernel, "strides": layer.stride, "pads": (*befores, *afters)}
    if layer.operator != "avg_pool":
        attributes["dilations"] = layer.dilation
    if layer.operator == "avg_pool":
        attributes["count_include_pad"] = 1
    if layer.pools:
        return attributes | {"ceil_mode": int(layer.ceil_mode)}
    if layer.operator == "conv_transpose":
        attributes["output_padding"] = layer.output_padding
    return attributes | {"group": layer.groups}
