"""Activations, arithmetic and softmax: fastconv's kernels where there is one, else NumPy."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, reduce
from math import inf, prod
from typing import Any

import numpy as np

from fastconv import functional as F
from fastconv.backends.onnx.erf import erf
from fastconv.backends.onnx.graph import Node, is_float
from fastconv.backends.onnx.kernels import Array, Constants, Kernel, floating, operator, widened
from fastconv.backends.onnx.layout import as_first, as_lies, lies_last, new

HOW = "rowwise"
FUSED: dict[str, Callable[..., Array]] = {
    "relu": F.relu,
    "relu6": F.relu6,
    "leaky_relu": F.leaky_relu,
    "elu": F.elu,
    "sigmoid": F.sigmoid,
    "tanh": F.tanh,
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "silu": F.silu,
    "hardswish": F.hardswish,
}


def activate(y: Array, activation: str | None) -> Array:
    """What a convolution's epilogue does, as a step of its own."""
    return y if activation is None else _as_it_lies(FUSED[activation], y)


def _as_it_lies(function: Callable[[Array], Array], x: Array) -> Array:
    """function(x) for a function of each element, which makes a C-contiguous array."""
    last = lies_last(x)
    return as_first(function(as_lies(x, last)), last)


def activation_of(node: Node, constants: Constants) -> str | None:
    """The name of the epilogue that does what a node does, or None."""
    if node.op in ("Relu", "Sigmoid", "Tanh", "Silu", "HardSwish"):
        return node.op.lower()
    if node.op == "Gelu":
        return {"none": "gelu", "tanh": "gelu_tanh"}.get(node.get("approximate", "none"))
    if node.op == "LeakyRelu" and np.float32(node.get("alpha", 0.01)) == np.float32(0.01):
        return "leaky_relu"
    if node.op == "Elu" and node.get("alpha", 1.0) == 1:
        return "elu"
    if node.op == "Clip":
        return {(0.0, 6.0): "relu6", (0.0, inf): "relu"}.get(_limits(node, constants) or (inf, inf))
    return None


def _limits(node: Node, constants: Constants) -> tuple[float, float] | None:
    """What a Clip clips to, where it is known ahead."""
    if node.opset < 11:
        return float(node.get("min", -inf)), float(node.get("max", inf))
    low, high = (constants.get(node.input(position)) for position in (1, 2))
    if (low is None and node.input(1)) or (high is None and node.input(2)):
        return None
    return -inf if low is None else float(low), inf if high is None else float(high)


@operator("Relu", "Sigmoid", "Tanh", "Elu", "LeakyRelu")
def _activation(node: Node, constants: Constants) -> Kernel:
    defaults = {"Elu": 1.0, "LeakyRelu": 0.01}
    alpha = (float(node.get("alpha", defaults[node.op])),) if node.op in defaults else ()
    function = {"Relu": F.relu, "Sigmoid": F.sigmoid, "Tanh": F.tanh, "Elu": F.elu, "LeakyRelu": F.leaky_relu}[node.op]
    of_floats = floating(lambda x: _as_it_lies(lambda lying: function(lying, *alpha), x))

    def run(x: Array) -> Array:
        return np.maximum(x, 0) if node.op == "Relu" and x.dtype.kind in "iu" else of_floats(x)

    return Kernel(run, HOW)


@operator("PRelu")
def _prelu(node: Node, constants: Constants) -> Kernel:
    def run(x: Array, slope: Array) -> Array:
        if node.opset < 7 and slope.ndim == 1 and x.ndim > 2:  # one a channel, before there was broadcasting
            slope = slope.reshape(-1, *(1,) * (x.ndim - 2))
        return np.where(x < 0, x * slope, x).astype(x.dtype)

    return Kernel(run)


@operator("Clip")
def _clip(node: Node, constants: Constants) -> Kernel:
    limits = _limits(node, constants) if node.opset < 11 else None

    def run(x: Array, low: Array | None = None, high: Array | None = None, *, reusable: Any = ()) -> Array:
        if limits is not None:
            low, high = (np.asarray(limit, x.dtype) for limit in limits)
        y = place(x.shape, x.dtype, (x,), reusable)
        if low is None and high is None:
            np.copyto(y, x)
            return y
        if low is not None:
            np.maximum(x, low, out=y)
        return y if high is None else np.minimum(x if low is None else y, high, out=y)

    return Kernel(run, overwrites=True)


def place(shape: tuple[int, ...], dtype: np.dtype[Any], inputs: tuple[Any, ...], reusable: Any) -> Array:
    """Where a result goes: into an input that nobody reads again, if it is like the result, else into new memory."""
    for position in reusable:
        x = inputs[position]
        if x.shape == shape and x.dtype == dtype and x.flags.writeable and (x.flags.c_contiguous or lies_last(x)):
            found: Array = x
            return found
    return new(shape, dtype, *inputs)


@operator("Add", "Sub", "Mul", "Div")
def _arithmetic(node: Node, constants: Constants) -> Kernel:
    function = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide}[node.op]

    def run(a: Array, b: Array, *, reusable: Any = ()) -> Array:
        b = _aligned(node, a, b)
        if a.dtype != b.dtype:
            raise TypeError(f"A and B must have one dtype, got {a.dtype} and {b.dtype}")
        if node.op == "Div" and not is_float(a):
            return _truncated_quotient(a, b)
        shape = np.broadcast_shapes(a.shape, b.shape)
        return np.asarray(function(a, b, out=place(shape, a.dtype, (a, b), reusable)))

    return Kernel(run, overwrites=True)


def _aligned(node: Node, a: Array, b: Array) -> Array:
    """b with the axes that a broadcast by `axis`, of opsets below 7, gives it."""
    if node.opset >= 7 or not node.get("broadcast", 0):
        return b
    axis = node.get("axis", a.ndim - b.ndim)
    axis += a.ndim if axis < 0 else 0
    return b.reshape((*b.shape, *(1,) * (a.ndim - axis - b.ndim)))


def _truncated_quotient(a: Array, b: Array) -> Array:
    """Of integers, rounded towards zero."""
    quotient = np.floor_divide(a, b)
    return np.asarray(quotient + ((quotient < 0) & (quotient * b != a)), a.dtype)


@operator("Sum", "Max", "Min", "Mean")
def _of_many(node: Node, constants: Constants) -> Kernel:
    function = {"Max": np.maximum, "Min": np.minimum}.get(node.op, np.add)

    def run(*arrays: Array) -> Array:
        if len(arrays) == 1:
            return arrays[0].copy()
        shape = np.broadcast_shapes(*(x.shape for x in arrays))
        y = new(shape, arrays[0].dtype, *arrays)
        function(arrays[0], arrays[1], out=y)
        reduce(lambda so_far, x: function(so_far, x, out=y), arrays[2:], y)
        return np.divide(y, len(arrays), out=y) if node.op == "Mean" else y

    return Kernel(run)


@operator("Sqrt", "Exp", "Log", "Neg", "Abs", "Reciprocal", "Floor", "Ceil")
def _ufunc(node: Node, constants: Constants) -> Kernel:
    names = {"Neg": "negative", "Abs": "absolute"}
    function = getattr(np, names.get(node.op, node.op.lower()))

    def run(x: Array, *, reusable: Any = ()) -> Array:
        return np.asarray(function(x, out=place(x.shape, x.dtype, (x,), reusable)))

    return Kernel(run, overwrites=True)


@operator("Pow")
def _pow(node: Node, constants: Constants) -> Kernel:
    known = constants.get(node.input(1))
    exponent = float(known.reshape(())) if isinstance(known, np.ndarray) and known.size == 1 else None
    special = {2.0: np.square, 0.5: np.sqrt, 1.0: np.positive, -1.0: np.reciprocal}

    def run(x: Array, y: Array) -> Array:
        if exponent in special and is_float(x) and y.ndim <= x.ndim:
            return special[exponent](x)
        return np.asarray(np.power(x, _aligned(node, x, y)), x.dtype)

    return Kernel(run)


@operator("Erf")
def _erf(node: Node, constants: Constants) -> Kernel:
    return Kernel(floating(lambda x: _as_it_lies(erf, x)))


@operator("Gelu", "Silu", "HardSwish")
def _gated(node: Node, constants: Constants) -> Kernel:
    """Silu, x * sigmoid(x), is made by passes."""
    name = activation_of(node, constants)
    assert name is not None
    return Kernel(floating(lambda x: activate(x, name)), HOW)


@operator("HardSigmoid")
def _hard_sigmoid_of(node: Node, constants: Constants) -> Kernel:
    return Kernel(floating(partial(_hard_sigmoid, alpha=node.get("alpha", 0.2), beta=node.get("beta", 0.5))))


def _hard_sigmoid(x: Array, alpha: float, beta: float) -> Array:
    y = np.multiply(x, x.dtype.type(alpha), out=new(x.shape, x.dtype, x))
    y += x.dtype.type(beta)
    return np.clip(y, 0, 1, out=y)


@operator("Softmax", "LogSoftmax")
def _softmax(node: Node, constants: Constants) -> Kernel:
    function = F.softmax if node.op == "Softmax" else F.log_softmax
    axis = node.get("axis", -1 if node.opset >= 13 else 1)

    @floating
    def run(x: Array) -> Array:
        if not -x.ndim <= axis < max(x.ndim, 1):
            raise ValueError(f"attribute axis must be one of the {x.ndim} axes of its input, got {axis}")
        if node.opset >= 13:
            return function(x, axis)
        rows = x.reshape(prod(x.shape[: axis % x.ndim]), -1)  # all axes from this one on are one
        return function(rows).reshape(x.shape)

    return Kernel(run, HOW)


def scalar(array: Any) -> float | None:
    """The only element of a constant, or None."""
    return float(widened(array).reshape(())) if is_float(array) and array.size == 1 else None
