"""Max pools in 1, 2 and 3 spatial dimensions, and their gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastconv.functional._convolution import documented, exact_padding, exact_tuple
from fastconv.functional._pooling import Pool, batched, maximum, maximum_backward
from fastconv.geometry import as_bool, check_array, pool_geometry
from fastconv.geometry.arguments import IntOrTuple, Padding
from fastconv.kernels.core import isa_index
from fastconv.planner import PlanCache
from fastconv.windows import pool_windows

__all__ = [
    "max_pool1d",
    "max_pool1d_backward",
    "max_pool2d",
    "max_pool2d_backward",
    "max_pool3d",
    "max_pool3d_backward",
]

Array = NDArray[Any]

_plans: PlanCache[Pool] = PlanCache()


def _plan(
    ndim: int, x: Array, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: Any, data_format: str
) -> Pool:
    if type(x) is not np.ndarray:
        check_array(x, "x")
    stride = kernel_size if stride is None else stride
    if type(kernel_size) is not int or type(stride) is not int or type(dilation) is not int or type(padding) is not int:
        kernel_size, stride = exact_tuple(kernel_size, ndim, "kernel_size"), exact_tuple(stride, ndim, "stride")
        dilation, padding = exact_tuple(dilation, ndim, "dilation"), exact_padding(padding, ndim)
    ceil_mode = as_bool(ceil_mode, "ceil_mode")
    key = (isa_index(), ndim, x.shape, x.dtype, kernel_size, stride, padding, dilation, ceil_mode, data_format)
    plan = _plans.get(key)
    if plan is not None:
        return plan
    check_array(x, "x", (ndim + 1, ndim + 2))
    geometry = pool_geometry(
        batched(x.shape, ndim), kernel_size, stride, padding, dilation, ceil_mode=ceil_mode, data_format=data_format,
        ndim=ndim,
    )  # fmt: skip
    return _plans.put(key, Pool(geometry, pool_windows(geometry), x.dtype))


def _max_pool(
    ndim: int, x: Array, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool,
    return_indices: bool, data_format: str, out: Array | None,
) -> Any:  # fmt: skip
    plan = _plan(ndim, x, kernel_size, stride, padding, dilation, ceil_mode, data_format)
    return maximum(plan, x, plan.output(x, out), as_bool(return_indices, "return_indices"))


def _max_pool_backward(
    ndim: int, grad_y: Array, x: Array, indices: Array | None, kernel_size: Any, stride: Any, padding: Any,
    dilation: Any, ceil_mode: bool, data_format: str, out: Array | None,
) -> Array:  # fmt: skip
    plan = _plan(ndim, x, kernel_size, stride, padding, dilation, ceil_mode, data_format)
    return maximum_backward(plan, grad_y, x, indices, out)


_FORWARD = """{ndim}-D max pool.

    ``y[n, c, o] = max over taps t of x[n, c, o * stride + t * dilation - padding]``; padding never wins, the last NaN
    wins over all, and of equals the first.

    Parameters
    ----------
    x : array (N, C, {size}) or (N, {size}, C), float32 or float64; N may be left out
    kernel_size : int or tuple of {ndim}, >= 1
    stride : int or tuple of {ndim}, >= 1, default None: kernel_size
    padding : int, tuple, pairs ((before, after), ...), "same" or "valid", default 0; at most kernel_size // 2 a side
    dilation : int or tuple of {ndim}, >= 1, default 1
    ceil_mode : bool, default False
        Round the number of windows up; a last window that would begin in the padding behind x is left out.
    return_indices : bool, default False
        Return (y, indices), the winners' flat indices in their planes, counted by rows in either layout, int64.
    data_format : "channels_first" (default) or "channels_last", of x, y and indices
    out : array of y's shape and dtype, default None
        Where to write y; it may not overlap x.

    Returns
    -------
    array (N, C, {out}) or (N, {out}, C), or (array, indices)
        out = floor((in + padding - dilation (kernel_size - 1) - 1) / stride) + 1

    Raises
    ------
    TypeError
        x is not float32 or float64, or a number is not an integer.
    ValueError
        Shapes or parameters do not fit each other.

    Source
    ------
    Goodfellow, Bengio and Courville (2016), Deep Learning, section 9.3.
    """


@documented(_FORWARD, 1)
def max_pool1d(
    x: Array,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    padding: Padding = 0,
    dilation: IntOrTuple = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    data_format: str = "channels_first",
    out: Array | None = None,
) -> Any:
    return _max_pool(1, x, kernel_size, stride, padding, dilation, ceil_mode, return_indices, data_format, out)


@documented(_FORWARD, 2)
def max_pool2d(
    x: Array,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    padding: Padding = 0,
    dilation: IntOrTuple = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    data_format: str = "channels_first",
    out: Array | None = None,
) -> Any:
    return _max_pool(2, x, kernel_size, stride, padding, dilation, ceil_mode, return_indices, data_format, out)


@documented(_FORWARD, 3)
def max_pool3d(
    x: Array,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    padding: Padding = 0,
    dilation: IntOrTuple = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    data_format: str = "channels_first",
    out: Array | None = None,
) -> Any:
    return _max_pool(3, x, kernel_size, stride, padding, dilation, ceil_mode, return_indices, data_format, out)


_BACKWARD = """Gradient of `max_pool{ndim}d` with respect to x.

    ``grad_x[n, c, i] = sum of grad_y[n, c, o] over the windows o that i won``

    Parameters
    ----------
    grad_y : array of y's shape, dtype of x
    x : as in `max_pool{ndim}d`
    indices : int64 array of y's shape, as `max_pool{ndim}d` returned it for these arguments, or None: found again
    kernel_size, stride, padding, dilation, ceil_mode, data_format : as in `max_pool{ndim}d`
    out : array of x's shape and dtype, default None

    Returns
    -------
    array
        grad_x, shape of x.

    Raises
    ------
    TypeError, ValueError
        As in `max_pool{ndim}d`; an index outside its plane.
    """


@documented(_BACKWARD, 1)
def max_pool1d_backward(
    grad_y: Array,
    x: Array,
    indices: Array | None,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    padding: Padding = 0,
    dilation: IntOrTuple = 1,
    ceil_mode: bool = False,
    *,
    data_format: str = "channels_first",
    out: Array | None = None,
) -> Array:
    return _max_pool_backward(1, grad_y, x, indices, kernel_size, stride, padding, dilation, ceil_mode,
                              data_format, out)  # fmt: skip


@documented(_BACKWARD, 2)
def max_pool2d_backward(
    grad_y: Array,
    x: Array,
    indices: Array | None,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    padding: Padding = 0,
    dilation: IntOrTuple = 1,
    ceil_mode: bool = False,
    *,
    data_format: str = "channels_first",
    out: Array | None = None,
) -> Array:
    return _max_pool_backward(2, grad_y, x, indices, kernel_size, stride, padding, dilation, ceil_mode,
                              data_format, out)  # fmt: skip


@documented(_BACKWARD, 3)
def max_pool3d_backward(
    grad_y: Array,
    x: Array,
    indices: Array | None,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    padding: Padding = 0,
    dilation: IntOrTuple = 1,
    ceil_mode: bool = False,
    *,
    data_format: str = "channels_first",
    out: Array | None = None,
) -> Array:
    return _max_pool_backward(3, grad_y, x, indices, kernel_size, stride, padding, dilation, ceil_mode,
                              data_format, out)  # fmt: skip
