"""Tensors as arrays and arrays as tensors, both on the same memory, in either memory format.

A channels_last tensor has the shape (N, C, *size) over memory that lies as (N, *size, C): its axes are moved, never its
elements. What an operator is told of a layout is one bool, `channels_last`, so that the strides of its result follow
from its arguments alone.
"""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from fastconv.functional.layout import to_channels_first, to_channels_last

Array = NDArray[Any]
Size = Any  # a sequence of sizes, each an int or, while PyTorch traces, a torch.SymInt

LAYOUTS = {False: "channels_first", True: "channels_last"}
TO_LAST = {3: (0, 2, 1), 4: (0, 2, 3, 1), 5: (0, 2, 3, 4, 1)}
TO_FIRST = {3: (0, 2, 1), 4: (0, 3, 1, 2), 5: (0, 4, 1, 2, 3)}
_FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}
_MOVED = (torch.float32, torch.float64)


def is_channels_last(x: Tensor) -> bool:
    """Whether PyTorch takes a batch x for channels_last: its strides fall from N over the spatial axes to C.

    Signals have no such memory format, and what fits both, such as a batch of single pixels, is channels_first.
    """
    if x.ndim == 3:
        return False
    sizes, strides = x.shape, x.stride()
    if strides[1] != 1:
        return False
    least = 0
    for axis in (1, *range(x.ndim - 1, 1, -1)):
        if sizes[axis] == 0 or strides[axis] < least:
            return False
        least = strides[axis] * sizes[axis]
    return bool(strides[0] >= least and least != 1)


def lies_last(x: Tensor) -> bool:
    """Whether elements of a kind that kernels move lie in channels_last, without a gap, and in no other way."""
    if x.ndim not in _FORMATS or x.dtype not in _MOVED or x.is_contiguous():
        return False
    return x.is_contiguous(memory_format=_FORMATS[x.ndim])


def as_array(x: Tensor, channels_last: bool) -> Array:
    """The tensor as a C-contiguous array (N, C, *size) or (N, *size, C): its own memory, or a copy of PyTorch's making.

    A weight is one that is not channels_last, whatever its own memory format; one that lies in channels_last is turned
    by our own kernel, in less than half of the time.
    """
    if not channels_last:
        if lies_last(x):
            return to_channels_first(x.numpy(force=True).transpose(TO_LAST[x.ndim]))
        return x.contiguous().numpy(force=True)
    if x.ndim == 3:
        return x.transpose(1, 2).contiguous().numpy(force=True)
    return x.contiguous(memory_format=_FORMATS[x.ndim]).numpy(force=True).transpose(TO_LAST[x.ndim])


def shape_of(x: Tensor, channels_last: bool) -> Size:
    """The shape that `as_array` gives it."""
    return tuple(x.shape[axis] for axis in TO_LAST[x.ndim]) if channels_last else tuple(x.shape)


def as_tensor(array: Array, channels_last: bool) -> Tensor:
    """A tensor (N, C, *size) on the memory of an array (N, C, *size) or (N, *size, C)."""
    if channels_last:
        array = array.transpose(TO_FIRST[array.ndim])
    tensor = torch.from_numpy(array)
    if array.size == 0:  # NumPy counts other strides there
        return empty(tensor.shape, tensor.dtype, tensor.device, channels_last)
    return tensor


def gradient_like(weight: Tensor, gradient: Array) -> Tensor:
    """The gradient of a weight as it lies itself, so that PyTorch keeps it and makes no copy that does."""
    return as_tensor(to_channels_last(gradient), True) if lies_last(weight) else torch.from_numpy(gradient)


def empty(shape: Size, dtype: torch.dtype, device: Any, channels_last: bool) -> Tensor:
    """A new tensor with the shape and strides that `as_tensor` gives a result."""
    if not channels_last:
        return torch.empty(shape, dtype=dtype, device=device)
    _, channels, *size = shape
    strides = [max(1, channels) * prod(max(1, s) for s in size[axis + 1 :]) for axis in range(len(size))]
    first = max(1, channels) * prod(max(1, s) for s in size)
    return torch.empty_strided(shape, (first, 1, *strides), dtype=dtype, device=device)
