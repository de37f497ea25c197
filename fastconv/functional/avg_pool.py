"""Average pools in 1, 2 and 3 spatial dimensions, and their gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastconv.functional._convolution import documented, exact_padding, exact_tuple
from fastconv.functional._output import contiguous
from fastconv.functional._pooling import Pool, as_x_shape, batched, mean_backward
from fastconv.geometry import as_bool, check_array, check_divisor_override, pool_geometry
from fastconv.geometry.arguments import IntOrTuple, Padding
from fastconv.kernels.core import isa_index
from fastconv.planner import PlanCache
from fastconv.windows import divided_by, pool_windows

__all__ = [
    "avg_pool1d",
    "avg_pool1d_backward",
    "avg_pool2d",
    "avg_pool2d_backward",
    "avg_pool3d",
    "avg_pool3d_backward",
]

Array = NDArray[Any]
Shape = tuple[int, ...]

_plans: PlanCache[Pool] = PlanCache()


def _plan(
    ndim: int, shape: Shape, dtype: np.dtype[Any], kernel_size: Any, stride: Any, padding: Any, ceil_mode: Any,
    count_include_pad: Any, divisor_override: Any, data_format: str,
) -> Pool:  # fmt: skip
    stride = kernel_size if stride is None else stride
    if type(kernel_size) is not int or type(stride) is not int or type(padding) is not int:
        kernel_size, stride = exact_tuple(kernel_size, ndim, "kernel_size"), exact_tuple(stride, ndim, "stride")
        padding = exact_padding(padding, ndim)
    ceil_mode = as_bool(ceil_mode, "ceil_mode")
    count_include_pad = as_bool(count_include_pad, "count_include_pad")
    divisor = check_divisor_override(divisor_override)
    key = (
        isa_index(), ndim, shape, dtype, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor,
        data_format,
    )  # fmt: skip
    plan = _plans.get(key)
    if plan is not None:
        return plan
    geometry = pool_geometry(
        batched(shape, ndim), kernel_size, stride, padding, ceil_mode=ceil_mode, data_format=data_format, ndim=ndim
    )
    windows = pool_windows(geometry, count_include_pad)
    if divisor is not None:
        windows = divided_by(windows, divisor)
    return _plans.put(key, Pool(geometry, windows, dtype))


def _avg_pool(
    ndim: int, x: Array, kernel_size: Any, stride: Any, padding: Any, ceil_mode: bool, count_include_pad: bool,
    divisor_override: int | None, data_format: str, out: Array | None,
) -> Array:  # fmt: skip
    check_array(x, "x", (ndim + 1, ndim + 2))
    plan = _plan(ndim, x.shape, x.dtype, kernel_size, stride, padding, ceil_mode, count_include_pad,
                     divisor_override, data_format)  # fmt: skip
    y = plan.output(x, out)
    plan.mean(contiguous(x), y)
    return y


def _avg_pool_backward(
    ndim: int, grad_y: Array, x_shape: Shape, kernel_size: Any, stride: Any, padding: Any, ceil_mode: bool,
    count_include_pad: bool, divisor_override: int | None, data_format: str, out: Array | None,
) -> Array:  # fmt: skip
    check_array(grad_y, "grad_y", (ndim + 1, ndim + 2))
    x_shape = as_x_shape(x_shape)
    plan = _plan(ndim, x_shape, grad_y.dtype, kernel_size, stride, padding, ceil_mode, count_include_pad,
                     divisor_override, data_format)  # fmt: skip
    return mean_backward(plan, grad_y, x_shape, out)


_FORWARD = """{ndim}-D average pool.

    ``y[n, c, o] = sum over taps t of x[n, c, o * stride + t - padding] / divisor``, where the divisor is the number of
    taps within x and its padding, but for what hangs over with ceil_mode.

    Parameters
    ----------
    x : array (N, C, {size}) or (N, {size}, C), float32 or float64; N may be left out
    kernel_size : int or tuple of {ndim}, >= 1
    stride : int or tuple of {ndim}, >= 1, default None: kernel_size
    padding : int, tuple, pairs ((before, after), ...), "same" or "valid", default 0; at most kernel_size // 2 a side
    ceil_mode : bool, default False
        Round the number of windows up; a last window that would begin in the padding behind x is left out.
    count_include_pad : bool, default True
        Whether padding counts in the divisor.
    divisor_override : int but not 0, default None
        Divide by it instead.
    data_format : "channels_first" (default) or "channels_last", of x and y
    out : array of y's shape and dtype, default None
        Where to write y; it may not overlap x.

    Returns
    -------
    array (N, C, {out}) or (N, {out}, C)
        out = floor((in + padding - kernel_size) / stride) + 1

    Raises
    ------
    TypeError
        x is not float32 or float64, or a number is not an integer.
    ValueError
        Shapes or parameters do not fit each other.

    Source
    ------
    LeCun, Bottou, Bengio and Haffner (1998), Gradient-Based Learning Applied to Document Recognition, section II.B.
    """


@documented(_FORWARD, 1)
def avg_pool1d(
    x: Array,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    padding: Padding = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    data_format: str = "channels_first",
    out: Array | None = None,
) -> Array:
    return _avg_pool(1, x, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override,
                     data_format, out)  # fmt: skip


@documented(_FORWARD, 2)
def avg_pool2d(
    x: Array,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    padding: Padding = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    data_format: str = "channels_first",
    out: Array | None = None,
) -> Array:
    return _avg_pool(2, x, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override,
                     data_format, out)  # fmt: skip


@documented(_FORWARD, 3)
def avg_pool3d(
    x: Array,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    padding: Padding = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    data_format: str = "channels_first",
    out: Array | None = None,
) -> Array:
    return _avg_pool(3, x, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override,
                     data_format, out)  # fmt: skip


_BACKWARD = """Gradient of `avg_pool{ndim}d` with respect to x.

    ``grad_x[n, c, i] = sum of grad_y[n, c, o] / divisor[o] over the windows o that see i``

    Parameters
    ----------
    grad_y : array of y's shape, float32 or float64
    x_shape : shape of x
    kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override, data_format : as in `avg_pool{ndim}d`
    out : array of x's shape and dtype, default None

    Returns
    -------
    array
        grad_x, shape of x.

    Raises
    ------
    TypeError, ValueError
        As in `avg_pool{ndim}d`.
    """


@documented(_BACKWARD, 1)
def avg_pool1d_backward(
    grad_y: Array,
    x_shape: Shape,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    padding: Padding = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    data_format: str = "channels_first",
    out: Array | None = None,
) -> Array:
    return _avg_pool_backward(1, grad_y, x_shape, kernel_size, stride, padding, ceil_mode, count_include_pad,
                              divisor_override, data_format, out)  # fmt: skip


@documented(_BACKWARD, 2)
def avg_pool2d_backward(
    grad_y: Array,
    x_shape: Shape,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    padding: Padding = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    data_format: str = "channels_first",
    out: Array | None = None,
) -> Array:
    return _avg_pool_backward(2, grad_y, x_shape, kernel_size, stride, padding, ceil_mode, count_include_pad,
                              divisor_override, data_format, out)  # fmt: skip


@documented(_BACKWARD, 3)
def avg_pool3d_backward(
    grad_y: Array,
    x_shape: Shape,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    padding: Padding = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    data_format: str = "channels_first",
    out: Array | None = None,
) -> Array:
    return _avg_pool_backward(3, grad_y, x_shape, kernel_size, stride, padding, ceil_mode, count_include_pad,
                              divisor_override, data_format, out)  # fmt: skip
