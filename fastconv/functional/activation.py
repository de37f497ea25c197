"""Pointwise activations, each with its backward, and a sum with an activation."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from fastconv.functional._output import check_gradient, check_like, contiguous, output_array
from fastconv.geometry import as_float, check_array, check_choice, check_same_dtype
from fastconv.kernels import rowwise

__all__ = [
    "add",
    "elu",
    "elu_backward",
    "leaky_relu",
    "leaky_relu_backward",
    "relu",
    "relu6",
    "relu6_backward",
    "relu_backward",
    "sigmoid",
    "sigmoid_backward",
    "tanh",
    "tanh_backward",
]

Array = NDArray[Any]

# What a kernel is told of an activation that it ends with: a curve of rowwise (-1: none) and its alpha.
CURVES: dict[str | None, tuple[int, float]] = {
    None: (-1, 0.0),
    "relu": (rowwise.RELU, 0.0),
    "relu6": (rowwise.RELU6, 0.0),
    "leaky_relu": (rowwise.LEAKY_RELU, 0.01),
    "elu": (rowwise.ELU, 1.0),
    "sigmoid": (rowwise.SIGMOID, 0.0),
    "tanh": (rowwise.TANH, 0.0),
    "gelu": (rowwise.GELU, 0.0),
    "gelu_tanh": (rowwise.GELU_TANH, 0.0),
    "silu": (rowwise.SILU, 0.0),
    "hardswish": (rowwise.HARDSWISH, 0.0),
}
ACTIVATIONS = tuple(name for name in CURVES if name)
TOLD_BY_RESULT = ("relu", "relu6", "leaky_relu", "sigmoid", "tanh")  # those whose kernel takes y for its gradient


def curve(activation: str | None) -> tuple[int, float]:
    """What a kernel is told of an activation; raises ValueError for an unknown one."""
    if activation is not None:
        check_choice(activation, "activation", ACTIVATIONS)
    return CURVES[activation]


def add(x: Array, residual: Array, *, activation: str | None = None, out: Array | None = None) -> Array:
    """Sum of two arrays, with an activation.

    ``y = activation(x + residual)``

    Parameters
    ----------
    x, residual : arrays of one shape and dtype, float32 or float64
    activation : None (default), "relu", "relu6", "leaky_relu", "elu", "sigmoid", "tanh", "gelu", "gelu_tanh", "silu" or
        "hardswish"
    out : array like x, default None
        Where to write y.

    Returns
    -------
    array
        y, shape and dtype of x; its gradient by either is that of the activation's input.

    Raises
    ------
    TypeError
        The arrays are not float32 or float64, or their dtypes differ.
    ValueError
        Their shapes differ, activation is unknown, or out differs in shape, is read-only or overlaps one of them.
    """
    check_array(x, "x")
    check_array(residual, "residual")
    check_same_dtype(x=x, residual=residual)
    check_like(residual, "residual", x.shape, "x")
    kind, alpha = curve(activation)
    out = output_array(out, x.shape, x.dtype, x, residual)
    rowwise.add(kind, alpha, contiguous(x), contiguous(residual), out)
    return out


def relu(x: Array, *, out: Array | None = None) -> Array:
    """Rectified linear unit.

    ``y = max(x, 0)``; NaN stays NaN.

    Parameters
    ----------
    x : array of any shape, float32 or float64
    out : array like x, default None
        Where to write y.

    Returns
    -------
    array
        y, shape and dtype of x.

    Raises
    ------
    TypeError
        x is not a float32 or float64 array, or out differs in dtype.
    ValueError
        out differs in shape, is read-only or overlaps x.
    """
    return pointwise(rowwise.RELU, 0.0, x, out)


def relu_backward(grad_y: Array, y: Array, *, out: Array | None = None) -> Array:
    """Gradient of `relu` from its output.

    ``grad_x = grad_y where y > 0, else 0``. Since y > 0 exactly where x > 0, x serves as well as y.

    Parameters
    ----------
    grad_y, y : arrays of one shape and dtype
    out : array like y, default None

    Returns
    -------
    array
        grad_x, shape and dtype of y.

    Raises
    ------
    TypeError, ValueError
        The arrays differ in shape or dtype, or out does not fit them.
    """
    return pointwise_backward(rowwise.RELU, 0.0, grad_y, y, "y", out)


def relu6(x: Array, *, out: Array | None = None) -> Array:
    """Rectified linear unit that saturates at 6.

    ``y = min(max(x, 0), 6)``; NaN stays NaN.

    Parameters
    ----------
    x : array of any shape, float32 or float64
    out : array like x, default None

    Returns
    -------
    array
        y, shape and dtype of x.

    Raises
    ------
    TypeError, ValueError
        x or out as in `relu`.

    Source
    ------
    Krizhevsky: Convolutional Deep Belief Networks on CIFAR-10 (2010).
    """
    return pointwise(rowwise.RELU6, 0.0, x, out)


def relu6_backward(grad_y: Array, y: Array, *, out: Array | None = None) -> Array:
    """Gradient of `relu6` from its output.

    ``grad_x = grad_y where 0 < y < 6, else 0``. Since 0 < y < 6 exactly where 0 < x < 6, x serves as well as y.

    Parameters
    ----------
    grad_y, y : arrays of one shape and dtype
    out : array like y, default None

    Returns
    -------
    array
        grad_x, shape and dtype of y.

    Raises
    ------
    TypeError, ValueError
        The arrays differ in shape or dtype, or out does not fit them.
    """
    return pointwise_backward(rowwise.RELU6, 0.0, grad_y, y, "y", out)


def leaky_relu(x: Array, negative_slope: float = 0.01, *, out: Array | None = None) -> Array:
    """Leaky rectified linear unit.

    ``y = x if x > 0 else negative_slope * x``

    Parameters
    ----------
    x : array of any shape, float32 or float64
    negative_slope : float, default 0.01
    out : array like x, default None

    Returns
    -------
    array
        y, shape and dtype of x.

    Raises
    ------
    TypeError, ValueError
        x or out as in `relu`.

    Source
    ------
    Maas, Hannun, Ng: Rectifier Nonlinearities Improve Neural Network Acoustic Models (2013), section 2.
    """
    return pointwise(rowwise.LEAKY_RELU, as_float(negative_slope, "negative_slope"), x, out)


def leaky_relu_backward(grad_y: Array, x: Array, negative_slope: float = 0.01, *, out: Array | None = None) -> Array:
    """Gradient of `leaky_relu` from its input.

    ``grad_x = grad_y if x > 0 else negative_slope * grad_y``

    Parameters
    ----------
    grad_y, x : arrays of one shape and dtype
    negative_slope : float, default 0.01
    out : array like x, default None

    Returns
    -------
    array
        grad_x, shape and dtype of x.

    Raises
    ------
    TypeError, ValueError
        The arrays differ in shape or dtype, or out does not fit them.
    """
    return pointwise_backward(rowwise.LEAKY_RELU, as_float(negative_slope, "negative_slope"), grad_y, x, "x", out)


def elu(x: Array, alpha: float = 1.0, *, out: Array | None = None) -> Array:
    """Exponential linear unit.

    ``y = x if x > 0 else alpha * (exp(x) - 1)``

    Parameters
    ----------
    x : array of any shape, float32 or float64
    alpha : float, default 1.0
    out : array like x, default None

    Returns
    -------
    array
        y, shape and dtype of x.

    Raises
    ------
    TypeError, ValueError
        x or out as in `relu`.

    Source
    ------
    Clevert, Unterthiner, Hochreiter: Fast and Accurate Deep Network Learning by Exponential Linear Units
    (2016), section 3.
    """
    return pointwise(rowwise.ELU, as_float(alpha, "alpha"), x, out)


def elu_backward(grad_y: Array, x: Array, alpha: float = 1.0, *, out: Array | None = None) -> Array:
    """Gradient of `elu` from its input.

    ``grad_x = grad_y if x > 0 else grad_y * alpha * exp(x)``

    Parameters
    ----------
    grad_y, x : arrays of one shape and dtype
    alpha : float, default 1.0
    out : array like x, default None

    Returns
    -------
    array
        grad_x, shape and dtype of x.

    Raises
    ------
    TypeError, ValueError
        The arrays differ in shape or dtype, or out does not fit them.
    """
    return pointwise_backward(rowwise.ELU, as_float(alpha, "alpha"), grad_y, x, "x", out)


def sigmoid(x: Array, *, out: Array | None = None) -> Array:
    """Logistic function.

    ``y = 1 / (1 + exp(-x))``

    Parameters
    ----------
    x : array of any shape, float32 or float64
    out : array like x, default None

    Returns
    -------
    array
        y, shape and dtype of x.

    Raises
    ------
    TypeError, ValueError
        x or out as in `relu`.
    """
    return pointwise(rowwise.SIGMOID, 0.0, x, out)


def sigmoid_backward(grad_y: Array, y: Array, *, out: Array | None = None) -> Array:
    """Gradient of `sigmoid` from its output.

    ``grad_x = grad_y * y * (1 - y)``

    Parameters
    ----------
    grad_y, y : arrays of one shape and dtype
    out : array like y, default None

    Returns
    -------
    array
        grad_x, shape and dtype of y.

    Raises
    ------
    TypeError, ValueError
        The arrays differ in shape or dtype, or out does not fit them.
    """
    return pointwise_backward(rowwise.SIGMOID, 0.0, grad_y, y, "y", out)


def tanh(x: Array, *, out: Array | None = None) -> Array:
    """Hyperbolic tangent.

    ``y = (exp(x) - exp(-x)) / (exp(x) + exp(-x))``

    Parameters
    ----------
    x : array of any shape, float32 or float64
    out : array like x, default None

    Returns
    -------
    array
        y, shape and dtype of x.

    Raises
    ------
    TypeError, ValueError
        x or out as in `relu`.
    """
    return pointwise(rowwise.TANH, 0.0, x, out)


def tanh_backward(grad_y: Array, y: Array, *, out: Array | None = None) -> Array:
    """Gradient of `tanh` from its output.

    ``grad_x = grad_y * (1 - y^2)``

    Parameters
    ----------
    grad_y, y : arrays of one shape and dtype
    out : array like y, default None

    Returns
    -------
    array
        grad_x, shape and dtype of y.

    Raises
    ------
    TypeError, ValueError
        The arrays differ in shape or dtype, or out does not fit them.
    """
    return pointwise_backward(rowwise.TANH, 0.0, grad_y, y, "y", out)


def pointwise(kind: int, alpha: float, x: Array, out: Array | None) -> Array:
    """A curve of rowwise, element by element."""
    check_array(x, "x")
    out = output_array(out, x.shape, x.dtype, x)
    rowwise.activate(kind, alpha, contiguous(x), out)
    return out


def pointwise_backward(kind: int, alpha: float, grad_y: Array, saved: Array, name: str, out: Array | None) -> Array:
    """Gradient of a curve by x, from what was saved, of that name."""
    check_saved(grad_y, saved, name)
    out = output_array(out, saved.shape, saved.dtype, grad_y, saved)
    rowwise.activate_backward(kind, alpha, contiguous(grad_y), contiguous(saved), out)
    return out


def check_saved(grad_y: Array, saved: Array, name: str) -> None:
    """Check what an activation was saved for its gradient, of that name, and a gradient of its shape."""
    check_array(saved, name)
    check_gradient(grad_y, saved.shape, name, **{name: saved})
