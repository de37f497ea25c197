"""Max unpools in 1, 2 and 3 spatial dimensions, and their gradients."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastconv.functional._convolution import documented, exact_padding, exact_tuple
from fastconv.functional._output import check_like, contiguous, output_array
from fastconv.functional._pooling import batched, check_indices, check_indices_within, planes_of
from fastconv.geometry import PoolGeometry, check_array, unpool_geometry
from fastconv.geometry.arguments import IntOrTuple, Padding
from fastconv.kernels import pool as kernels
from fastconv.planner import PlanCache

__all__ = [
    "max_unpool1d",
    "max_unpool1d_backward",
    "max_unpool2d",
    "max_unpool2d_backward",
    "max_unpool3d",
    "max_unpool3d_backward",
]

Array = NDArray[Any]
Shape = tuple[int, ...]

_plans: PlanCache[PoolGeometry] = PlanCache()


def _plan(
    ndim: int, shape: Shape, kernel_size: Any, stride: Any, padding: Any, output_size: Any, data_format: str
) -> PoolGeometry:
    """The geometry of the pool whose output has this shape."""
    kernel_size, padding = exact_tuple(kernel_size, ndim, "kernel_size"), exact_padding(padding, ndim)
    stride = kernel_size if stride is None else exact_tuple(stride, ndim, "stride")
    if output_size is not None:
        axes = ndim + 2 if isinstance(output_size, (tuple, list)) and len(output_size) == ndim + 2 else ndim
        output_size = exact_tuple(output_size, axes, "output_size")
    key = (ndim, shape, kernel_size, stride, padding, output_size, data_format)
    plan = _plans.get(key)
    if plan is not None:
        return plan
    geometry = unpool_geometry(
        batched(shape, ndim), kernel_size, stride, padding, output_size, data_format=data_format, ndim=ndim
    )
    return _plans.put(key, geometry)


def _max_unpool(
    ndim: int, x: Array, indices: Array, kernel_size: Any, stride: Any, padding: Any, output_size: Any,
    data_format: str, out: Array | None,
) -> Array:  # fmt: skip
    check_array(x, "x", (ndim + 1, ndim + 2))
    check_indices(indices, x.shape, "x")
    geometry = _plan(ndim, x.shape, kernel_size, stride, padding, output_size, data_format)
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
    geometry = _plan(ndim, indices.shape, kernel_size, stride, padding, output_size, data_format)
    shape = geometry.x_shape if indices.ndim == ndim + 2 else geometry.x_shape[1:]
    check_like(grad_y, "grad_y", shape, "indices")
    indices, pixels = contiguous(indices), prod(geometry.in_size)
    if not kernels.indices_within(indices, pixels):
        check_indices_within(indices, pixels)
    grad_x = output_array(out, indices.shape, grad_y.dtype, grad_y, indices)
    kernels.fetch(contiguous(grad_y), indices, grad_x, *planes_of(geometry))
    return grad_x


_FORWARD = """Inverse of `max_pool{ndim}d` as far as there is one: zeros, with x where its maxima were found.

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


@documented(_FORWARD, 1)
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


@documented(_FORWARD, 2)
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


@documented(_FORWARD, 3)
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


_BACKWARD = """Gradient of `max_unpool{ndim}d` with respect to x.

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


@documented(_BACKWARD, 1)
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


@documented(_BACKWARD, 2)
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


@documented(_BACKWARD, 3)
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
