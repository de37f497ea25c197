"""Where channels lie in memory.

A value's axes are always ONNX's, (N, C, *size). What lies in memory may be (N, *size, C): Transposes are views, so that
is what follows one, and `Session(data_format="channels_last")` begins with it. Kernels take either as it lies and
return the same, as PyTorch's do with its memory formats: a network whose blocks turn their values about, as those of
transformers do, then copies nothing.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastconv import functional as F
from fastconv.geometry.arrays import DTYPES
from fastconv.kernels.memory import empty

Array = NDArray[Any]
Shape = tuple[int, ...]


@cache  # np.moveaxis finds them anew each time, for longer than a small kernel takes
def _to_last(ndim: int) -> Shape:
    return 0, *range(2, ndim), 1


@cache
def _to_first(ndim: int) -> Shape:
    return 0, ndim - 1, *range(1, ndim - 1)


def lies_last(x: Array) -> bool:
    """Whether the channels of x (N, C, *size) lie last, without gaps, and not first as well."""
    return x.ndim > 2 and not x.flags.c_contiguous and x.transpose(_to_last(x.ndim)).flags.c_contiguous


def as_lies(x: Array, last: bool) -> Array:
    """x (N, C, *size) as (N, *size, C) if its channels lie last."""
    return x.transpose(_to_last(x.ndim)) if last else x


def as_first(y: Array, last: bool) -> Array:
    """The inverse: a view as (N, C, *size)."""
    return y.transpose(_to_first(y.ndim)) if last else y


def format_of(last: bool) -> str:
    """fastconv's name of it."""
    return "channels_last" if last else "channels_first"


def new(shape: Shape, dtype: np.dtype[Any], *like: Array) -> Array:
    """An array that lies as the first of these that has its shape; if none has, channels first."""
    last = next((lies_last(x) for x in like if x.shape == shape), False)
    return as_first(empty((shape[0], *shape[2:], shape[1]), dtype), True) if last else empty(shape, dtype)


def lying_last(x: Array) -> Array:
    """A copy of x whose channels lie last; x itself if it has no axes beside them."""
    if x.ndim < 3:
        return x
    if x.dtype in DTYPES:
        return as_first(F.to_channels_last(x), True)
    y = empty((x.shape[0], *x.shape[2:], x.shape[1]), x.dtype)
    np.copyto(y, np.moveaxis(x, 1, -1))
    return as_first(y, True)


def lying_first(x: Array) -> Array:
    """A C-contiguous array: x itself if it is one, else a copy."""
    if x.dtype in DTYPES and lies_last(x):
        return F.to_channels_first(as_lies(x, True))
    return np.ascontiguousarray(x).reshape(x.shape)
