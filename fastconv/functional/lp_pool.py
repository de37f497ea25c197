"""Power-mean pools in 1, 2 and 3 spatial dimensions, and their gradients."""

from __future__ import annotations

from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastconv.functional._convolution import documented, exact_tuple
from fastconv.functional._output import contiguous, output_array
from fastconv.functional._pooling import Pool, batched
from fastconv.geometry import as_bool, as_float, check_array, check_same_dtype, pool_geometry
from fastconv.geometry.arguments import IntOrTuple
from fastconv.kernels.core import isa_index
from fastconv.planner import PlanCache
from fastconv.windows import pool_windows

__all__ = [
    "lp_pool1d",
    "lp_pool1d_backward",
    "lp_pool2d",
    "lp_pool2d_backward",
    "lp_pool3d",
    "lp_pool3d_backward",
]

Array = NDArray[Any]

_plans: PlanCache[Pool] = PlanCache()


def _plan(ndim: int, x: Array, norm_type: Any, kernel_size: Any, stride: Any, ceil_mode: Any, data_format: str) -> Pool:
    check_array(x, "x", (ndim + 1, ndim + 2))
    power = _as_power(norm_type)
    kernel_size = exact_tuple(kernel_size, ndim, "kernel_size")
    stride = kernel_size if stride is None else exact_tuple(stride, ndim, "stride")
    ceil_mode = as_bool(ceil_mode, "ceil_mode")
    key = (isa_index(), ndim, x.shape, x.dtype, power, kernel_size, stride, ceil_mode, data_format)
    plan = _plans.get(key)
    if plan is not None:
        return plan
    geometry = pool_geometry(
        batched(x.shape, ndim), kernel_size, stride, ceil_mode=ceil_mode, data_format=data_format, ndim=ndim
    )
    return _plans.put(key, Pool(geometry, pool_windows(geometry), x.dtype, power))


def _as_power(norm_type: Any) -> float:
    power = as_float(norm_type, "norm_type")
    if power == 0 or not isfinite(power):
        raise ValueError(f"norm_type must be finite and not 0, got norm_type={norm_type}; max_pool is the limit of inf")
    return power


def _lp_pool(
    ndim: int, x: Array, norm_type: float, kernel_size: Any, stride: Any, ceil_mode: bool, data_format: str,
    out: Array | None,
) -> Array:  # fmt: skip
    plan = _plan(ndim, x, norm_type, kernel_size, stride, ceil_mode, data_format)
    y = plan.output(x, out)
    plan.norm(contiguous(x), y)
    return y


def _lp_pool_backward(
    ndim: int, grad_y: Array, x: Array, norm_type: float, kernel_size: Any, stride: Any, ceil_mode: bool,
    data_format: str, out: Array | None,
) -> Array:  # fmt: skip
    plan = _plan(ndim, x, norm_type, kernel_size, stride, ceil_mode, data_format)
    plan.check_gradient(grad_y, x.ndim)
    check_same_dtype(x=x, grad_y=grad_y)
    grad_x = output_array(out, x.shape, plan.dtype, grad_y, x)
    x, slope = contiguous(x), np.empty(grad_y.shape, plan.dtype)
    plan.norm(x, slope, None, contiguous(grad_y))
    if plan.power == 1:
        plan.norm_spread(slope, grad_x)
    else:
        plan.norm_spread(slope, grad_x, None, None, x, plan.power - 1)
    return grad_x


_FORWARD = """{ndim}-D power-mean pool.

    ``y[n, c, o] = (sum over taps t of x[n, c, o * stride + t] ** p) ** (1 / p)``, no absolute value being taken. A
    partial window counts as a whole one of the same mean.

    Parameters
    ----------
    x : array (N, C, {size}) or (N, {size}, C), float32 or float64; N may be left out
    norm_type : finite number p other than 0; 1 is a sum pool, and max_pool what it tends to
    kernel_size : int or tuple of {ndim}, >= 1
    stride : int or tuple of {ndim}, >= 1, default None: kernel_size
    ceil_mode : bool, default False
        Round the number of windows up, so that the last may be partial.
    data_format : "channels_first" (default) or "channels_last", of x and y
    out : array of y's shape and dtype, default None
        Where to write y; it may not overlap x.

    Returns
    -------
    array (N, C, {out}) or (N, {out}, C)
        out = floor((in - kernel_size) / stride) + 1

    Raises
    ------
    TypeError
        x is not float32 or float64, norm_type is not a number, or another number is not an integer.
    ValueError
        Shapes or parameters do not fit each other.

    Source
    ------
    Sermanet, Chintala and LeCun (2012), Convolutional Neural Networks Applied to House Numbers Digit Classification,
    section 2.2.
    """


@documented(_FORWARD, 1)
def lp_pool1d(
    x: Array,
    norm_type: float,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    ceil_mode: bool = False,
    *,
    data_format: str = "channels_first",
    out: Array | None = None,
) -> Array:
    return _lp_pool(1, x, norm_type, kernel_size, stride, ceil_mode, data_format, out)


@documented(_FORWARD, 2)
def lp_pool2d(
    x: Array,
    norm_type: float,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    ceil_mode: bool = False,
    *,
    data_format: str = "channels_first",
    out: Array | None = None,
) -> Array:
    return _lp_pool(2, x, norm_type, kernel_size, stride, ceil_mode, data_format, out)


@documented(_FORWARD, 3)
def lp_pool3d(
    x: Array,
    norm_type: float,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    ceil_mode: bool = False,
    *,
    data_format: str = "channels_first",
    out: Array | None = None,
) -> Array:
    return _lp_pool(3, x, norm_type, kernel_size, stride, ceil_mode, data_format, out)


_BACKWARD = """Gradient of `lp_pool{ndim}d` with respect to x.

    ``grad_x[n, c, i] = x[n, c, i] ** (p - 1) * sum of grad_y[n, c, o] * y[n, c, o] ** (1 - p)`` over the windows o that
    see i, where y = 0 counts as no slope; partial windows as in `lp_pool{ndim}d`.

    Parameters
    ----------
    grad_y : array of y's shape, dtype of x
    x, norm_type, kernel_size, stride, ceil_mode, data_format : as in `lp_pool{ndim}d`
    out : array of x's shape and dtype, default None

    Returns
    -------
    array
        grad_x, shape of x.

    Raises
    ------
    TypeError, ValueError
        As in `lp_pool{ndim}d`.
    """


@documented(_BACKWARD, 1)
def lp_pool1d_backward(
    grad_y: Array,
    x: Array,
    norm_type: float,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    ceil_mode: bool = False,
    *,
    data_format: str = "channels_first",
    out: Array | None = None,
) -> Array:
    return _lp_pool_backward(1, grad_y, x, norm_type, kernel_size, stride, ceil_mode, data_format, out)


@documented(_BACKWARD, 2)
def lp_pool2d_backward(
    grad_y: Array,
    x: Array,
    norm_type: float,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    ceil_mode: bool = False,
    *,
    data_format: str = "channels_first",
    out: Array | None = None,
) -> Array:
    return _lp_pool_backward(2, grad_y, x, norm_type, kernel_size, stride, ceil_mode, data_format, out)


@documented(_BACKWARD, 3)
def lp_pool3d_backward(
    grad_y: Array,
    x: Array,
    norm_type: float,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    ceil_mode: bool = False,
    *,
    data_format: str = "channels_first",
    out: Array | None = None,
) -> Array:
    return _lp_pool_backward(3, grad_y, x, norm_type, kernel_size, stride, ceil_mode, data_format, out)
