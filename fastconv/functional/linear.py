"""The fully connected layer: a convolution of one tap over the rows of x, or, for large weights, NumPy's BLAS.

BLAS has threads of its own, which spin for a while after every product and take the CPUs from ours: with them in a
network's last layers, a step of training LeNet-5 took six times as long. A weight too large to be packed for a call is
left to BLAS all the same; `fastconv.set_num_threads` does not set its threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastconv.functional._output import check_channel_values, check_gradient, output_array
from fastconv.functional.conv import conv_plan
from fastconv.geometry import check_array, check_same_dtype
from fastconv.kernels.memory import empty
from fastconv.planner import ConvPlan

__all__ = ["linear", "linear_backward"]

Array = NDArray[Any]

PACKED_BYTES = 64 << 20  # of a weight, beyond which packing it takes longer than BLAS's threads spin


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
    if plan := _plan(x, weight):
        plan.forward(_pixels(x), weight[..., None], bias, _pixels(out))
        return out
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
    if plan := _plan(x, weight):
        return _plan_backward(plan, grad_y, x, weight, need)
    rows = grad_y.reshape(-1, weight.shape[0])
    return (
        np.matmul(grad_y, weight) if need[0] else None,
        np.matmul(rows.T, x.reshape(-1, weight.shape[1])) if need[1] else None,
        rows.sum(axis=0) if need[2] else None,
    )


def _plan(x: Array, weight: Array) -> ConvPlan | None:
    """The convolution that it is; None if BLAS is to do it."""
    if x.size == 0 or weight.nbytes > PACKED_BYTES:
        return None
    return conv_plan(1, _pixels(x), weight[..., None], None, 1, 0, 1, 1, "zeros", "channels_last", "direct")


def _plan_backward(
    plan: ConvPlan, grad_y: Array, x: Array, weight: Array, need: tuple[bool, bool, bool]
) -> tuple[Array | None, Array | None, Array | None]:
    grad_x = grad_weight = grad_bias = None
    if need[0]:
        grad_x = empty(x.shape, x.dtype)
        plan.backward_input(_pixels(grad_y), weight[..., None], None, _pixels(grad_x))
    if need[1] or need[2]:
        grad_weight, grad_bias = plan.backward_weight(_pixels(grad_y), _pixels(x), need[1], need[2])
    return grad_x, None if grad_weight is None else grad_weight[..., 0], grad_bias


def _pixels(rows: Array) -> Array:
    """Rows of channels as one line of an image."""
    return rows.reshape(1, -1, rows.shape[-1])


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
