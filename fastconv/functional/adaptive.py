"""Adaptive and global pools, whose output size is given and whose windows follow, and their gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastconv.functional._convolution import documented
from fastconv.functional._output import check_like, contiguous, output_array
from fastconv.functional._pooling import (
    Pool,
    as_x_shape,
    batched,
    check_indices,
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
    "global_avg_pool",
    "global_avg_pool_backward",
    "global_max_pool",
    "global_max_pool_backward",
]

Array = NDArray[Any]
Shape = tuple[int, ...]
OutputSize = int | tuple[int | None, ...] | None

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

_plans: PlanCache[Pool] = PlanCache()


def _plan(ndim: int, shape: Shape, dtype: np.dtype[Any], output_size: Any, data_format: str) -> Pool:
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
    plan = _plan(ndim, x.shape, x.dtype, output_size, data_format)
    y = plan.output(x, out)
    plan.mean(contiguous(x), y)
    return y


def _adaptive_avg_pool_backward(
    ndim: int, grad_y: Array, x_shape: Shape, output_size: Any, data_format: str, out: Array | None
) -> Array:
    check_array(grad_y, "grad_y", (ndim + 1, ndim + 2))
    x_shape = as_x_shape(x_shape)
    return mean_backward(_plan(ndim, x_shape, grad_y.dtype, output_size, data_format), grad_y, x_shape, out)


def _adaptive_max_pool(
    ndim: int, x: Array, output_size: Any, return_indices: bool, data_format: str, out: Array | None
) -> Any:
    check_array(x, "x", (ndim + 1, ndim + 2))
    plan = _plan(ndim, x.shape, x.dtype, output_size, data_format)
    return maximum(plan, x, as_bool(return_indices, "return_indices"), out)


def _adaptive_max_pool_backward(
    ndim: int, grad_y: Array, x: Array, indices: Array | None, output_size: Any, data_format: str, out: Array | None
) -> Array:
    check_array(x, "x", (ndim + 1, ndim + 2))
    plan = _plan(ndim, x.shape, x.dtype, output_size, data_format)
    return maximum_backward(plan, grad_y, x, indices, out)


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


def _global_plan(shape: Shape, dtype: np.dtype[Any], data_format: str) -> Pool:
    return _plan(len(shape) - 2, shape, dtype, 1, data_format)


def _check_grad_of_channels(grad_y: Array, plan: Pool, like: str) -> Array:
    check_array(grad_y, "grad_y", 2)
    check_like(grad_y, "grad_y", (plan.geometry.batch, plan.geometry.channels), like)
    return grad_y.reshape(plan.y_shape)


def global_avg_pool(x: Array, *, data_format: str = "channels_first", out: Array | None = None) -> Array:
    """Mean of every channel.

    ``y[n, c] = mean of x[n, c] over all spatial axes``

    Parameters
    ----------
    x : array (N, C, *spatial) or (N, *spatial, C) with 1 to 3 spatial axes, float32 or float64
    data_format : "channels_first" (default) or "channels_last"
    out : array (N, C), dtype of x, default None
        Where to write y; it may not overlap x.

    Returns
    -------
    array (N, C)

    Raises
    ------
    TypeError
        x is not float32 or float64.
    ValueError
        x has a wrong number of dimensions, or out does not fit.

    Source
    ------
    Lin, Chen and Yan (2014), Network in Network, section 3.2.
    """
    check_array(x, "x", (3, 4, 5))
    plan = _global_plan(x.shape, x.dtype, data_format)
    y = output_array(out, (plan.geometry.batch, plan.geometry.channels), x.dtype, x)
    plan.mean(contiguous(x), y)
    return y


def global_avg_pool_backward(
    grad_y: Array, x_shape: Shape, *, data_format: str = "channels_first", out: Array | None = None
) -> Array:
    """Gradient of `global_avg_pool` with respect to x.

    ``grad_x[n, c, i] = grad_y[n, c] / (elements of x[n, c])``

    Parameters
    ----------
    grad_y : array (N, C), float32 or float64
    x_shape : shape of x
    data_format : as in `global_avg_pool`
    out : array of x's shape and dtype, default None

    Returns
    -------
    array
        grad_x, shape of x.

    Raises
    ------
    TypeError, ValueError
        As in `global_avg_pool`.
    """
    x_shape = as_x_shape(x_shape)
    check_array(grad_y, "grad_y", 2)
    if len(x_shape) not in (3, 4, 5):
        raise ValueError(f"x_shape must have 3 to 5 dimensions, got x_shape={x_shape}")
    plan = _global_plan(x_shape, grad_y.dtype, data_format)
    return mean_backward(plan, _check_grad_of_channels(grad_y, plan, "x_shape"), x_shape, out)


def global_max_pool(
    x: Array, return_indices: bool = False, *, data_format: str = "channels_first", out: Array | None = None
) -> Any:
    """Largest value of every channel.

    ``y[n, c] = max of x[n, c] over all spatial axes``; the last NaN wins over all, and of equals the first.

    Parameters
    ----------
    x : array (N, C, *spatial) or (N, *spatial, C) with 1 to 3 spatial axes, float32 or float64
    return_indices : bool, default False
        Return (y, indices), the winners' flat indices in their planes, counted by rows in either layout, int64.
    data_format : "channels_first" (default) or "channels_last"
    out : array (N, C), dtype of x, default None
        Where to write y; it may not overlap x.

    Returns
    -------
    array (N, C), or (array, indices)

    Raises
    ------
    TypeError, ValueError
        As in `global_avg_pool`.

    Source
    ------
    Oquab, Bottou, Laptev and Sivic (2015), Is Object Localization for Free?, section 3.
    """
    check_array(x, "x", (3, 4, 5))
    plan = _global_plan(x.shape, x.dtype, data_format)
    y = output_array(out, (plan.geometry.batch, plan.geometry.channels), x.dtype, x)
    if not as_bool(return_indices, "return_indices"):
        plan.maximum(contiguous(x), y)
        return y
    plan.check_indexable()
    indices = np.empty(y.shape, np.int64)
    plan.maximum(contiguous(x), y, indices)
    return y, indices


def global_max_pool_backward(
    grad_y: Array,
    x: Array,
    indices: Array | None = None,
    *,
    data_format: str = "channels_first",
    out: Array | None = None,
) -> Array:
    """Gradient of `global_max_pool` with respect to x.

    ``grad_x[n, c, i] = grad_y[n, c] if i won, else 0``

    Parameters
    ----------
    grad_y : array (N, C), dtype of x
    x : as in `global_max_pool`
    indices : int64 array (N, C), as `global_max_pool` returned it, default None: found again
    data_format : as in `global_max_pool`
    out : array of x's shape and dtype, default None

    Returns
    -------
    array
        grad_x, shape of x.

    Raises
    ------
    TypeError, ValueError
        As in `global_max_pool`; an index outside its plane.
    """
    check_array(x, "x", (3, 4, 5))
    plan = _global_plan(x.shape, x.dtype, data_format)
    grad = _check_grad_of_channels(grad_y, plan, "x")
    if indices is not None:
        check_indices(indices, grad_y.shape, "grad_y")
        indices = indices.reshape(grad.shape)
    return maximum_backward(plan, grad, x, indices, out)
