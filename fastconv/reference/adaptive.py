"""Adaptive and global pools: the output size is given, the windows follow."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from fastconv.reference.planes import gather_planes, plane_numbers, scatter_planes
from fastconv.reference.windows import FIRST, Array, Layout, Size, each, ranks


def _bins(size: Size, output_size: Any) -> tuple[Size, list[tuple[Any, Any]]]:
    """The output size, and every output with its window floor(i L / o) .. ceil((i + 1) L / o)."""
    out = tuple(i if o is None else o for o, i in zip(each(output_size, len(size)), size, strict=True))
    windows = [[slice(j * i // o, -(-(j + 1) * i // o)) for j in range(o)] for i, o in zip(size, out, strict=True)]
    return out, [((..., *at), (..., *(w[j] for w, j in zip(windows, at, strict=True)))) for at in np.ndindex(*out)]


def _adaptive_avg_pool(ndim: int, x: Array, output_size: Any, *, data_format: str = FIRST) -> Array:
    """y[n,c,o] = mean of x[n,c] over bin o."""
    layout = Layout(x, ndim, data_format)
    x = layout.enter(x)
    out, bins = _bins(x.shape[2:], output_size)
    y = np.empty((*x.shape[:2], *out), x.dtype)
    for at, window in bins:
        y[at] = x[window].mean(tuple(range(2, x.ndim)))
    return layout.leave(y)


def _adaptive_avg_pool_backward(
    ndim: int, grad_y: Array, x_shape: Iterable[int], output_size: Any, *, data_format: str = FIRST
) -> Array:
    """Gradient of `_adaptive_avg_pool` by x."""
    layout = Layout(grad_y, ndim, data_format)
    grad_y, grad_x = layout.enter(grad_y), np.zeros(layout.enter_shape(x_shape), grad_y.dtype)
    for at, window in _bins(grad_x.shape[2:], output_size)[1]:
        share = grad_y[at] / math.prod(grad_x[window].shape[2:])
        grad_x[window] += share.reshape(*share.shape, *(1,) * ndim)
    return layout.leave(grad_x)


def _adaptive_max_pool(
    ndim: int, x: Array, output_size: Any, return_indices: bool = False, *, data_format: str = FIRST
) -> Any:
    """y[n,c,o] = largest x[n,c] in bin o (first of equals, else the last NaN), and its flat plane index."""
    layout = Layout(x, ndim, data_format)
    x = layout.enter(x)
    out, bins = _bins(x.shape[2:], output_size)
    places = plane_numbers(x.shape[2:])
    indices = np.empty((*x.shape[:2], *out), places.dtype)
    for at, window in bins:
        values = x[window].reshape(*x.shape[:2], places[window].size)
        nan = np.isnan(values)
        last_nan = nan.shape[-1] - 1 - nan[..., ::-1].argmax(-1)
        indices[at] = places[window].ravel()[np.where(nan.any(-1), last_nan, values.argmax(-1))]
    y = gather_planes(x, indices)
    return (layout.leave(y), layout.leave(indices)) if return_indices else layout.leave(y)


def _adaptive_max_pool_backward(
    ndim: int, grad_y: Array, x: Array, indices: Array | None, output_size: Any, *, data_format: str = FIRST
) -> Array:
    """Gradient of `_adaptive_max_pool` by x."""
    layout = Layout(x, ndim, data_format)
    if indices is None:
        _, indices = _adaptive_max_pool(ndim, x, output_size, True, data_format=data_format)
    shape = layout.enter(x).shape
    return layout.leave(scatter_planes(layout.enter(grad_y), layout.enter(indices), shape))


adaptive_avg_pool1d, adaptive_avg_pool2d, adaptive_avg_pool3d = ranks(_adaptive_avg_pool)
adaptive_max_pool1d, adaptive_max_pool2d, adaptive_max_pool3d = ranks(_adaptive_max_pool)
adaptive_avg_pool1d_backward, adaptive_avg_pool2d_backward, adaptive_avg_pool3d_backward = ranks(
    _adaptive_avg_pool_backward
)
adaptive_max_pool1d_backward, adaptive_max_pool2d_backward, adaptive_max_pool3d_backward = ranks(
    _adaptive_max_pool_backward
)


def global_avg_pool(x: Array, *, data_format: str = FIRST) -> Array:
    """y[n,c] = mean of x[n,c] over all spatial axes."""
    x = Layout(x, x.ndim - 2, data_format).enter(x)
    return np.asarray(x.mean(tuple(range(2, x.ndim))))


def global_avg_pool_backward(grad_y: Array, x_shape: Iterable[int], *, data_format: str = FIRST) -> Array:
    """Gradient of `global_avg_pool` by x."""
    grad_x = np.zeros(tuple(x_shape), grad_y.dtype)
    layout = Layout(grad_x, grad_x.ndim - 2, data_format)
    spatial = (1,) * (grad_x.ndim - 2)
    share = grad_y.reshape(*grad_y.shape[:2], *spatial) / math.prod(layout.enter(grad_x).shape[2:])
    return layout.leave(layout.enter(grad_x) + share)


def global_max_pool(x: Array, return_indices: bool = False, *, data_format: str = FIRST) -> Any:
    """y[n,c] = the largest x[n,c] (first of equals, else the last NaN), and its flat plane index."""
    ndim = x.ndim - 2
    found = _adaptive_max_pool(ndim, x, 1, True, data_format=data_format)
    y, indices = (a.reshape(a.shape[:2]) for a in map(Layout(x, ndim, data_format).enter, found))
    return (y, indices) if return_indices else y


def global_max_pool_backward(
    grad_y: Array, x: Array, indices: Array | None = None, *, data_format: str = FIRST
) -> Array:
    """Gradient of `global_max_pool` by x."""
    if indices is None:
        _, indices = global_max_pool(x, True, data_format=data_format)
    layout = Layout(x, x.ndim - 2, data_format)
    shape = layout.enter(x).shape
    ones = (*shape[:2], *(1,) * (x.ndim - 2))
    return layout.leave(scatter_planes(grad_y.reshape(ones), indices.reshape(ones), shape))
