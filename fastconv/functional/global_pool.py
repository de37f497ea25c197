"""Global pools, whose one window is a whole channel, and their gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastconv.functional._output import check_like, contiguous, output_array
from fastconv.functional._pooling import Pool, as_x_shape, check_indices, maximum, maximum_backward, mean_backward
from fastconv.functional.adaptive import adaptive_plan
from fastconv.geometry import as_bool, check_array

__all__ = ["global_avg_pool", "global_avg_pool_backward", "global_max_pool", "global_max_pool_backward"]

Array = NDArray[Any]
Shape = tuple[int, ...]


def _global_plan(shape: Shape, dtype: np.dtype[Any], data_format: str) -> Pool:
    return adaptive_plan(len(shape) - 2, shape, dtype, 1, data_format)


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
    return maximum(plan, x, y, as_bool(return_indices, "return_indices"))


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
