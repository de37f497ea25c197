"""Pools over windows and whole planes, and what inverts a maximum.

A pool's windows are made here as ONNX has them (dilated means, pads above half a kernel, p-norms that count partial
windows as they are), and run by the kernels of `fastconv.functional`'s pools.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

import numpy as np

from fastconv import functional as F
from fastconv.backends.onnx.graph import Node
from fastconv.backends.onnx.kernels import Array, Constants, Kernel, floating, operator
from fastconv.backends.onnx.layout import as_first, as_lies, format_of, lies_last
from fastconv.backends.onnx.windows import NDIMS, Windows, windows_of
from fastconv.functional._output import contiguous
from fastconv.functional._pooling import Pool, planes_of
from fastconv.geometry import PoolGeometry
from fastconv.kernels.core import isa_index
from fastconv.kernels.memory import empty
from fastconv.kernels.pool import PoolPlan
from fastconv.planner import PlanCache
from fastconv.windows import AxisWindows, leading_axes, pool_windows

HOW = "pool"


class _Pools:
    """The pools of one node, planned once for each shape and dtype of x."""

    def __init__(self, windows: Windows, count_include_pad: bool = True) -> None:
        self.windows, self._count_include_pad = windows, count_include_pad
        self._pools: PlanCache[Pool] = PlanCache(16)

    def of(self, x: Array) -> Pool:
        """The pool of an x of this shape.

        Raises: ValueError where x has other axes than windows, or a window sees nothing of it.
        """
        last = lies_last(x)
        key = isa_index(), x.shape, x.dtype, last
        return self._pools.get(key) or self._pools.put(key, self._plan(x, last))

    def _plan(self, x: Array, last: bool) -> Pool:
        w = self.windows
        check_spatial(x, w.ndim)
        size = x.shape[2:]
        batch, channels = x.shape[:2]
        geometry = PoolGeometry(
            w.ndim, batch, channels, size, w.kernel, w.strides, w.padding(size), w.dilations, w.counts(size),
            w.ceil_mode, last,
        )  # fmt: skip
        axes = pool_windows(geometry)
        if any((axis.count < 1).any() for axis in axes):
            raise ValueError(f"each window must see some of x, got pads {w.padding(size)} for x of shape {x.shape}")
        counted = zip(axes, size, geometry.padding, strict=True)
        return Pool(geometry, tuple(_with_scale(*axis, self._count_include_pad) for axis in counted), x.dtype)


def _with_scale(axis: AxisWindows, size: int, padding: tuple[int, int], count_include_pad: bool) -> AxisWindows:
    """The axis with the divisors of a mean: the taps inside x, and those in its padding if they count."""
    if not count_include_pad:
        return replace(axis, scale=axis.count.astype(np.float64))
    start = np.arange(axis.out) * axis.stride - padding[0]
    taps = np.minimum(axis.taps, -(-(size + padding[1] - start) // axis.step))
    return replace(axis, scale=taps.astype(np.float64))


def check_spatial(x: Array, ndim: int) -> None:
    """Raise unless x has this many spatial axes."""
    if x.ndim != ndim + 2:
        raise ValueError(f"x must have {ndim + 2} dimensions, N, C and {ndim} spatial, got shape {x.shape}")


@operator("MaxPool")
def _max_pool(node: Node, constants: Constants) -> Kernel:
    pools = _Pools(windows_of(node))
    with_indices = bool(len(node.outputs) > 1 and node.outputs[1])
    by_columns = node.get("storage_order", 0) == 1

    def run(x: Array) -> Any:
        if x.dtype in (np.int8, np.uint8):  # which float32 holds
            found = run(x.astype(np.float32))
            return (found[0].astype(x.dtype), found[1]) if with_indices else found.astype(x.dtype)
        return of_floats(x)

    @floating
    def of_floats(x: Array) -> Any:
        if not with_indices:
            return _run(pools.of(x), "maximum", x)
        x = contiguous(x)
        pool = pools.of(x)
        pool.check_indexable()
        y, indices = pool.output(x, None), np.empty(pool.y_shape, np.int64)
        pool.maximum(x, y, indices)
        return y, _indices_of_all(indices, x.shape, by_columns)

    return Kernel(run, HOW)


def _run(pool: Pool, kind: str, x: Array) -> Array:
    """One of a pool's kernels on x as it lies."""
    last = pool.geometry.channels_last
    lying = contiguous(as_lies(x, last))
    y = pool.output(lying, None)
    getattr(pool, kind)(lying, y)
    return as_first(y, last)


def _indices_of_all(indices: Array, x_shape: tuple[int, ...], by_columns: bool) -> Array:
    """Indices in planes as indices in all of x; by columns, the first spatial axis runs fastest in a plane."""
    size = x_shape[2:]
    if by_columns:
        indices = np.ravel_multi_index(np.unravel_index(indices, size)[::-1], size[::-1])
    planes = np.arange(prod(x_shape[:2]), dtype=np.int64) * prod(size)
    return indices + planes.reshape(*x_shape[:2], *(1,) * len(size))


@operator("AveragePool")
def _average_pool(node: Node, constants: Constants) -> Kernel:
    pools = _Pools(windows_of(node), bool(node.get("count_include_pad", 0)))

    return Kernel(floating(lambda x: _run(pools.of(x), "mean", x)), HOW)


@operator("LpPool")
def _lp_pool(node: Node, constants: Constants) -> Kernel:
    power = _power(node)
    pools = _Pools(windows_of(node))
    norms: PlanCache[PoolPlan] = PlanCache(16)

    @floating
    def run(x: Array) -> Array:
        x = contiguous(x)
        pool = pools.of(x)
        key = isa_index(), x.shape, x.dtype
        norm = norms.get(key) or norms.put(key, _norm(pool, power))
        y = pool.output(x, None)
        norm(x if power == 2 else np.abs(x), y)
        return y

    return Kernel(run, HOW)


def _norm(pool: Pool, power: float) -> PoolPlan:
    """The p-norm of what the windows see; the divisors of a mean are none here."""
    axes = leading_axes(tuple(replace(axis, scale=np.ones(axis.out)) for axis in pool.windows))
    planes, channels = planes_of(pool.geometry)
    return PoolPlan(int(pool.dtype == np.float64), planes, channels, axes, "norm", power=power, whole=1.0)


def _power(node: Node) -> float:
    power = float(node.get("p", 2))
    if not 1 <= power < np.inf:
        raise ValueError(f"attribute p must be finite and at least 1, got {power:g}")
    return power


@operator("GlobalAveragePool", "GlobalMaxPool")
def _global_pool(node: Node, constants: Constants) -> Kernel:
    maximum = node.op == "GlobalMaxPool"
    function, of_many_axes = (F.global_max_pool, np.max) if maximum else (F.global_avg_pool, np.mean)

    @floating
    def run(x: Array) -> Array:
        if x.ndim - 2 in NDIMS:
            last = lies_last(x)
            y: Array = function(as_lies(x, last), data_format=format_of(last))
            return y.reshape(*x.shape[:2], *(1,) * (x.ndim - 2))
        return np.asarray(of_many_axes(x, axis=tuple(range(2, x.ndim)), keepdims=True))

    return Kernel(run, "global pool")


@operator("GlobalLpPool")
def _global_lp_pool(node: Node, constants: Constants) -> Kernel:
    power = _power(node)

    @floating
    def run(x: Array) -> Array:
        planes = np.abs(x).reshape(*x.shape[:2], -1)
        norms = np.linalg.norm(planes, ord=power, axis=2)
        return norms.astype(x.dtype).reshape(*x.shape[:2], *(1,) * (x.ndim - 2))

    return Kernel(run)


@operator("MaxUnpool")
def _max_unpool(node: Node, constants: Constants) -> Kernel:
    windows = windows_of(node)

    @floating
    def run(x: Array, indices: Array, output_shape: Array | None = None) -> Array:
        check_spatial(x, windows.ndim)
        if indices.shape != x.shape:
            raise ValueError(f"I must have the shape of X, {x.shape}, got {indices.shape}")
        shape = (*x.shape[:2], *_unpooled_size(windows, x.shape[2:]))
        wanted = shape if output_shape is None else tuple(output_shape.tolist())
        if len(wanted) != len(shape) or wanted[:2] != shape[:2]:
            raise ValueError(f"output_shape must be {shape[:2]} and {windows.ndim} sizes, got {wanted}")
        if wanted != shape and _lie_in_windows(indices, wanted, windows):
            shape = wanted
        y = _placed(x, indices, shape)
        return y if shape == wanted else _resized(y, wanted)

    return Kernel(run)


def _unpooled_size(windows: Windows, size: tuple[int, ...]) -> tuple[int, ...]:
    axes = zip(size, windows.strides, windows.kernel, windows.pads, strict=True)
    return tuple((n - 1) * s + k - sum(pair) for n, s, k, pair in axes)


def _lie_in_windows(indices: Array, shape: tuple[int, ...], windows: Windows) -> bool:
    """Whether these are the indices of a pool over this shape.

    Where output_shape is not what kernel, strides and pads come to, the specification has indices count the elements of
    output_shape, as those of a MaxPool over it do; onnx's own test has them count those of the smaller shape, which is
    then filled up with zeros. The former is taken where each index lies in the window that it belongs to.
    """
    if indices.size and not 0 <= indices.min() <= indices.max() < prod(shape):
        return False
    places: tuple[Array, ...] = np.indices(indices.shape, sparse=True)
    found: tuple[Array, ...] = np.unravel_index(indices, shape)
    inside = (found[0] == places[0]) & (found[1] == places[1])
    spatial = zip(found[2:], places[2:], windows.strides, windows.kernel, windows.pads, strict=True)
    for position, output, stride, taps, (before, _) in spatial:
        tap = position - (output * stride - before)
        inside &= (tap >= 0) & (tap < taps)
    return bool(inside.all())


def _placed(x: Array, indices: Array, shape: tuple[int, ...]) -> Array:
    if indices.size and not 0 <= indices.min() <= indices.max() < prod(shape):
        raise ValueError(f"I must lie in 0 .. {prod(shape) - 1}, the elements of {shape}")
    y = empty(shape, x.dtype)
    y.fill(0)
    y.reshape(-1)[indices.reshape(-1)] = x.reshape(-1)
    return y


def _resized(y: Array, shape: tuple[int, ...]) -> Array:
    """y cut, or filled up with zeros, at the end of each axis."""
    whole = np.zeros(shape, y.dtype)
    common = tuple(slice(min(have, want)) for have, want in zip(y.shape, shape, strict=True))
    whole[common] = y[common]
    return whole
