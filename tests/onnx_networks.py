"""Whole networks of onnx's wheel with random weights in place of its constant ones, and what PyTorch makes of them."""

from pathlib import Path

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import numpy_helper

FOLDER = Path(onnx.__file__).parent / "backend/test/data/light"


def randomized(name):
    """A network whose weights are drawn, so that values keep their size from layer to layer; its output are logits."""
    model = onnx.load(FOLDER / f"light_{name}.onnx")
    graph, rng = model.graph, np.random.default_rng(0)
    shapes = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    readers = {name: (node, place) for node in graph.node for place, name in enumerate(node.input)}
    for node in [node for node in graph.node if node.op_type == "ConstantOfShape"]:
        graph.node.remove(node)
        weight = drawn(rng, readers, node.output[0], tuple(shapes[node.input[0]].tolist()))
        graph.initializer.append(numpy_helper.from_array(weight.astype(np.float32), node.output[0]))
    if graph.node[-1].op_type == "Softmax":  # of thousands of nearly equal scores: it would hide what is wrong
        logits = graph.node[-1].input[0]
        del graph.node[-1]
        graph.output[0].CopyFrom(onnx.ValueInfoProto(name=logits))
    model.ir_version = 8  # before which initializers were inputs, too
    return model


def drawn(rng, readers, name, shape):
    """A weight, by what it is for."""
    node, place = readers[name]
    if node.op_type in ("Conv", "Gemm") and place == 1:
        return rng.standard_normal(shape, np.float32) * np.sqrt(2 / np.prod(shape[1:]))
    while node.op_type in ("Unsqueeze", "Reshape"):
        node, place = readers[node.output[0]]
    if node.op_type == "Mul" or (node.op_type == "BatchNormalization" and place in (1, 4)):
        return rng.uniform(0.5, 1.5, shape)
    return rng.standard_normal(shape) * 0.1


def by_torch(model, x):
    """The output for x, node by node, in float32."""
    values = {tensor.name: torch.from_numpy(numpy_helper.to_array(tensor).copy()) for tensor in model.graph.initializer}
    (data,) = [value.name for value in model.graph.input if value.name not in values]
    values[data] = torch.from_numpy(x)
    for node in model.graph.node:
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        inputs = [values[name] for name in node.input]
        values[node.output[0]] = OPERATORS[node.op_type](attributes, *inputs)
    return values[model.graph.output[0].name].numpy()


def padded(x, attributes, value):
    """x with pads a side, and with what ceil_mode lets hang over."""
    pads = attributes.get("pads", [0] * 4)
    return F.pad(x, (pads[1], pads[3], pads[0], pads[2]), value=value)


def conv(attributes, x, weight, bias=None):
    return F.conv2d(
        padded(x, attributes, 0), weight, bias, attributes.get("strides", 1), 0, attributes.get("dilations", 1),
        attributes.get("group", 1),
    )  # fmt: skip


def max_pool(attributes, x):
    return F.max_pool2d(padded(x, attributes, -torch.inf), attributes["kernel_shape"], attributes.get("strides", 1))


def average_pool(attributes, x):
    assert not attributes.get("count_include_pad", 0)
    window = attributes["kernel_shape"], attributes.get("strides", 1)
    counted = F.avg_pool2d(padded(torch.ones_like(x), attributes, 0), *window)
    return F.avg_pool2d(padded(x, attributes, 0), *window) / counted


def gemm(attributes, a, b, c):
    assert set(attributes) <= {"transB"}
    return a @ (b.T if attributes.get("transB") else b) + c


OPERATORS = {
    "Add": lambda _, a, b: a + b,
    "AveragePool": average_pool,
    "BatchNormalization": lambda a, x, s, b, m, v: F.batch_norm(x, m, v, s, b, eps=a.get("epsilon", 1e-5)),
    "Concat": lambda a, *xs: torch.cat(xs, a["axis"]),
    "Conv": conv,
    "Dropout": lambda _, x: x,
    "Gemm": gemm,
    "GlobalAveragePool": lambda _, x: x.mean((2, 3), keepdim=True),
    "LRN": lambda a, x: F.local_response_norm(x, a["size"], a["alpha"], a["beta"], a.get("bias", 1.0)),
    "MaxPool": max_pool,
    "Mul": lambda _, a, b: a * b,
    "Relu": lambda _, x: F.relu(x),
    "Reshape": lambda _, x, shape: x.reshape([x.shape[i] if n == 0 else n for i, n in enumerate(shape.tolist())]),
    "Sum": lambda _, *xs: sum(xs),
    "Transpose": lambda a, x: x.permute(a["perm"]),
    "Unsqueeze": lambda a, x: x.reshape(*x.shape, *(1,) * len(a["axes"])),
}
