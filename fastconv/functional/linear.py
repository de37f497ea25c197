"""The fully connected layer: one matrix product of NumPy's BLAS each way.

BLAS has threads of its own: `fastconv.set_num_threads` neither sets them nor changes a bit here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastconv.functional._output import check_channel_values, check_gradient, output_array
from fastconv.geometry import check_array, check_same_dtype

__all__ = ["linear", "linear_backward"]

Array = NDArray[Any]


def linear(x: Array, weight: Array, bias: Array | None = None, *, out: Array | None = None) -> Array:
    """Affine map of the last axis.

    ``y = x @ weight.T + bias``

    Parameters
    ----------
    x : array (..., in_features), float32 or float64
    weight : array (out_features, in_features), dtype of x
    bias : array (out_features,), dtype of x, default None
    out : array (..., out_features), dtype of x, default None
        Where to write y.

    Returns
    -------
    array (..., out_features)

    Raises
    ------
    TypeError
        A dtype is not float32 or float64, or they differ.
    ValueError
        The shapes do not fit each other, or out is read-only or overlaps an input.
    """
    _check(x, weight)
    check_channel_values(x, weight.shape[0], bias=bias)
    out = output_array(out, (*x.shape[:-1], weight.shape[0]), x.dtype, x, weight, bias)
    np.matmul(x, weight.T, out=out)
    if bias is not None:
        np.add(out, bias, out=out)
    return out


def linear_backward(
    grad_y: Array, x: Array, weight: Array, need: tuple[bool, bool, bool] = (True, True, True)
) -> tuple[Array | None, Array | None, Array | None]:
    """Gradients of `linear`.

    ``grad_x = grad_y @ weight``, ``grad_weight = grad_y.T @ x``, ``grad_bias = sum of grad_y over the rows``

    Parameters
    ----------
    grad_y : array (..., out_features), dtype of x
    x : array (..., in_features), float32 or float64
    weight : array (out_features, in_features), dtype of x
    need : three bools, default all True
        Which of the gradients of x, weight and bias to compute.

    Returns
    -------
    (grad_x, grad_weight, grad_bias)
        Shapes of x, weight and (out_features,); None where not needed.

    Raises
    ------
    TypeError, ValueError
        Dtypes or shapes as in `linear`.
    """
    _check(x, weight)
    check_gradient(grad_y, (*x.shape[:-1], weight.shape[0]), "x and weight", x=x)
    rows = grad_y.reshape(-1, weight.shape[0])
    return (
        np.matmul(grad_y, weight) if need[0] else None,
        np.matmul(rows.T, x.reshape(-1, weight.shape[1])) if need[1] else None,
        rows.sum(axis=0) if need[2] else None,
    )


def _check(x: Array, weight: Array) -> None:
    check_array(x, "x")
    check_array(weight, "weight", ndim=2)
    check_same_dtype(x=x, weight=weight)
    if 0 in weight.shape:
        raise ValueError(f"weight must have no axis of size 0, got weight.shape={weight.shape}")
    if x.shape[-1:] != weight.shape[1:]:
        raise ValueError(
            f"x must have shape (..., {weight.shape[1]}) to go with weight {weight.shape}, got x.shape={x.shape}"
        )
