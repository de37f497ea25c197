"""Arrays joined along an axis, as branches and skip connections are, and one taken apart."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from numpy.typing import NDArray

from fastconv.functional._output import contiguous, output_array
from fastconv.geometry import as_int, check_array, check_same_dtype
from fastconv.kernels.concatenate import copy_parts
from fastconv.kernels.memory import empty

__all__ = ["concatenate", "split"]

Array = NDArray[Any]


def concatenate(arrays: Sequence[Array], axis: int = 1, *, out: Array | None = None) -> Array:
    """Join arrays along an axis, in their order.

    Parameters
    ----------
    arrays : sequence of one array or more, float32 or float64, of one dtype and of shapes that differ along axis alone
    axis : int, default 1
        Negative ones count from the last.
    out : array, default None
        Where to write the result.

    Returns
    -------
    array
        A new array, also of one.

    Raises
    ------
    TypeError
        arrays are not float32 or float64 arrays of one dtype.
    ValueError
        There are none, axis is none of theirs, their other sizes differ, or out differs in shape, is read-only or
        overlaps one of them.
    """
    parts = list(arrays)
    if not parts:
        raise ValueError("arrays must be one array or more, got none")
    for number, part in enumerate(parts):
        check_array(part, f"arrays[{number}]")
    check_same_dtype(**{f"arrays[{number}]": part for number, part in enumerate(parts)})
    shape = parts[0].shape
    axis = _axis(axis, len(shape))
    for number, part in enumerate(parts):
        if part.ndim != len(shape) or part.shape[:axis] + part.shape[axis + 1 :] != shape[:axis] + shape[axis + 1 :]:
            raise ValueError(
                f"arrays must have one shape but for axis {axis}: arrays[0].shape={shape}, "
                f"arrays[{number}].shape={part.shape}"
            )
    joined = (*shape[:axis], sum(part.shape[axis] for part in parts), *shape[axis + 1 :])
    out = output_array(out, joined, parts[0].dtype, *parts)
    copy_parts([contiguous(part) for part in parts], out, prod(shape[:axis]), False)
    return out


def split(x: Array, sizes: Sequence[int], axis: int = 1) -> tuple[Array, ...]:
    """Take an array apart along an axis: the inverse and the gradient of `concatenate`.

    Parameters
    ----------
    x : array, float32 or float64
    sizes : sequence of int
        Of the parts along axis; their sum is x's.
    axis : int, default 1
        Negative ones count from the last.

    Returns
    -------
    tuple of arrays
        New, C-contiguous arrays.

    Raises
    ------
    TypeError
        x is not a float32 or float64 array, or a size is no integer.
    ValueError
        axis is none of x's, or sizes are negative or do not add up to its size.
    """
    check_array(x, "x")
    axis = _axis(axis, x.ndim)
    each = [as_int(size, f"sizes[{number}]", minimum=0) for number, size in enumerate(sizes)]
    if sum(each) != x.shape[axis]:
        raise ValueError(f"sizes must add up to {x.shape[axis]}, the size of axis {axis}, got sizes={tuple(each)}")
    parts = [empty((*x.shape[:axis], size, *x.shape[axis + 1 :]), x.dtype) for size in each]
    copy_parts(parts, contiguous(x), prod(x.shape[:axis]), True)
    return tuple(parts)


def _axis(axis: int, ndim: int) -> int:
    if not -ndim <= as_int(axis, "axis") < ndim:
        raise ValueError(f"axis must be one of the {ndim} axes of its arrays, got axis={axis}")
    return axis % ndim
