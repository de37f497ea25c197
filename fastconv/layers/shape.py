"""Layers that change an array's shape and none of its values: flattening and padding."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np

from fastconv import functional as F
from fastconv.geometry import as_tuple, is_channels_last
from fastconv.layers.base import Array, Layer


class Identity(Layer):
    """y = x."""

    def forward(self, x: Array) -> Array:
        self.save()
        return x

    def backward(self, grad_y: Array) -> Array:
        self.restore()
        return grad_y

    def for_inference(self) -> list[Layer]:
        return []


class Flatten(Layer):
    """The axes start_dim to end_dim as one: by default x (N, ...) -> y (N, the product of the others).

    With data_format="channels_last" the order is still that of (N, C, *L), so that the linear layer behind it has the
    same weight in both layouts.
    """

    def __init__(self, start_dim: int = 1, end_dim: int = -1, *, data_format: str = "channels_first") -> None:
        self.channels_last = is_channels_last(data_format)
        self.start_dim = start_dim
        self.end_dim = end_dim

    def forward(self, x: Array) -> Array:
        x = np.moveaxis(x, -1, 1) if self.channels_last and x.ndim > 2 else x
        first, last = self.start_dim % x.ndim, self.end_dim % x.ndim
        if not (-x.ndim <= self.start_dim < x.ndim and -x.ndim <= self.end_dim < x.ndim and first <= last):
            raise ValueError(
                f"x has no axes start_dim={self.start_dim} to end_dim={self.end_dim}, its shape is {x.shape}"
            )
        self.save(x.shape)
        return x.reshape(*x.shape[:first], math.prod(x.shape[first : last + 1]), *x.shape[last + 1 :])

    def backward(self, grad_y: Array) -> Array:
        (shape,) = self.restore()
        grad_x = grad_y.reshape(shape)
        return np.moveaxis(grad_x, 1, -1) if self.channels_last and len(shape) > 2 else grad_x

    def extra_repr(self) -> str:
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"


class _PadNd(Layer):
    """Spatial axes lengthened at both ends; the subclasses say how many there are and what they are filled with.

    padding is an integer, or, as in PyTorch, (before, after) of the last axis, then of the one before it, and so on.
    x is (N, C, *L) or (N, *L, C), and may lack the batch axis.
    """

    ndim: ClassVar[int]
    mode: ClassVar[str]

    def __init_subclass__(cls, ndim: int | None = None) -> None:
        if ndim is not None:
            cls.ndim = ndim

    def __init__(self, padding: Any, *, data_format: str = "channels_first") -> None:
        is_channels_last(data_format)
        ends = as_tuple(padding, 2 * self.ndim, "padding", minimum=0)
        self.padding = ends
        self._pads = tuple(zip(ends[-2::-2], ends[::-2], strict=True))
        self.data_format = data_format

    def forward(self, x: Array) -> Array:
        self.save()
        return F.pad(x, self._pads, self.mode, data_format=self.data_format)

    def backward(self, grad_y: Array) -> Array:
        self.restore()
        return F.pad_backward(grad_y, self._pads, self.mode, data_format=self.data_format)

    def extra_repr(self) -> str:
        return f"{self.padding}"


class _ZeroPad(_PadNd):
    mode = "zeros"


class _ReflectionPad(_PadNd):
    mode = "reflect"


class _ReplicationPad(_PadNd):
    mode = "replicate"


class _CircularPad(_PadNd):
    mode = "circular"


class ZeroPad1d(_ZeroPad, ndim=1):
    """Zeros around x (N, C, L); padding is an integer or (left, right)."""


class ZeroPad2d(_ZeroPad, ndim=2):
    """Zeros around x (N, C, H, W); padding is an integer or (left, right, top, bottom)."""


class ZeroPad3d(_ZeroPad, ndim=3):
    """Zeros around x (N, C, D, H, W); padding is an integer or (left, right, top, bottom, front, back)."""


class ReflectionPad1d(_ReflectionPad, ndim=1):
    """x (N, C, L) mirrored at its ends, which are not repeated; padding is an integer or (left, right)."""


class ReflectionPad2d(_ReflectionPad, ndim=2):
    """x (N, C, H, W) mirrored at its edges; padding is an integer or (left, right, top, bottom)."""


class ReflectionPad3d(_ReflectionPad, ndim=3):
    """x (N, C, D, H, W) mirrored; padding is an integer or (left, right, top, bottom, front, back)."""


class ReplicationPad1d(_ReplicationPad, ndim=1):
    """x (N, C, L) with its ends repeated; padding is an integer or (left, right)."""


class ReplicationPad2d(_ReplicationPad, ndim=2):
    """x (N, C, H, W) with its edges repeated; padding is an integer or (left, right, top, bottom)."""


class ReplicationPad3d(_ReplicationPad, ndim=3):
    """x (N, C, D, H, W) with its faces repeated; padding is an integer or (left, right, top, bottom, front, back)."""


class CircularPad1d(_CircularPad, ndim=1):
    """x (N, C, L) continued periodically; padding is an integer or (left, right)."""


class CircularPad2d(_CircularPad, ndim=2):
    """x (N, C, H, W) continued periodically; padding is an integer or (left, right, top, bottom)."""


class CircularPad3d(_CircularPad, ndim=3):
    """x (N, C, D, H, W) continued periodically; padding is an integer or (left, right, top, bottom, front, back)."""
