"""What all pools share: their plans, kept by what the user wrote, and how these meet arrays."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastconv.functional._output import check_like, contiguous, output_array
from fastconv.geometry import AdaptivePoolGeometry, PoolGeometry, check_array, check_same_dtype, is_int
from fastconv.kernels.pool import PoolPlan
from fastconv.windows import AxisWindows, adjoint, is_apart, is_cover, leading_axes, rescaled

Array = NDArray[Any]

INDEX_LIMIT = {4: 2**31, 8: 2**63}  # elements of a plane that indices as wide as an element can tell apart


def as_x_shape(x_shape: Any) -> tuple[int, ...]:
    """The argument of backwards that need no x but its shape; raises TypeError unless it is a tuple of integers."""
    if not isinstance(x_shape, (tuple, list)) or not all(is_int(size) for size in x_shape):
        raise TypeError(f"x_shape must be a tuple of integers, got x_shape={x_shape!r}")
    return tuple(int(size) for size in x_shape)


@dataclass(frozen=True, eq=False)
class Pool:
    """The kernels of one pool; each is planned when it is first needed."""

    geometry: PoolGeometry | AdaptivePoolGeometry
    windows: tuple[AxisWindows, ...]
    dtype: np.dtype[Any]
    power: float = 1.0  # of lp_pool

    @cached_property
    def x_shape(self) -> tuple[int, ...]:
        """Shape of the batched input in its layout."""
        return self.geometry.x_shape

    @cached_property
    def y_shape(self) -> tuple[int, ...]:
        """Shape of the batched output in its layout."""
        return self.geometry.y_shape

    @cached_property
    def axes(self) -> tuple[AxisWindows, ...]:
        """The windows over D, H and W."""
        return leading_axes(self.windows)

    @cached_property
    def maximum(self) -> PoolPlan:
        """(x, y, indices or None); `route` is its adjoint."""
        return self._plan("max", self.axes, apart=is_apart(self.axes), cover=is_cover(self.axes))

    @cached_property
    def mean(self) -> PoolPlan:
        """(x, y)."""
        return self._plan("mean", self.axes)

    @cached_property
    def spread(self) -> PoolPlan:
        """The adjoint of the mean, (grad_y, grad_x)."""
        return self._plan("spread", tuple(adjoint(axis) for axis in self.axes))

    @cached_property
    def norm(self) -> PoolPlan:
        """(x, y), or (x, slope's product with grad_y, None, grad_y)."""
        return self._plan("norm", self.axes, power=self.power, whole=float(prod(self.kernel)))

    @cached_property
    def norm_spread(self) -> PoolPlan:
        """The adjoint of whole * mean."""
        axes = leading_axes(rescaled(self.windows, tuple(1 / k for k in self.kernel)))
        return self._plan("spread", tuple(adjoint(axis) for axis in axes))

    @property
    def kernel(self) -> tuple[int, ...]:
        """Taps of each axis."""
        return tuple(axis.taps for axis in self.windows)

    def _plan(self, kind: str, axes: tuple[AxisWindows, ...], **options: Any) -> PoolPlan:
        planes, channels = planes_of(self.geometry)
        return PoolPlan(int(self.dtype == np.float64), planes, channels, axes, kind, **options)

    def output(self, x: Array, out: Array | None, *inputs: Array | None) -> Array:
        """Where y goes, batched if x is."""
        shape = self.y_shape if x.ndim == len(self.x_shape) else self.y_shape[1:]
        return output_array(out, shape, self.dtype, x, *inputs)

    def check_gradient(self, grad_y: Array, x_ndim: int, like: str = "x") -> None:
        """Raise unless grad_y is like the output for an x of so many dimensions."""
        check_array(grad_y, "grad_y")
        check_like(grad_y, "grad_y", self.y_shape if x_ndim == len(self.x_shape) else self.y_shape[1:], like)

    @cached_property
    def pixels(self) -> int:
        """Elements of an input plane."""
        return prod(self.geometry.in_size)

    def check_indexable(self) -> None:
        """Raise where the kernels cannot number the elements of a plane."""
        limit = INDEX_LIMIT[self.dtype.itemsize]
        if self.pixels >= limit:
            raise ValueError(
                f"x must have less than {limit} elements a plane for indices in {self.dtype}, got {self.pixels}"
            )


def planes_of(geometry: PoolGeometry | AdaptivePoolGeometry) -> tuple[int, int]:
    """How many planes of pixels there are, and the elements of a pixel: one channel is the same in both layouts."""
    g = geometry
    if g.channels_last and g.channels > 1:
        return g.batch, g.channels
    return g.batch * g.channels, 1


def batched(shape: tuple[int, ...], ndim: int) -> tuple[int, ...]:
    """The shape with a batch axis of 1 where it has none."""
    return (1, *shape) if len(shape) == ndim + 1 else shape


def mean_backward(pool: Pool, grad_y: Array, x_shape: tuple[int, ...], out: Array | None) -> Array:
    """grad_x of a mean."""
    pool.check_gradient(grad_y, len(x_shape), "x_shape")
    grad_x = output_array(out, x_shape, pool.dtype, grad_y)
    pool.spread(contiguous(grad_y), grad_x)
    return grad_x


def maximum(pool: Pool, x: Array, y: Array, return_indices: bool) -> Any:
    """y once it is filled, or (y, indices)."""
    if not return_indices:
        pool.maximum(contiguous(x), y)
        return y
    pool.check_indexable()
    indices = np.empty(y.shape, np.int64)
    pool.maximum(contiguous(x), y, indices)
    return y, indices


def maximum_backward(pool: Pool, grad_y: Array, x: Array, indices: Array | None, out: Array | None) -> Array:
    """grad_x of a maximum."""
    pool.check_gradient(grad_y, x.ndim)
    check_same_dtype(x=x, grad_y=grad_y)
    pool.check_indexable()
    if indices is not None:
        check_indices(indices, grad_y.shape, "grad_y")
    grad_x = output_array(out, x.shape, pool.dtype, grad_y, x, indices)
    if out is not None and indices is not None:
        check_indices_within(indices, pool.pixels)
    if indices is None:
        pool.maximum.route(contiguous(grad_y), grad_x, contiguous(x))
    elif not pool.maximum.route(contiguous(grad_y), grad_x, x, contiguous(indices)):
        check_indices_within(indices, pool.pixels)
    return grad_x


def check_indices(indices: Any, shape: tuple[int, ...], like: str) -> None:
    """Raise unless `indices` is an int64 array of this shape."""
    if not isinstance(indices, np.ndarray) or indices.dtype != np.int64:
        got = f"dtype {indices.dtype}" if isinstance(indices, np.ndarray) else type(indices).__name__
        raise TypeError(f"indices must be an int64 array, as pools return it, got {got}")
    check_like(indices, "indices", shape, like)


def check_indices_within(indices: Array, pixels: int) -> None:
    """Raise unless all indices lie in a plane of so many pixels."""
    if indices.size and not 0 <= indices.min() <= indices.max() < pixels:
        raise ValueError(
            f"indices must lie in 0 .. {pixels - 1}, the elements of a plane, got {indices.min()} .. {indices.max()}"
        )
