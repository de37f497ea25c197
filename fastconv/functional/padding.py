"""Padding of the spatial axes, as an operator of its own."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastconv.functional._output import output_array
from fastconv.geometry import PADDING_MODES, as_int, check_array, check_choice, check_int64, is_channels_last

__all__ = ["pad", "pad_backward"]

Array = NDArray[Any]
Pads = tuple[tuple[int, int], ...]


def pad(
    x: Array,
    pads: Pads,
    mode: str = "zeros",
    *,
    data_format: str = "channels_first",
    out: Array | None = None,
) -> Array:
    """Pad each spatial axis at both ends.

    ``y[i] = x[source(i - before)]`` along each axis; out of range, source is nothing ("zeros": y = 0), the
    mirror image about the edge element ("reflect"), the edge element ("replicate") or the index modulo the
    size ("circular").

    Parameters
    ----------
    x : array (N, C, *spatial) or (N, *spatial, C), or without N, float32 or float64
    pads : ((before, after), ...), one pair for each of the 1 to 3 spatial axes, each >= 0
        "reflect" needs less than the axis's size, "circular" at most that.
    mode : "zeros", "reflect", "replicate" or "circular", default "zeros"
    data_format : "channels_first" or "channels_last", default "channels_first"
    out : array of y's shape and x's dtype, default None

    Returns
    -------
    array
        y, each spatial axis longer by before + after.

    Raises
    ------
    TypeError
        x is not float32 or float64, pads are not pairs of integers, or out differs in dtype.
    ValueError
        pads do not fit x or mode, mode or data_format is unknown, or out differs in shape, is read-only or
        overlaps x.
    """
    pads = _check_pads(pads)
    check_array(x, "x", ndim=(len(pads) + 1, len(pads) + 2))
    axes = _spatial_axes(x.ndim, len(pads), data_format)
    _check_mode(mode, pads, tuple(x.shape[axis] for axis in axes))
    shape = list(x.shape)
    for axis, (before, after) in zip(axes, pads, strict=True):
        shape[axis] += before + after
    check_int64(prod(shape) * x.itemsize, "pads", pads)
    out = output_array(out, tuple(shape), x.dtype, x)

    centre = [slice(None)] * x.ndim
    for axis, (before, _) in zip(axes, pads, strict=True):
        centre[axis] = slice(before, before + x.shape[axis])
    out[tuple(centre)] = x
    # Axis by axis, each over the whole extent of those before it: corners are padding of padding, and every
    # element is written once.
    for axis, (before, after) in zip(axes, pads, strict=True):
        for to, source in _stretches(mode, before, after, x.shape[axis]):
            block = 0 if mode == "zeros" else out[_along(centre, axis, source)]
            out[_along(centre, axis, to)] = np.flip(block, axis) if mode == "reflect" else block
        centre[axis] = slice(None)
    return out


def pad_backward(
    grad_y: Array,
    pads: Pads,
    mode: str = "zeros",
    *,
    data_format: str = "channels_first",
    out: Array | None = None,
) -> Array:
    """Gradient of `pad`.

    ``grad_x[j] = sum of grad_y[i] over every i that pad fills from x[j]``

    Parameters
    ----------
    grad_y : array of y's shape, float32 or float64
    pads, mode, data_format
        As given to `pad`.
    out : array of x's shape and grad_y's dtype, default None

    Returns
    -------
    array
        grad_x, each spatial axis shorter by before + after.

    Raises
    ------
    TypeError, ValueError
        As `pad`; also if grad_y is not larger than its padding.
    """
    pads = _check_pads(pads)
    check_array(grad_y, "grad_y", ndim=(len(pads) + 1, len(pads) + 2))
    axes = _spatial_axes(grad_y.ndim, len(pads), data_format)
    shape = list(grad_y.shape)
    for axis, (before, after) in zip(axes, pads, strict=True):
        shape[axis] -= before + after
        if shape[axis] < 1:
            raise ValueError(f"grad_y must be larger than its padding, got shape {grad_y.shape} with pads={pads}")
    _check_mode(mode, pads, tuple(shape[axis] for axis in axes))
    out = output_array(out, tuple(shape), grad_y.dtype, grad_y)

    whole = [slice(None)] * grad_y.ndim
    inner = grad_y
    for axis, (before, after) in zip(axes[::-1], pads[::-1], strict=True):
        size = shape[axis]
        centre = inner[_along(whole, axis, slice(before, before + size))]
        if mode == "zeros" or before + after == 0:
            inner = centre
            continue
        folded = centre.copy()
        for to, source in _stretches(mode, before, after, size):
            block = inner[_along(whole, axis, to)]
            if mode == "reflect":
                block = np.flip(block, axis)
            elif mode == "replicate":
                block = block.sum(axis=axis, keepdims=True)
            folded[_along(whole, axis, slice(source.start - before, source.stop - before))] += block
        inner = folded
    np.copyto(out, inner)
    return out


def _stretches(mode: str, before: int, after: int, size: int) -> list[tuple[slice, slice]]:
    """(padding, source) along a padded axis, both as ascending indices; "reflect" reads its source backwards."""
    end = before + size
    sources = {
        "zeros": (slice(0, 0), slice(0, 0)),
        "reflect": (slice(before + 1, 2 * before + 1), slice(end - 1 - after, end - 1)),
        "replicate": (slice(before, before + 1), slice(end - 1, end)),
        "circular": (slice(size, end), slice(before, before + after)),
    }[mode]
    stretches = zip((slice(0, before), slice(end, end + after)), sources, strict=True)
    return [(to, source) for to, source in stretches if to.start < to.stop]


def _along(index: list[slice], axis: int, along: slice) -> tuple[slice, ...]:
    """The index with one axis replaced."""
    return (*index[:axis], along, *index[axis + 1 :])


def _spatial_axes(ndim: int, spatial: int, data_format: str) -> range:
    last = ndim - is_channels_last(data_format)
    return range(last - spatial, last)


def _check_pads(pads: Pads) -> Pads:
    is_pairs = isinstance(pads, (tuple, list)) and all(isinstance(p, (tuple, list)) and len(p) == 2 for p in pads)
    if not is_pairs or not 1 <= len(pads) <= 3:
        raise ValueError(f"pads must be 1 to 3 pairs ((before, after), ...), got pads={pads!r}")
    return tuple((as_int(before, "pads", 0), as_int(after, "pads", 0)) for before, after in pads)


def _check_mode(mode: str, pads: Pads, sizes: tuple[int, ...]) -> None:
    check_choice(mode, "mode", PADDING_MODES)
    limit = {"reflect": -1, "circular": 0}.get(mode)
    for size, pair in zip(sizes, pads, strict=True):
        if size < 1:
            raise ValueError(f"x must have no spatial axis of size 0, got spatial sizes {sizes}")
        if limit is not None and max(pair) > size + limit:
            raise ValueError(
                f"pads must be at most {size + limit} along an axis of size {size} for {mode!r}, got {pair}"
            )
