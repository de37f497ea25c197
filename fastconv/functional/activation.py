"""Pointwise activations and the softmax family, each with its backward."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastconv.functional._output import check_like, output_array
from fastconv.geometry import as_int, check_array, check_same_dtype

__all__ = [
    "elu",
    "elu_backward",
    "leaky_relu",
    "leaky_relu_backward",
    "log_softmax",
    "log_softmax_backward",
    "relu",
    "relu_backward",
    "sigmoid",
    "sigmoid_backward",
    "softmax",
    "softmax_backward",
    "tanh",
    "tanh_backward",
]

Array = NDArray[Any]


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
    out = _output_like(x, out)
    return np.maximum(x, 0, out=out)


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
    out = _gradient_output(grad_y, y, "y", out)
    out.fill(0)
    np.copyto(out, grad_y, where=~(y <= 0))
    return out


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
    out = _output_like(x, out)
    np.multiply(x, x.dtype.type(negative_slope), out=out)
    np.copyto(out, x, where=x > 0)
    return out


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
    out = _gradient_output(grad_y, x, "x", out)
    np.multiply(grad_y, x.dtype.type(negative_slope), out=out)
    np.copyto(out, grad_y, where=x > 0)
    return out


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
    out = _output_like(x, out)
    np.minimum(x, 0, out=out)
    np.expm1(out, out=out)
    np.multiply(out, x.dtype.type(alpha), out=out)
    np.copyto(out, x, where=x > 0)
    return out


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
    out = _gradient_output(grad_y, x, "x", out)
    np.minimum(x, 0, out=out)
    np.exp(out, out=out)
    np.multiply(out, x.dtype.type(alpha), out=out)
    np.multiply(out, grad_y, out=out)
    np.copyto(out, grad_y, where=x > 0)
    return out


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
    out = _output_like(x, out)
    np.copysign(x, -1, out=out)
    np.exp(out, out=out)
    numerator = np.where(x < 0, out, 1)
    np.add(out, 1, out=out)
    return np.divide(numerator, out, out=out)


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
    out = _gradient_output(grad_y, y, "y", out)
    np.subtract(1, y, out=out)
    np.multiply(out, y, out=out)
    return np.multiply(out, grad_y, out=out)


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
    out = _output_like(x, out)
    return np.tanh(x, out=out)


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
    out = _gradient_output(grad_y, y, "y", out)
    np.square(y, out=out)
    np.subtract(1, out, out=out)
    return np.multiply(out, grad_y, out=out)


def softmax(x: Array, axis: int = -1, *, out: Array | None = None) -> Array:
    """Softmax along one axis.

    ``y_i = exp(x_i - m) / sum_j exp(x_j - m)``, ``m = max_j x_j``, so that no finite logit overflows.

    Parameters
    ----------
    x : array of one or more dimensions, float32 or float64
    axis : int, default -1
    out : array like x, default None

    Returns
    -------
    array
        y, shape and dtype of x; a slice of -inf alone, or one with +inf or NaN, is NaN as in PyTorch.

    Raises
    ------
    TypeError, ValueError
        axis is not one of x; x or out as in `relu`.
    """
    out = _output_like(x, out)
    axis = _check_axis(axis, x)
    if x.size == 0:
        return out
    with np.errstate(invalid="ignore"):  # inf - inf
        np.subtract(x, x.max(axis=axis, keepdims=True), out=out)
    np.exp(out, out=out)
    return np.divide(out, out.sum(axis=axis, keepdims=True), out=out)


def softmax_backward(grad_y: Array, y: Array, axis: int = -1, *, out: Array | None = None) -> Array:
    """Gradient of `softmax` from its output.

    ``grad_x_i = y_i * (grad_y_i - sum_j grad_y_j y_j)``

    Parameters
    ----------
    grad_y, y : arrays of one shape and dtype
    axis : int, default -1
    out : array like y, default None

    Returns
    -------
    array
        grad_x, shape and dtype of y.

    Raises
    ------
    TypeError, ValueError
        The arrays differ in shape or dtype, axis is not one of theirs, or out does not fit them.
    """
    out = _gradient_output(grad_y, y, "y", out)
    axis = _check_axis(axis, y)
    np.multiply(grad_y, y, out=out)
    total = out.sum(axis=axis, keepdims=True)
    np.subtract(grad_y, total, out=out)
    return np.multiply(out, y, out=out)


def log_softmax(x: Array, axis: int = -1, *, out: Array | None = None) -> Array:
    """Logarithm of `softmax`, without forming it.

    ``y_i = x_i - m - log sum_j exp(x_j - m)``, ``m = max_j x_j``

    Parameters
    ----------
    x : array of one or more dimensions, float32 or float64
    axis : int, default -1
    out : array like x, default None

    Returns
    -------
    array
        y, shape and dtype of x.

    Raises
    ------
    TypeError, ValueError
        axis is not one of x; x or out as in `relu`.
    """
    out = _output_like(x, out)
    axis = _check_axis(axis, x)
    if x.size == 0:
        return out
    with np.errstate(invalid="ignore"):  # inf - inf
        np.subtract(x, x.max(axis=axis, keepdims=True), out=out)
        return np.subtract(out, np.log(np.exp(out).sum(axis=axis, keepdims=True)), out=out)


def log_softmax_backward(grad_y: Array, y: Array, axis: int = -1, *, out: Array | None = None) -> Array:
    """Gradient of `log_softmax` from its output.

    ``grad_x_i = grad_y_i - exp(y_i) * sum_j grad_y_j``

    Parameters
    ----------
    grad_y, y : arrays of one shape and dtype
    axis : int, default -1
    out : array like y, default None

    Returns
    -------
    array
        grad_x, shape and dtype of y.

    Raises
    ------
    TypeError, ValueError
        The arrays differ in shape or dtype, axis is not one of theirs, or out does not fit them.
    """
    out = _gradient_output(grad_y, y, "y", out)
    axis = _check_axis(axis, y)
    np.exp(y, out=out)
    np.multiply(out, grad_y.sum(axis=axis, keepdims=True), out=out)
    return np.subtract(grad_y, out, out=out)


def _output_like(x: Array, out: Array | None) -> Array:
    check_array(x, "x")
    return output_array(out, x.shape, x.dtype, x)


def _gradient_output(grad_y: Array, reference: Array, name: str, out: Array | None) -> Array:
    check_array(reference, name)
    check_array(grad_y, "grad_y")
    check_same_dtype(**{name: reference, "grad_y": grad_y})
    check_like(grad_y, "grad_y", reference.shape, name)
    return output_array(out, reference.shape, reference.dtype, grad_y, reference)


def _check_axis(axis: int, x: Array) -> int:
    number = as_int(axis, "axis")
    if not -x.ndim <= number < x.ndim:
        raise ValueError(f"axis must be one of the {x.ndim} axes of shape {x.shape}, got axis={number}")
    return number % x.ndim
