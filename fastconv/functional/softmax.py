"""The softmax family, each with its backward."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastconv.functional._output import contiguous, output_array
from fastconv.functional.activation import check_saved
from fastconv.geometry import as_int, check_array
from fastconv.kernels import rowwise

__all__ = ["log_softmax", "log_softmax_backward", "softmax", "softmax_backward"]

Array = NDArray[Any]


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
    return _softmax(False, x, axis, out)


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
    return _softmax_backward(False, grad_y, y, axis, out)


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
    return _softmax(True, x, axis, out)


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
    return _softmax_backward(True, grad_y, y, axis, out)


def _softmax(logarithm: bool, x: Array, axis: int, out: Array | None) -> Array:
    check_array(x, "x")
    axis = _check_axis(axis, x)
    out = output_array(out, x.shape, x.dtype, x)
    if x.size:
        rows = _rows(out, axis)
        rowwise.softmax(logarithm, 1.0, _rows(x, axis), rows)
        _store_rows(rows, out, axis)
    return out


def _softmax_backward(logarithm: bool, grad_y: Array, y: Array, axis: int, out: Array | None) -> Array:
    check_saved(grad_y, y, "y")
    axis = _check_axis(axis, y)
    out = output_array(out, y.shape, y.dtype, grad_y, y)
    if y.size:
        rows = _rows(out, axis)
        rowwise.softmax_backward(logarithm, _rows(grad_y, axis), _rows(y, axis), rows)
        _store_rows(rows, out, axis)
    return out


def _rows(x: Array, axis: int) -> Array:
    """The array as [rows][n] with the axis last: a view of a contiguous x whose last axis it is, else a copy."""
    moved = x if axis == x.ndim - 1 else np.moveaxis(x, axis, -1)
    return contiguous(moved).reshape(-1, x.shape[axis])


def _store_rows(rows: Array, out: Array, axis: int) -> None:
    if axis != out.ndim - 1:
        moved = np.moveaxis(out, axis, -1)
        moved[...] = rows.reshape(moved.shape)


def _check_axis(axis: int, x: Array) -> int:
    number = as_int(axis, "axis")
    if not -x.ndim <= number < x.ndim:
        raise ValueError(f"axis must be one of the {x.ndim} axes of shape {x.shape}, got axis={number}")
    return number % x.ndim
