"""Activations. A backward takes the result where that suffices, else x."""

import math
from collections.abc import Callable
from functools import partial

import numpy as np

from fastconv.reference.windows import Array


def relu(x: Array) -> Array:
    """max(x, 0)."""
    return np.maximum(x, 0)


def relu_backward(grad_y: Array, y: Array) -> Array:
    """Gradient of `relu` by x, from its result (or from x)."""
    return np.where(y <= 0, 0, grad_y)


def relu6(x: Array) -> Array:
    """min(max(x, 0), 6)."""
    return np.clip(x, 0, 6)


def relu6_backward(grad_y: Array, y: Array) -> Array:
    """Gradient of `relu6` by x, from its result (or from x)."""
    return np.where((y <= 0) | (y >= 6), 0, grad_y)


def leaky_relu(x: Array, negative_slope: float = 0.01) -> Array:
    """x where x > 0, else negative_slope * x."""
    return np.where(x > 0, x, negative_slope * x)


def leaky_relu_backward(grad_y: Array, x: Array, negative_slope: float = 0.01) -> Array:
    """Gradient of `leaky_relu` by x."""
    return np.where(x > 0, grad_y, negative_slope * grad_y)


def elu(x: Array, alpha: float = 1.0) -> Array:
    """x where x > 0, else alpha * (exp(x) - 1)."""
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def elu_backward(grad_y: Array, x: Array, alpha: float = 1.0) -> Array:
    """Gradient of `elu` by x."""
    return np.where(x > 0, grad_y, grad_y * alpha * np.exp(np.minimum(x, 0)))


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)), by exp(-|x|), which cannot overflow."""
    e = np.exp(-np.abs(x))
    return np.where(x < 0, e, 1) / (1 + e)


def sigmoid_backward(grad_y: Array, y: Array) -> Array:
    """Gradient of `sigmoid` by x, from its result."""
    return grad_y * y * (1 - y)


def tanh(x: Array) -> Array:
    """The hyperbolic tangent."""
    return np.tanh(x)


def tanh_backward(grad_y: Array, y: Array) -> Array:
    """Gradient of `tanh` by x, from its result."""
    return grad_y * (1 - y * y)


def gelu(x: Array, approximate: str = "none") -> Array:
    """x times the normal distribution's probability of less than x, or times a sigmoid near it."""
    return x * _gelu_gate(x, approximate)[0]


def gelu_backward(grad_y: Array, x: Array, approximate: str = "none") -> Array:
    """Gradient of `gelu` by x."""
    gate, slope = _gelu_gate(x, approximate)
    return grad_y * (gate + x * slope)


def _gelu_gate(x: Array, approximate: str) -> tuple[Array, Array]:
    """The gate and its derivative."""
    if approximate == "tanh":
        gate, u = sigmoid(np.sqrt(8 / np.pi) * (x + 0.044715 * x**3)), np.sqrt(8 / np.pi) * (1 + 3 * 0.044715 * x**2)
        return gate, gate * (1 - gate) * u
    erfc = np.frompyfunc(math.erfc, 1, 1)
    return 0.5 * erfc(-x / np.sqrt(2)).astype(x.dtype), np.exp(-x * x / 2) / np.sqrt(2 * np.pi)


def silu(x: Array) -> Array:
    """x * sigmoid(x)."""
    return x * sigmoid(x)


def silu_backward(grad_y: Array, x: Array) -> Array:
    """Gradient of `silu` by x."""
    return grad_y * sigmoid(x) * (1 + x * (1 - sigmoid(x)))


def hardswish(x: Array) -> Array:
    """x * relu6(x + 3) / 6."""
    return x * relu6(x + 3) / 6


def hardswish_backward(grad_y: Array, x: Array) -> Array:
    """Gradient of `hardswish` by x."""
    return grad_y * np.where(x <= -3, 0, np.where(x >= 3, 1, x / 3 + 0.5))


def softmax(x: Array, axis: int = -1) -> Array:
    """exp(x) / sum(exp(x)) along the axis; the largest x is subtracted first, so that nothing overflows."""
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def softmax_backward(grad_y: Array, y: Array, axis: int = -1) -> Array:
    """Gradient of `softmax` by x, from its result."""
    return y * (grad_y - (grad_y * y).sum(axis, keepdims=True))


def log_softmax(x: Array, axis: int = -1) -> Array:
    """log(softmax(x)), without taking the logarithm of a rounded 0."""
    shifted = x - x.max(axis, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis, keepdims=True))


def log_softmax_backward(grad_y: Array, y: Array, axis: int = -1) -> Array:
    """Gradient of `log_softmax` by x, from its result."""
    return grad_y - np.exp(y) * grad_y.sum(axis, keepdims=True)


# name -> (the function, its backward, whether that takes x)
BY_NAME: dict[str, tuple[Callable[..., Array], Callable[..., Array], bool]] = {
    "relu": (relu, relu_backward, False),
    "relu6": (relu6, relu6_backward, False),
    "leaky_relu": (leaky_relu, leaky_relu_backward, True),
    "elu": (elu, elu_backward, True),
    "sigmoid": (sigmoid, sigmoid_backward, False),
    "tanh": (tanh, tanh_backward, False),
    "gelu": (gelu, gelu_backward, True),
    "gelu_tanh": (partial(gelu, approximate="tanh"), partial(gelu_backward, approximate="tanh"), True),
    "silu": (silu, silu_backward, True),
    "hardswish": (hardswish, hardswish_backward, True),
}


def activate(x: Array, activation: str | None) -> Array:
    """The activation of x, by name."""
    return x if activation is None else BY_NAME[activation][0](x)


def activate_backward(grad_y: Array, x: Array, activation: str | None) -> Array:
    """Gradient by an activation's x, by name."""
    if activation is None:
        return grad_y
    function, backward, takes_x = BY_NAME[activation]
    return backward(grad_y, x if takes_x else function(x))


def add(x: Array, residual: Array, activation: str | None = None) -> Array:
    """activation(x + residual)."""
    return activate(x + residual, activation)
