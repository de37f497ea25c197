"""Max, average and power-mean pools in 1, 2 and 3 spatial dimensions, max unpools, and their gradients."""

from __future__ import annotations

from math import isfinite, prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastconv.functional._convolution import documented, exact_padding, exact_tuple
from fastconv.functional._output import check_like, contiguous, output_array
from fastconv.functional._pooling import (
    Pool,
    as_x_shape,
    batched,
    check_indices,
    check_indices_within,
    maximum,
    maximum_backward,
    mean_backward,
    planes_of,
)
from fastconv.geometry import (
    PoolGeometry,
    as_bool,
    as_float,
    check_array,
    check_divisor_override,
    check_same_dtype,
    pool_geometry,
    unpool_geometry,
)
from fastconv.geometry.arguments import IntOrTuple, Padding
from fastconv.kernels import pool as kernels
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
    "lp_pool1d",
    "lp_pool1d_backward",
    "lp_pool2d",
    "lp_pool2d_backward",
    "lp_pool3d",
    "lp_pool3d_backward",
    "max_pool1d",
    "max_pool1d_backward",
    "max_pool2d",
    "max_pool2d_backward",
    "max_pool3d",
    "max_pool3d_backward",
    "max_unpool1d",
    "max_unpool1d_backward",
    "max_unpool2d",
    "max_unpool2d_backward",
    "max_unpool3d",
    "max_unpool3d_backward",
]

Array = NDArray[Any]
Shape = tuple[int, ...]

_MAX = """{ndim}-D max pool.

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

_MAX_BACKWARD = """Gradient of `max_pool{ndim}d` with respect to x.

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

_UNPOOL = """Inverse of `max_pool{ndim}d` as far as there is one: zeros, with x where its maxima were found.

    ``y[n, c, indices[n, c, o]] = x[n, c, o]``; the last of equal indices counts.

    Parameters
    ----------
    x : array (N, C, {size}) or (N, {size}, C), float32 or float64; N may be left out
    indices : int64 array of x's shape, flat in the planes of y
    kernel_size, stride, padding : those of the pool
    output_size : spatial size or whole shape of y, default None: stride (in - 1) + kernel_size - padding
        Less than one stride away from the default.
    data_format : "channels_first" (default) or "channels_last"
    out : array of y's shape and dtype, default None
        Where to write y; it may not overlap an input.

    Returns
    -------
    array (N, C, {out}) or (N, {out}, C)

    Raises
    ------
    TypeError
        x is not float32 or float64, indices are not int64, or a number is not an integer.
    ValueError
        Shapes or parameters do not fit each other, or an index lies outside its plane; then nothing is written.

    Source
    ------
    Zeiler and Fergus (2014), Visualizing and Understanding Convolutional Networks, section 2.1.
    """

_UNPOOL_BACKWARD = """Gradient of `max_unpool{ndim}d` with respect to x.

    ``grad_x[n, c, o] = grad_y[n, c, indices[n, c, o]]``

    Parameters
    ----------
    grad_y : array of y's shape
    indices, kernel_size, stride, padding, output_size, data_format : as in `max_unpool{ndim}d`
    out : array of x's shape and dtype, default None

    Returns
    -------
    array
        grad_x, shape of indices.

    Raises
    ------
    TypeError, ValueError
        As in `max_unpool{ndim}d`.
    """

_AVG = """{ndim}-D average pool.

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

_AVG_BACKWARD = """Gradient of `avg_pool{ndim}d` with respect to x.

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

_LP = """{ndim}-D power-mean pool.

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

_LP_BACKWARD = """Gradient of `lp_pool{ndim}d` with respect to x.

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

_max_plans: PlanCache[Pool] = PlanCache()
_unpool_plans: PlanCache[PoolGeometry] = PlanCache()
_avg_plans: PlanCache[Pool] = PlanCache()
_lp_plans: PlanCache[Pool] = PlanCache()


def _max_plan(
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
    plan = _max_plans.get(key)
    if plan is not None:
        return plan
    check_array(x, "x", (ndim + 1, ndim + 2))
    geometry = pool_geometry(
        batched(x.shape, ndim), kernel_size, stride, padding, dilation, ceil_mode=ceil_mode, data_format=data_format,
        ndim=ndim,
    )  # fmt: skip
    return _max_plans.put(key, Pool(geometry, pool_windows(geometry), x.dtype))


def _max_pool(
    ndim: int, x: Array, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool,
    return_indices: bool, data_format: str, out: Array | None,
) -> Any:  # fmt: skip
    plan = _max_plan(ndim, x, kernel_size, stride, padding, dilation, ceil_mode, data_format)
    return maximum(plan, x, as_bool(return_indices, "return_indices"), out)


def _max_pool_backward(
    ndim: int, grad_y: Array, x: Array, indices: Array | None, kernel_size: Any, stride: Any, padding: Any,
    dilation: Any, ceil_mode: bool, data_format: str, out: Array | None,
) -> Array:  # fmt: skip
    plan = _max_plan(ndim, x, kernel_size, stride, padding, dilation, ceil_mode, data_format)
    return maximum_backward(plan, grad_y, x, indices, out)


def _unpool_plan(
    ndim: int, shape: Shape, kernel_size: Any, stride: Any, padding: Any, output_size: Any, data_format: str
) -> PoolGeometry:
    """The geometry of the pool whose output has this shape."""
    kernel_size, padding = exact_tuple(kernel_size, ndim, "kernel_size"), exact_padding(padding, ndim)
    stride = kernel_size if stride is None else exact_tuple(stride, ndim, "stride")
    if output_size is not None:
        axes = ndim + 2 if isinstance(output_size, (tuple, list)) and len(output_size) == ndim + 2 else ndim
        output_size = exact_tuple(output_size, axes, "output_size")
    key = (ndim, shape, kernel_size, stride, padding, output_size, data_format)
    plan = _unpool_plans.get(key)
    if plan is not None:
        return plan
    geometry = unpool_geometry(
        batched(shape, ndim), kernel_size, stride, padding, output_size, data_format=data_format, ndim=ndim
    )
    return _unpool_plans.put(key, geometry)


def _max_unpool(
    ndim: int, x: Array, indices: Array, kernel_size: Any, stride: Any, padding: Any, output_size: Any,
    data_format: str, out: Array | None,
) -> Array:  # fmt: skip
    check_array(x, "x", (ndim + 1, ndim + 2))
    check_indices(indices, x.shape, "x")
    geometry = _unpool_plan(ndim, x.shape, kernel_size, stride, padding, output_size, data_format)
    pixels = prod(geometry.in_size)
    indices = contiguous(indices)
    if not kernels.indices_within(indices, pixels):
        check_indices_within(indices, pixels)
    shape = geometry.x_shape if x.ndim == ndim + 2 else geometry.x_shape[1:]
    y = output_array(out, shape, x.dtype, x, indices)
    kernels.place(contiguous(x), indices, y, *planes_of(geometry))
    return y


def _max_unpool_backward(
    ndim: int, grad_y: Array, indices: Array, kernel_size: Any, stride: Any, padding: Any, output_size: Any,
    data_format: str, out: Array | None,
) -> Array:  # fmt: skip
    check_array(grad_y, "grad_y", (ndim + 1, ndim + 2))
    check_indices(indices, np.shape(indices), "itself")
    geometry = _unpool_plan(ndim, indices.shape, kernel_size, stride, padding, output_size, data_format)
    shape = geometry.x_shape if indices.ndim == ndim + 2 else geometry.x_shape[1:]
    check_like(grad_y, "grad_y", shape, "indices")
    indices, pixels = contiguous(indices), prod(geometry.in_size)
    if not kernels.indices_within(indices, pixels):
        check_indices_within(indices, pixels)
    grad_x = output_array(out, indices.shape, grad_y.dtype, grad_y, indices)
    kernels.fetch(contiguous(grad_y), indices, grad_x, *planes_of(geometry))
    return grad_x


def _avg_plan(
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
    plan = _avg_plans.get(key)
    if plan is not None:
        return plan
    geometry = pool_geometry(
        batched(shape, ndim), kernel_size, stride, padding, ceil_mode=ceil_mode, data_format=data_format, ndim=ndim
    )
    windows = pool_windows(geometry, count_include_pad)
    if divisor is not None:
        windows = divided_by(windows, divisor)
    return _avg_plans.put(key, Pool(geometry, windows, dtype))


def _avg_pool(
    ndim: int, x: Array, kernel_size: Any, stride: Any, padding: Any, ceil_mode: bool, count_include_pad: bool,
    divisor_override: int | None, data_format: str, out: Array | None,
) -> Array:  # fmt: skip
    check_array(x, "x", (ndim + 1, ndim + 2))
    plan = _avg_plan(ndim, x.shape, x.dtype, kernel_size, stride, padding, ceil_mode, count_include_pad,
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
    plan = _avg_plan(ndim, x_shape, grad_y.dtype, kernel_size, stride, padding, ceil_mode, count_include_pad,
                     divisor_override, data_format)  # fmt: skip
    return mean_backward(plan, grad_y, x_shape, out)


def _lp_plan(
    ndim: int, x: Array, norm_type: Any, kernel_size: Any, stride: Any, ceil_mode: Any, data_format: str
) -> Pool:
    check_array(x, "x", (ndim + 1, ndim + 2))
    power = _as_power(norm_type)
    kernel_size = exact_tuple(kernel_size, ndim, "kernel_size")
    stride = kernel_size if stride is None else exact_tuple(stride, ndim, "stride")
    ceil_mode = as_bool(ceil_mode, "ceil_mode")
    key = (isa_index(), ndim, x.shape, x.dtype, power, kernel_size, stride, ceil_mode, data_format)
    plan = _lp_plans.get(key)
    if plan is not None:
        return plan
    geometry = pool_geometry(
        batched(x.shape, ndim), kernel_size, stride, ceil_mode=ceil_mode, data_format=data_format, ndim=ndim
    )
    return _lp_plans.put(key, Pool(geometry, pool_windows(geometry), x.dtype, power))


def _as_power(norm_type: Any) -> float:
    power = as_float(norm_type, "norm_type")
    if power == 0 or not isfinite(power):
        raise ValueError(f"norm_type must be finite and not 0, got norm_type={norm_type}; max_pool is the limit of inf")
    return power


def _lp_pool(
    ndim: int, x: Array, norm_type: float, kernel_size: Any, stride: Any, ceil_mode: bool, data_format: str,
    out: Array | None,
) -> Array:  # fmt: skip
    plan = _lp_plan(ndim, x, norm_type, kernel_size, stride, ceil_mode, data_format)
    y = plan.output(x, out)
    plan.norm(contiguous(x), y)
    return y


def _lp_pool_backward(
    ndim: int, grad_y: Array, x: Array, norm_type: float, kernel_size: Any, stride: Any, ceil_mode: bool,
    data_format: str, out: Array | None,
) -> Array:  # fmt: skip
    plan = _lp_plan(ndim, x, norm_type, kernel_size, stride, ceil_mode, data_format)
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


@documented(_MAX, 1)
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


@documented(_MAX, 2)
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


@documented(_MAX, 3)
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


@documented(_MAX_BACKWARD, 1)
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


@documented(_MAX_BACKWARD, 2)
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


@documented(_MAX_BACKWARD, 3)
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


@documented(_UNPOOL, 1)
def max_unpool1d(
    x: Array,
    indices: Array,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    padding: Padding = 0,
    output_size: IntOrTuple | None = None,
    *,
    data_format: str = "channels_first",
    out: Array | None = None,
) -> Array:
    return _max_unpool(1, x, indices, kernel_size, stride, padding, output_size, data_format, out)


@documented(_UNPOOL, 2)
def max_unpool2d(
    x: Array,
    indices: Array,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    padding: Padding = 0,
    output_size: IntOrTuple | None = None,
    *,
    data_format: str = "channels_first",
    out: Array | None = None,
) -> Array:
    return _max_unpool(2, x, indices, kernel_size, stride, padding, output_size, data_format, out)


@documented(_UNPOOL, 3)
def max_unpool3d(
    x: Array,
    indices: Array,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    padding: Padding = 0,
    output_size: IntOrTuple | None = None,
    *,
    data_format: str = "channels_first",
    out: Array | None = None,
) -> Array:
    return _max_unpool(3, x, indices, kernel_size, stride, padding, output_size, data_format, out)


@documented(_UNPOOL_BACKWARD, 1)
def max_unpool1d_backward(
    grad_y: Array,
    indices: Array,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    padding: Padding = 0,
    output_size: IntOrTuple | None = None,
    *,
    data_format: str = "channels_first",
    out: Array | None = None,
) -> Array:
    return _max_unpool_backward(1, grad_y, indices, kernel_size, stride, padding, output_size, data_format, out)


@documented(_UNPOOL_BACKWARD, 2)
def max_unpool2d_backward(
    grad_y: Array,
    indices: Array,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    padding: Padding = 0,
    output_size: IntOrTuple | None = None,
    *,
    data_format: str = "channels_first",
    out: Array | None = None,
) -> Array:
    return _max_unpool_backward(2, grad_y, indices, kernel_size, stride, padding, output_size, data_format, out)


@documented(_UNPOOL_BACKWARD, 3)
def max_unpool3d_backward(
    grad_y: Array,
    indices: Array,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    padding: Padding = 0,
    output_size: IntOrTuple | None = None,
    *,
    data_format: str = "channels_first",
    out: Array | None = None,
) -> Array:
    return _max_unpool_backward(3, grad_y, indices, kernel_size, stride, padding, output_size, data_format, out)


@documented(_AVG, 1)
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


@documented(_AVG, 2)
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


@documented(_AVG, 3)
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


@documented(_AVG_BACKWARD, 1)
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


@documented(_AVG_BACKWARD, 2)
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


@documented(_AVG_BACKWARD, 3)
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


@documented(_LP, 1)
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


@documented(_LP, 2)
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


@documented(_LP, 3)
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


@documented(_LP_BACKWARD, 1)
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


@documented(_LP_BACKWARD, 2)
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


@documented(_LP_BACKWARD, 3)
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
