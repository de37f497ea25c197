"""What moves values and computes none; views where they do."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx

from fastconv import functional as F
from fastconv.backends.onnx.graph import Node, is_float
from fastconv.backends.onnx.kernels import Array, Constants, Kernel, operator
from fastconv.backends.onnx.layout import as_first, as_lies, lies_last
from fastconv.geometry.arrays import DTYPES
from fastconv.kernels.memory import empty

VIEW = "a view"
PART = "a part"  # a view, or a copy where channels would not lie last


@operator("Constant")
def _constant(node: Node, constants: Constants) -> Kernel | None:
    if "value" not in node.attributes:
        return None
    array = onnx.numpy_helper.to_array(node.attributes["value"])
    return Kernel(lambda: array, VIEW, fresh=False)


@operator("Identity")
def _identity(node: Node, constants: Constants) -> Kernel:
    return Kernel(lambda x: x, VIEW, fresh=False)


@operator("Reshape")
def _reshape(node: Node, constants: Constants) -> Kernel:
    known, keeps_zeros = node.get("shape", None), node.get("allowzero", 0)

    def run(x: Array, shape: Array | None = None) -> Array:
        wanted = known if shape is None else shape.tolist()
        if wanted is None:
            raise ValueError("shape must be given")
        return x.reshape(wanted if keeps_zeros else without_zeros(wanted, x.shape))

    return Kernel(run, VIEW, fresh=False)


def without_zeros(sizes: Sequence[int], shape: Sequence[int]) -> list[int]:
    """Sizes that a Reshape asks for, of which 0 stands for that of the same axis before."""
    return [shape[i] if n == 0 and i < len(shape) else n for i, n in enumerate(sizes)]


@operator("Flatten")
def _flatten(node: Node, constants: Constants) -> Kernel:
    axis = node.get("axis", 1)

    def run(x: Array) -> Array:
        if not -x.ndim <= axis <= x.ndim:
            raise ValueError(f"attribute axis must lie in {-x.ndim} .. {x.ndim}, got {axis}")
        first = axis + x.ndim if axis < 0 else axis
        return x.reshape(math.prod(x.shape[:first]), math.prod(x.shape[first:]))

    return Kernel(run, VIEW, fresh=False)


@operator("Transpose")
def _transpose(node: Node, constants: Constants) -> Kernel:
    order = node.get("perm", None)
    return Kernel(lambda x: x.transpose(order), VIEW, fresh=False)


@operator("Squeeze", "Unsqueeze")
def _squeeze(node: Node, constants: Constants) -> Kernel:
    known = node.get("axes", None)

    def run(x: Array, axes: Array | None = None) -> Array:
        places = known if axes is None else tuple(np.atleast_1d(axes).tolist())
        if node.op == "Squeeze":
            return x.squeeze(places)
        if places is None:
            raise ValueError("axes must be given")
        return np.expand_dims(x, places)

    return Kernel(run, VIEW, fresh=False)


@operator("Shape")
def _shape(node: Node, constants: Constants) -> Kernel:
    part = slice(node.get("start", 0), node.get("end", None))
    return Kernel(lambda x: np.array(np.shape(x)[part], np.int64))


@operator("Gather")
def _gather(node: Node, constants: Constants) -> Kernel:
    axis = node.get("axis", 0)
    return Kernel(lambda x, indices: np.asarray(np.take(x, indices, axis=axis)))


@operator("Concat")
def _concat(node: Node, constants: Constants) -> Kernel:
    axis = node.get("axis", 1) if node.opset < 4 else node.need("axis")

    def run(*arrays: Array) -> Array:
        first = arrays[0]
        if not (first.dtype.kind in "fiub" or is_float(first)) or not -first.ndim <= axis < first.ndim:
            return np.concatenate(arrays, axis)
        if axis % first.ndim == 1 and all(map(lies_last, arrays)):
            return as_first(joined([as_lies(x, True) for x in arrays], first.ndim - 1), True)
        return joined(arrays, axis)

    def joined(arrays: Sequence[Array], axis: int) -> Array:
        if all(x.dtype in DTYPES and x.dtype == arrays[0].dtype and x.flags.c_contiguous for x in arrays):
            return F.concatenate(arrays, axis)
        first, shape = arrays[0], list(arrays[0].shape)
        shape[axis] = sum(x.shape[axis] if x.ndim == first.ndim else 0 for x in arrays)
        return np.concatenate(arrays, axis, out=empty(tuple(shape), first.dtype))

    return Kernel(run)


@operator("Split")
def _split(node: Node, constants: Constants) -> Kernel:
    axis, known, count = node.get("axis", 0), node.get("split", None), len(node.outputs)

    def run(x: Array, sizes: Array | None = None) -> tuple[Array, ...]:
        size = x.shape[axis]
        parts = known if sizes is None else sizes.tolist()
        if parts is None:
            part = -(-size // count)
            parts = [max(0, min(part, size - start * part)) for start in range(count)]
        if sum(parts) != size:
            raise ValueError(f"split must add up to {size}, the size of axis {axis}, got {list(parts)}")
        return tuple(_lying_alike(part, x) for part in np.split(x, np.cumsum(parts)[:-1], axis))

    return Kernel(run, PART, fresh=False)


@operator("Slice")
def _slice(node: Node, constants: Constants) -> Kernel:
    given = {name: node.get(name, None) for name in ("starts", "ends", "axes")}

    def run(x: Array, starts: Any = None, ends: Any = None, axes: Any = None, steps: Any = None) -> Array:
        starts, ends = (given[n] if v is None else v.tolist() for n, v in (("starts", starts), ("ends", ends)))
        axes = (given["axes"] or range(len(starts))) if axes is None else axes.tolist()
        steps = [1] * len(starts) if steps is None else steps.tolist()
        parts = [slice(None)] * x.ndim
        for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
            # Behind x, and before it where steps go back: a slice would count -1 from the end.
            parts[axis] = slice(start, None if step < 0 and end < -x.shape[axis] else end, step)
        return _lying_alike(x[tuple(parts)], x)

    return Kernel(run, PART, fresh=False)


def _lying_alike(part: Array, x: Array) -> Array:
    """A view of x, or a copy of it whose channels lie last as those of x do: else kernels would have them first."""
    if part.ndim < 3 or part.shape[1] == x.shape[1] or not lies_last(x):
        return part
    return as_first(np.ascontiguousarray(as_lies(part, True)), True)


@operator("Dropout")
def _dropout(node: Node, constants: Constants) -> Kernel | None:
    if node.input(2):  # training, which is decided at run time
        return None
    mask_dtype = bool if node.opset >= 10 else None

    def run(x: Array, ratio: Array | None = None) -> Any:
        return (x, np.ones(x.shape, mask_dtype or x.dtype)) if len(node.outputs) > 1 and node.outputs[1] else x

    return Kernel(run, VIEW, fresh=False)
