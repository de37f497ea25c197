"""Pools over sliding windows: max, its inverse, mean and p-norm."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from fastconv.reference.padding import pad_axes, pad_axes_adjoint
from fastconv.reference.planes import gather_planes, plane_index, plane_numbers, scatter_planes
from fastconv.reference.windows import FIRST, Array, Layout, Size, as_pairs, each, pool_window, ranks, taps


def _max_pool(
    ndim: int, x: Array, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
    ceil_mode: bool = False, return_indices: bool = False, *, data_format: str = FIRST,
) -> Any:  # fmt: skip
    """y[n,c,o] = the largest x[n,c,o * stride + t * dilation - padding] over taps t, and its flat plane index.

    The first of equal elements wins, the last NaN wins over all. Padding never wins: a window of nothing else
    (possible with dilation alone) gives -inf and index -1.
    """
    layout, kernel = Layout(x, ndim, data_format), each(kernel_size, ndim)
    stride, dilation = each(kernel if stride is None else stride, ndim), each(dilation, ndim)
    x = layout.enter(x)
    pads = as_pairs(padding, kernel, stride, dilation)
    out, room = pool_window(x.shape[2:], kernel, stride, pads, dilation, ceil_mode)
    padded, places = pad_axes(x, room, value=-np.inf), pad_axes(plane_numbers(x.shape[2:]), room, value=-1)
    y = np.full((*x.shape[:2], *out), -np.inf, x.dtype)
    indices = np.full(y.shape, -1)
    for _, at in taps(kernel, out, stride, dilation):
        value, place = padded[at], places[at]
        wins = (place >= 0) & ((value > y) | np.isnan(value) | (indices < 0))
        y, indices = np.where(wins, value, y), np.where(wins, place, indices)
    return (layout.leave(y), layout.leave(indices)) if return_indices else layout.leave(y)


def _max_pool_backward(
    ndim: int, grad_y: Array, x: Array, indices: Array | None, kernel_size: Any, stride: Any = None, padding: Any = 0,
    dilation: Any = 1, ceil_mode: bool = False, *, data_format: str = FIRST,
) -> Array:  # fmt: skip
    """Gradient of `_max_pool` by x: every output gives its gradient to the element that won."""
    layout = Layout(x, ndim, data_format)
    if indices is None:
        _, indices = _max_pool(
            ndim, x, kernel_size, stride, padding, dilation, ceil_mode, True, data_format=data_format
        )
    shape = layout.enter(x).shape
    return layout.leave(scatter_planes(layout.enter(grad_y), layout.enter(indices), shape))


def _max_unpool(
    ndim: int, x: Array, indices: Array, kernel_size: Any, stride: Any = None, padding: Any = 0,
    output_size: Any = None, *, data_format: str = FIRST,
) -> Array:  # fmt: skip
    """Zeros of output_size, default (L - 1) * stride - 2 * padding + kernel, with x put at flat plane indices."""
    layout, kernel = Layout(x, ndim, data_format), each(kernel_size, ndim)
    x, indices = layout.enter(x), layout.enter(indices)
    strides, pads = each(kernel if stride is None else stride, ndim), each(padding, ndim)
    size = tuple((i - 1) * s - 2 * p + k for i, k, s, p in zip(x.shape[2:], kernel, strides, pads, strict=True))
    if output_size is not None:
        named = each(output_size, ndim)
        size = layout.enter_shape(named)[2:] if len(named) == ndim + 2 else named
    if indices.size and not 0 <= indices.min() <= indices.max() < math.prod(size):
        raise ValueError(f"indices must lie in a plane of {size}, got {indices.min()} .. {indices.max()}")
    planes = np.zeros((*x.shape[:2], math.prod(size)), x.dtype)
    at = plane_index(indices)
    planes[at] = x.reshape(at[2].shape)
    return layout.leave(planes.reshape(*x.shape[:2], *size))


def _max_unpool_backward(
    ndim: int, grad_y: Array, indices: Array, kernel_size: Any = None, stride: Any = None, padding: Any = 0,
    output_size: Any = None, *, data_format: str = FIRST,
) -> Array:  # fmt: skip
    """Gradient of `_max_unpool` by x: grad_y read at the indices (the sizes are implied by grad_y's)."""
    layout = Layout(grad_y, ndim, data_format)
    grad_y, indices = layout.enter(grad_y), layout.enter(indices)
    return layout.leave(gather_planes(grad_y, indices))


max_pool1d, max_pool2d, max_pool3d = ranks(_max_pool)
max_pool1d_backward, max_pool2d_backward, max_pool3d_backward = ranks(_max_pool_backward)
max_unpool1d, max_unpool2d, max_unpool3d = ranks(_max_unpool)
max_unpool1d_backward, max_unpool2d_backward, max_unpool3d_backward = ranks(_max_unpool_backward)


class _MeanWindows:
    """sum(x) over a window / divisor, and its adjoint, for x of shape (N, C, *size)."""

    def __init__(self, size: Size, kernel_size: Any, stride: Any, padding: Any, ceil_mode: bool,
                 count_include_pad: bool = True, divisor_override: int | None = None) -> None:  # fmt: skip
        ndim = len(size)
        self.kernel, self.ones = each(kernel_size, ndim), (1,) * ndim
        self.stride = each(self.kernel if stride is None else stride, ndim)
        pads = as_pairs(padding, self.kernel, self.stride, self.ones)
        self.out, self.room = pool_window(size, self.kernel, self.stride, pads, self.ones, ceil_mode)
        # What counts is what lies in the input, and in its padding if asked, but never in ceil_mode's overhang.
        overhang = tuple((0, r[1] - p[1]) for r, p in zip(self.room, pads, strict=True))
        counted = pad_axes(np.ones(size), pads, value=float(count_include_pad))
        self.divisor = divisor_override or self.sum(pad_axes(counted, overhang))

    def sum(self, padded: Array) -> Any:
        return sum(padded[at] for _, at in taps(self.kernel, self.out, self.stride, self.ones))

    def mean(self, x: Array) -> Array:
        return np.asarray(self.sum(pad_axes(x, self.room)) / self.divisor, x.dtype)

    def mean_adjoint(self, grad_y: Array, size: Size) -> Array:
        room = tuple(i + b + a for i, (b, a) in zip(size, self.room, strict=True))
        padded = np.zeros((*grad_y.shape[:2], *room), grad_y.dtype)
        for _, at in taps(self.kernel, self.out, self.stride, self.ones):
            padded[at] += grad_y / self.divisor
        return pad_axes_adjoint(padded, self.room)


def _avg_pool(
    ndim: int, x: Array, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
    count_include_pad: bool = True, divisor_override: int | None = None, *, data_format: str = FIRST,
) -> Array:  # fmt: skip
    """y[n,c,o] = sum of the window / (divisor_override, or the number of its elements that count)."""
    layout = Layout(x, ndim, data_format)
    x = layout.enter(x)
    windows = _MeanWindows(x.shape[2:], kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)
    return layout.leave(windows.mean(x))


def _avg_pool_backward(
    ndim: int, grad_y: Array, x_shape: Iterable[int], kernel_size: Any, stride: Any = None, padding: Any = 0,
    ceil_mode: bool = False, count_include_pad: bool = True, divisor_override: int | None = None, *,
    data_format: str = FIRST,
) -> Array:  # fmt: skip
    """Gradient of `_avg_pool` by x."""
    layout = Layout(grad_y, ndim, data_format)
    size = layout.enter_shape(x_shape)[2:]
    windows = _MeanWindows(size, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)
    return layout.leave(windows.mean_adjoint(layout.enter(grad_y), size))


def _lp_pool(
    ndim: int, x: Array, norm_type: float, kernel_size: Any, stride: Any = None, ceil_mode: bool = False, *,
    data_format: str = FIRST,
) -> Array:  # fmt: skip
    """y = (K * mean of the window's x ** p) ** (1 / p), K the elements of a whole window; no absolute value."""
    layout = Layout(x, ndim, data_format)
    x = layout.enter(x)
    windows = _MeanWindows(x.shape[2:], kernel_size, stride, 0, ceil_mode)
    return layout.leave((windows.mean(x**norm_type) * math.prod(windows.kernel)) ** (1 / norm_type))


def _lp_pool_backward(
    ndim: int, grad_y: Array, x: Array, norm_type: float, kernel_size: Any, stride: Any = None,
    ceil_mode: bool = False, *, data_format: str = FIRST,
) -> Array:  # fmt: skip
    """Gradient of `_lp_pool` by x: x ** (p - 1) * adjoint of K * mean, of grad_y * s ** (1 / p - 1), 0 where s = 0."""
    layout = Layout(x, ndim, data_format)
    x, grad_y = layout.enter(x), layout.enter(grad_y)
    windows = _MeanWindows(x.shape[2:], kernel_size, stride, 0, ceil_mode)
    whole = math.prod(windows.kernel)
    s = windows.mean(x**norm_type) * whole
    slope = np.where(s == 0, 0, np.where(s == 0, 1, s) ** (1 / norm_type - 1))
    return layout.leave(x ** (norm_type - 1) * windows.mean_adjoint(grad_y * slope * whole, x.shape[2:]))


avg_pool1d, avg_pool2d, avg_pool3d = ranks(_avg_pool)
avg_pool1d_backward, avg_pool2d_backward, avg_pool3d_backward = ranks(_avg_pool_backward)
lp_pool1d, lp_pool2d, lp_pool3d = ranks(_lp_pool)
lp_pool1d_backward, lp_pool2d_backward, lp_pool3d_backward = ranks(_lp_pool_backward)
