"""Adaptive pools, whose output size is given and whose windows follow, and their gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastconv.functional._convolution import documented
from fastconv.functional._output import contiguous
from fastconv.functional._pooling import (
    Pool,
    as_x_shape,
    batched,
    maximum,
    maximum_backward,
    mean_backward,
)
from fastconv.geometry import adaptive_pool_geometry, as_bool, as_int, check_array
from fastconv.kernels.core import isa_index
from fastconv.planner import PlanCache
from fastconv.windows import adaptive_windows

__all__ = [
    "adaptive_avg_pool1d",
    "adaptive_avg_pool1d_backward",
    "adaptive_avg_pool2d",
    "adaptive_avg_pool2d_backward",
    "adaptive_avg_pool3d",
    "adaptive_avg_pool3d_backward",
    "adaptive_max_pool1d",
    "adaptive_max_pool1d_backward",
    "adaptive_max_pool2d",
    "adaptive_max_pool2d_backward",
    "adaptive_max_pool3d",
    "adaptive_max_pool3d_backward",
]

Array = NDArray[Any]
Shape = tuple[int, ...]
OutputSize = int | tuple[int | None, ...] | None


_plans: PlanCache[Pool] = PlanCache()


def adaptive_plan(ndim: int, shape: Shape, dtype: np.dtype[Any], output_size: Any, data_format: str) -> Pool:
    """The pool of a shape, with or without a batch axis, into so many windows."""
    if isinstance(output_size, (tuple, list)):
        output_size = tuple(None if size is None else as_int(size, "output_size") for size in output_size)
    elif output_size is not None:
        output_size = as_int(output_size, "output_size")
    key = (isa_index(), ndim, shape, dtype, output_size, data_format)
    plan = _plans.get(key)
    if plan is not None:
        return plan
    geometry = adaptive_pool_geometry(batched(shape, ndim), output_size, data_format=data_format, ndim=ndim)
    return _plans.put(key, Pool(geometry, adaptive_windows(geometry), dtype))


def _adaptive_avg_pool(ndim: int, x: Array, output_size: Any, data_format: str, out: Array | None) -> Array:
    check_array(x, "x", (ndim + 1, ndim + 2))
    plan = adaptive_plan(ndim, x.shape, x.dtype, output_size, data_format)
    y = plan.output(x, out)
    plan.mean(contiguous(x), y)
    return y


def _adaptive_avg_pool_backward(
    ndim: int, grad_y: Array, x_shape: Shape, output_size: Any, data_format: str, out: Array | None
) -> Array:
    check_array(grad_y, "grad_y", (ndim + 1, ndim + 2))
    x_shape = as_x_shape(x_shape)
    return mean_backward(adaptive_plan(ndim, x_shape, grad_y.dtype, output_size, data_format), grad_y, x_shape, out)


def _adaptive_max_pool(
    ndim: int, x: Array, output_size: Any, return_indices: bool, data_format: str, out: Array | None
) -> Any:
    check_array(x, "x", (ndim + 1, ndim + 2))
    plan = adaptive_plan(ndim, x.shape, x.dtype, output_size, data_format)
    return maximum(plan, x, plan.output(x, out), as_bool(return_indices, "return_indices"))


def _adaptive_max_pool_backward(
    ndim: int, grad_y: Array, x: Array, indices: Array | None, output_size: Any, data_format: str, out: Array | None
) -> Array:
    check_array(x, "x", (ndim + 1, ndim + 2))
    plan = adaptive_plan(ndim, x.shape, x.dtype, output_size, data_format)
    return maximum_backward(plan, grad_y, x, indices, out)


_AVG = """{ndim}-D average pool into a given number of windows.

    ``y[n, c, o] = mean of x[n, c, floor(o * in / out) : ceil((o + 1) * in / out)]`` along every axis

    Parameters
    ----------
    x : array (N, C, {size}) or (N, {size}, C), float32 or float64; N may be left out
    output_size : int or tuple of {ndim}, >= 1; None, alone or in the tuple, keeps the size of x
    data_format : "channels_first" (default) or "channels_last", of x and y
    out : array of y's shape and dtype, default None
        Where to write y; it may not overlap x.

    Returns
    -------
    array (N, C, {out}) or (N, {out}, C)

    Raises
    ------
    TypeError
        x is not float32 or float64, or a size is not an integer.
    ValueError
        x has a wrong number of dimensions, or a size is below 1.

    Source
    ------
    He, Zhang, Ren and Sun (2015), Spatial Pyramid Pooling in Deep Convolutional Networks, section 2.3.
    """


@documented(_AVG, 1)
def adaptive_avg_pool1d(
    x: Array,
    output_size: OutputSize,
    *,
    data_format: str = "channels_first",
    out: Array | None = None,
) -> Array:
    return _adaptive_avg_pool(1, x, output_size, data_format, out)


@documented(_AVG, 2)
def adaptive_avg_pool2d(
    x: Array,
    output_size: OutputSize,
    *,
    data_format: str = "channels_first",
    out: Array | None = None,
) -> Array:
    return _adaptive_avg_pool(2, x, output_size, data_format, out)


@documented(_AVG, 3)
def adaptive_avg_pool3d(
    x: Array,
    output_size: OutputSize,
    *,
    data_format: str = "channels_first",
    out: Array | None = None,
) -> Array:
    return _adaptive_avg_pool(3, x, output_size, data_format, out)


_AVG_BACKWARD = """Gradient of `adaptive_avg_pool{ndim}d` with respect to x.

    ``grad_x[n, c, i] = sum of grad_y[n, c, o] / (elements of o) over the windows o that see i``

    Parameters
    ----------
    grad_y : array of y's shape, float32 or float64
    x_shape : shape of x
    output_size, data_format : as in `adaptive_avg_pool{ndim}d`
    out : array of x's shape and dtype, default None

    Returns
    -------
    array
        grad_x, shape of x.

    Raises
    ------
    TypeError, ValueError
        As in `adaptive_avg_pool{ndim}d`.
    """


@documented(_AVG_BACKWARD, 1)
def adaptive_avg_pool1d_backward(
    grad_y: Array,
    x_shape: Shape,
    output_size: OutputSize,
    *,
    data_format: str = "channels_first",
    out: Array | None = None,
) -> Array:
    return _adaptive_avg_pool_backward(1, grad_y, x_shape, output_size, data_format, out)


@documented(_AVG_BACKWARD, 2)
def adaptive_avg_pool2d_backward(
    grad_y: Array,
    x_shape: Shape,
    output_size: OutputSize,
    *,
    data_format: str = "channels_first",
    out: Array | None = None,
) -> Array:
    return _adaptive_avg_pool_backward(2, grad_y, x_shape, output_size, data_format, out)


@documented(_AVG_BACKWARD, 3)
def adaptive_avg_pool3d_backward(
    grad_y: Array,
    x_shape: Shape,
    output_size: OutputSize,
    *,
    data_format: str = "channels_first",
    out: Array | None = None,
) -> Array:
    return _adaptive_avg_pool_backward(3, grad_y, x_shape, output_size, data_format, out)


_MAX = """{ndim}-D max pool into a given number of windows.

    ``y[n, c, o] = max of x[n, c, floor(o * in / out) : ceil((o + 1) * in / out)]`` along every axis; the last NaN wins
    over all, and of equals the first.

    Parameters
    ----------
    x : array (N, C, {size}) or (N, {size}, C), float32 or float64; N may be left out
    output_size : int or tuple of {ndim}, >= 1; None, alone or in the tuple, keeps the size of x
    return_indices : bool, default False
        Return (y, indices), the winners' flat indices in their planes, counted by rows in either layout, int64.
    data_format : "channels_first" (default) or "channels_last", of x, y and indices
    out : array of y's shape and dtype, default None
        Where to write y; it may not overlap x.

    Returns
    -------
    array (N, C, {out}) or (N, {out}, C), or (array, indices)

    Raises
    ------
    TypeError
        x is not float32 or float64, or a size is not an integer.
    ValueError
        x has a wrong number of dimensions, or a size is below 1.

    Source
    ------
    He, Zhang, Ren and Sun (2015), Spatial Pyramid Pooling in Deep Convolutional Networks, section 2.3.
    """


@documented(_MAX, 1)
def adaptive_max_pool1d(
    x: Array,
    output_size: OutputSize,
    return_indices: bool = False,
    *,
    data_format: str = "channels_first",
    out: Array | None = None,
) -> Any:
    return _adaptive_max_pool(1, x, output_size, return_indices, data_format, out)


@documented(_MAX, 2)
def adaptive_max_pool2d(
    x: Array,
    output_size: OutputSize,
    return_indices: bool = False,
    *,
    data_format: str = "channels_first",
    out: Array | None = None,
) -> Any:
    return _adaptive_max_pool(2, x, output_size, return_indices, data_format, out)


@documented(_MAX, 3)
def adaptive_max_pool3d(
    x: Array,
    output_size: OutputSize,
    return_indices: bool = False,
    *,
    data_format: str = "channels_first",
    out: Array | None = None,
) -> Any:
    return _adaptive_max_pool(3, x, output_size, return_indices, data_format, out)


_MAX_BACKWARD = """Gradient of `adaptive_max_pool{ndim}d` with respect to x.

    ``grad_x[n, c, i] = sum of grad_y[n, c, o] over the windows o that i won``

    Parameters
    ----------
    grad_y : array of y's shape, dtype of x
    x : as in `adaptive_max_pool{ndim}d`
    indices : int64 array of y's shape, as `adaptive_max_pool{ndim}d` returned it for these arguments, or None: found
        again
    output_size, data_format : as in `adaptive_max_pool{ndim}d`
    out : array of x's shape and dtype, default None

    Returns
    -------
    array
        grad_x, shape of x.

    Raises
    ------
    TypeError, ValueError
        As in `adaptive_max_pool{ndim}d`; an index outside its plane.
    """


@documented(_MAX_BACKWARD, 1)
def adaptive_max_pool1d_backward(
    grad_y: Array,
    x: Array,
    indices: Array | None,
    output_size: OutputSize,
    *,
    data_format: str = "channels_first",
    out: Array | None = None,
) -> Array:
    return _adaptive_max_pool_backward(1, grad_y, x, indices, output_size, data_format, out)


@documented(_MAX_BACKWARD, 2)
def adaptive_max_pool2d_backward(
    grad_y: Array,
    x: Array,
    indices: Array | None,
    output_size: OutputSize,
    *,
    data_format: str = "channels_first",
    out: Array | None = None,
) -> Array:
    return _adaptive_max_pool_backward(2, grad_y, x, indices, output_size, data_format, out)


@documented(_MAX_BACKWARD, 3)
def adaptive_max_pool3d_backward(
    grad_y: Array,
    x: Array,
    indices: Array | None,
    output_size: OutputSize,
    *,
    data_format: str = "channels_first",
    out: Array | None = None,
) -> Array:
    return _adaptive_max_pool_backward(3, grad_y, x, indices, output_size, data_format, out)
