"""What PyTorch makes of whole networks of onnx's wheel, whose weights the benchmarks draw."""

import onnx
import torch
import torch.nn.functional as F
from onnx import numpy_helper


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
