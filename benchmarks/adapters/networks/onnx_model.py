"""A network as an ONNX model with constant weights; batch normalizations are left for an engine to fold."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from fastconv.layers import (
    AvgPool2d,
    BatchNorm2d,
    Conv2d,
    ConvTranspose2d,
    Flatten,
    GlobalAvgPool,
    Layer,
    Linear,
    MaxPool2d,
)

from ...layer import Array, Size
from ...steps import Step, steps, window
from ..models import serialise

OPERATORS = {"add": "Add", "relu": "Relu", "relu6": "Clip", "leaky_relu": "LeakyRelu", "elu": "Elu",
             "sigmoid": "Sigmoid", "tanh": "Tanh"}  # fmt: skip


def model(network: Layer, x_shape: Size) -> bytes:
    """The serialised model of a channels_first network, x -> y."""
    constants: list[TensorProto] = []
    nodes: list[NodeProto] = []
    todo = steps(network, x_shape[2:])
    names = ["x", *(f"v{number}" for number in range(1, len(todo))), "y"]
    for step, name in zip(todo, names[1:], strict=True):
        given = [names[i] for i in step.inputs]
        for key, array in _constants(step.operator):
            constants.append(numpy_helper.from_array(array, f"{name}.{key}"))
            given.append(constants[-1].name)
        nodes += _nodes(step, given, name)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, x_shape)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    return serialise(helper.make_graph(nodes, "network", [x], [y], constants))


def _constants(operator: Layer | str) -> Iterator[tuple[str, Array]]:
    """What follows the values that an operator of ONNX takes, in its order: parameters, or the limits of a clip."""
    match operator:
        case Conv2d() | ConvTranspose2d() | Linear():
            constants = {"weight": operator.weight, "bias": operator.bias}
        case BatchNorm2d():
            names = ("weight", "bias", "running_mean", "running_var")
            constants = {name: getattr(operator, name) for name in names}
        case "relu6":
            constants = {"least": np.array(0, np.float32), "most": np.array(6, np.float32)}
        case _:
            return
    yield from ((name, array) for name, array in constants.items() if array is not None)


def _nodes(step: Step, given: list[str], name: str) -> list[NodeProto]:
    operator = step.operator
    match operator:
        case Conv2d():
            return [helper.make_node("Conv", given, [name], group=operator.groups, **_window(operator))]
        case ConvTranspose2d():
            extra = {"group": operator.groups, "output_padding": operator.output_padding}
            return [helper.make_node("ConvTranspose", given, [name], **extra, **_window(operator))]
        case BatchNorm2d():
            return [helper.make_node("BatchNormalization", given, [name], epsilon=operator.eps)]
        case Linear():
            return [helper.make_node("Gemm", given, [name], transB=1)]
        case MaxPool2d():
            return [helper.make_node("MaxPool", given, [name], ceil_mode=_ceil(operator), **_window(operator))]
        case AvgPool2d():
            return [_average(operator, given, name)]
        case GlobalAvgPool():
            means = helper.make_node("GlobalAveragePool", given, [f"{name}.means"])
            return [means, helper.make_node("Flatten", means.output, [name])]
        case Flatten():
            return [helper.make_node("Flatten", given, [name])]
        case "concatenate":
            return [helper.make_node("Concat", given, [name], axis=1)]
    return [helper.make_node(OPERATORS[str(operator)], given, [name])]


def _average(pool: AvgPool2d, given: list[str], name: str) -> NodeProto:
    attributes = _window(pool) | {"ceil_mode": _ceil(pool), "count_include_pad": 1}
    return helper.make_node("AveragePool", given, [name], **attributes)


def _ceil(pool: MaxPool2d | AvgPool2d) -> int:
    return int(window(pool).ceil_mode)


def _window(layer: Layer) -> dict[str, Any]:
    kernel, stride, padding, dilation, _ = window(layer)
    befores, afters = zip(*padding, strict=True)
    return {"kernel_shape": kernel, "strides": stride, "pads": (*befores, *afters), "dilations": dilation}
