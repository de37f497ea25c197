"""Copies with channels moved: from one layout of arrays to the other."""

from __future__ import annotations

from math import prod
from typing import Any

from numpy.typing import NDArray

from fastconv.functional._output import contiguous, output_array
from fastconv.geometry import check_array
from fastconv.kernels.transpose import transpose

__all__ = ["to_channels_first", "to_channels_last"]

Array = NDArray[Any]


def to_channels_last(x: Array, *, out: Array | None = None) -> Array:
    """Copy an array with its channels behind its spatial axes.

    ``y[n, ..., c] = x[n, c, ...]``

    Parameters
    ----------
    x : array (N, C, *size), float32 or float64
    out : array (N, *size, C), default None
        Where to write the result.

    Returns
    -------
    array (N, *size, C)

    Raises
    ------
    TypeError
        x is no float32 or float64 array.
    ValueError
        x has fewer than 2 axes, or out differs in shape, is read-only or overlaps x.
    """
    _check(x)
    n, channels, *size = x.shape
    return _transposed(x, out, (n, *size, channels), n, channels, prod(size))


def to_channels_first(x: Array, *, out: Array | None = None) -> Array:
    """Copy an array with its channels before its spatial axes.

    ``y[n, c, ...] = x[n, ..., c]``

    Parameters
    ----------
    x : array (N, *size, C), float32 or float64
    out : array (N, C, *size), default None
        Where to write the result.

    Returns
    -------
    array (N, C, *size)

    Raises
    ------
    TypeError
        x is no float32 or float64 array.
    ValueError
        x has fewer than 2 axes, or out differs in shape, is read-only or overlaps x.
    """
    _check(x)
    n, *size, channels = x.shape
    return _transposed(x, out, (n, channels, *size), n, prod(size), channels)


def _check(x: Array) -> None:
    check_array(x, "x")
    if x.ndim < 2:
        raise ValueError(f"x must have 2 axes or more, got shape {x.shape}")


def _transposed(x: Array, out: Array | None, shape: tuple[int, ...], n: int, rows: int, columns: int) -> Array:
    y = output_array(out, shape, x.dtype, x)
    transpose(contiguous(x), y, n, rows, columns)
    return y
