"""Resize and Upsample, axis by axis: an output is a weighted sum of one (nearest), two (linear) or four (cubic) inputs.

What stretches over several axes as a whole (antialias, cropping, an aspect ratio that is kept) is left to the reference
evaluator. Passes add a fifth input to Resize, which is added to what it makes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np

from fastconv import functional as F
from fastconv.backends.onnx.graph import Node, is_float
from fastconv.backends.onnx.kernels import Array, Constants, Kernel, operator, widened
from fastconv.backends.onnx.layout import as_first, as_lies, format_of, lies_last
from fastconv.geometry.arrays import DTYPES

MODES = {"nearest": 1, "linear": 2, "cubic": 4}
COORDINATES = ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric")
ROUNDINGS: dict[str, Callable[[Array], Array]] = {
    "round_prefer_floor": lambda at: np.ceil(at - 0.5),
    "round_prefer_ceil": lambda at: np.floor(at + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}


DENSE = 128  # inputs of an axis: the products of more with a matrix of zeros take longer than picking out what is used


@dataclass(frozen=True)
class _Manner:
    mode: str
    coordinates: str
    rounding: str
    cubic: float
    excludes_outside: bool

    def taps(self, size: int, out: int, scale: float) -> tuple[Array, Array]:
        """For each output of an axis, the inputs (taps, out) and their weights."""
        at = self._positions(size, out, scale)
        if self.mode == "nearest":
            return np.clip(ROUNDINGS[self.rounding](at), 0, size - 1).astype(np.int64)[None], np.ones((1, out))
        first = np.floor(at)
        part = at - first
        if self.mode == "linear":
            offsets, weights = [0, 1], np.stack([1 - part, part])
        else:
            offsets, weights = [-1, 0, 1, 2], self._cubic_weights(part)
        places = first[None] + np.reshape(offsets, (-1, 1))
        if self.excludes_outside:
            weights = np.where((places >= 0) & (places < size), weights, 0)
            weights = weights / weights.sum(0)
        return np.clip(places, 0, size - 1).astype(np.int64), weights

    def _positions(self, size: int, out: int, scale: float) -> Array:
        """Where each output lies on the input's axis."""
        i = np.arange(out, dtype=np.float64)
        if self.coordinates == "asymmetric":
            return i / scale
        if self.coordinates == "align_corners":
            return i * ((size - 1) / (size * scale - 1)) if out > 1 else i
        if self.coordinates == "pytorch_half_pixel" and out == 1:
            return i
        shift = size / 2 * (1 - out / (size * scale)) if self.coordinates == "half_pixel_symmetric" else 0.0
        return shift + (i + 0.5) / scale - 0.5

    def _cubic_weights(self, part: Array) -> Array:
        """Keys (1981), Cubic Convolution Interpolation for Digital Image Processing, with a for the slope of -1/2."""
        a = self.cubic
        far, near = np.stack([1 + part, 2 - part]), np.stack([part, 1 - part])
        outer = a * (((far - 5) * far + 8) * far - 4)
        inner = ((a + 2) * near - (a + 3)) * near * near + 1
        return np.stack([outer[0], inner[0], inner[1], outer[1]])


@operator("Resize", "Upsample")
def _resize(node: Node, constants: Constants) -> Kernel | None:
    manner = _manner(node)
    if manner is None:
        return None
    how = "NumPy" if manner.mode == "nearest" else "direct, an axis at a time"
    given = node.get("scales", None)
    axes = node.get("axes", None)

    def run(x: Array, *others: Array | None) -> Array:
        places = [a % x.ndim for a in (range(x.ndim) if axes is None else axes)]
        scales, sizes = _request(node, others, given)
        if len(scales if sizes is None else sizes) != len(places):
            raise ValueError(f"scales or sizes must be {len(places)} numbers, one an axis")
        last = lies_last(x)
        y = as_lies(widened(x) if is_float(x) else x, last)
        added = None if len(others) < 4 else others[3]
        steps: list[tuple[int, tuple[Array, Array]]] = []
        for number, axis in enumerate(places):
            size = x.shape[axis]
            scale = float(scales[number]) if sizes is None else sizes[number] / size
            out = int(np.floor(size * scale)) if sizes is None else int(sizes[number])
            if out != size or scale != 1:
                steps.append((_lying_axis(axis, x.ndim) if last else axis, manner.taps(size, out, scale)))
        spreads = _spreads(y)
        for number, (axis, taps) in enumerate(steps, 1):
            residual = as_lies(added, last) if added is not None and number == len(steps) else None
            y = _along(y, axis, *taps, residual, spreads)
            spreads = spreads or (manner.mode == "cubic" and _spreads(y))  # others make nothing larger
        return as_first(y.astype(x.dtype, copy=False), last)

    return Kernel(run, how, fresh=False)  # nothing is copied where no size changes


def _lying_axis(axis: int, ndim: int) -> int:
    """Where an axis is once the channels are last."""
    return {0: 0, 1: ndim - 1}.get(axis, axis - 1)


def _manner(node: Node) -> _Manner | None:
    """How a node interpolates, or None for what is left to the reference evaluator."""
    whole = node.get("antialias", 0) or node.get("keep_aspect_ratio_policy", "stretch") != "stretch"
    old = node.op == "Upsample" or node.opset < 11
    coordinates = "asymmetric" if old else node.get("coordinate_transformation_mode", "half_pixel")
    mode = node.get("mode", "nearest").removeprefix("bi")  # Upsample's of the first opset
    if whole or coordinates not in COORDINATES or mode not in MODES:
        return None
    rounding = "floor" if old else node.get("nearest_mode", "round_prefer_floor")
    return _Manner(mode, coordinates, rounding, node.get("cubic_coeff_a", -0.75), bool(node.get("exclude_outside", 0)))


def _request(node: Node, others: tuple[Any, ...], given: Any) -> tuple[Any, Any]:
    """(scales, sizes), one of them."""
    if given is not None:
        return given, None
    if node.op == "Upsample" or node.opset < 11:
        return others[0], None
    _, scales, sizes = (*others, None, None, None)[:3]
    if sizes is not None and sizes.size:
        return None, sizes.tolist()
    if scales is None or not scales.size:
        raise ValueError("scales or sizes must be given")
    return scales, None


def _spreads(x: Array) -> bool:
    """Whether products with a matrix of zeros might make more values infinite or NaN than there should be."""
    return x.dtype not in DTYPES or not np.isfinite(np.sum(x))


def _along(x: Array, axis: int, places: Array, weights: Array, added: Array | None, spreads: bool) -> Array:
    """The weighted sums along one axis, and what is added to them."""
    if len(places) > 1 and x.shape[axis] <= DENSE and x.size and not spreads:
        return _product(x, axis, places, weights, added)
    if len(places) == 1:
        y = np.take(x, places[0], axis)
        return y if added is None else y + added
    dtype = x.dtype if is_float(x) else np.dtype(np.float64)
    along = (-1, *(1,) * (x.ndim - 1 - axis))
    factors = (weight.astype(dtype).reshape(along) for weight in weights)
    terms = (np.take(x, place, axis) * factor for place, factor in zip(places, factors, strict=True))
    return reduce(np.add, terms if added is None else (*terms, added))


def _product(x: Array, axis: int, places: Array, weights: Array, added: Array | None) -> Array:
    """The same by a matrix, most of which is 0.

    The axis's elements are the channels of a convolution of one tap, and what lies behind it its pixels.
    """
    size, out, last = x.shape[axis], places.shape[1], axis == x.ndim - 1
    matrix = np.zeros((out, size, 1), x.dtype)
    np.add.at(matrix[..., 0], (np.arange(out), places), weights.astype(x.dtype))
    shape = (*x.shape[:axis], out, *x.shape[axis + 1 :])
    rows = (1, -1, size) if last else (math.prod(x.shape[:axis]), size, -1)
    to = (1, -1, out) if last else (rows[0], out, -1)
    residual = None if added is None else np.ascontiguousarray(added).reshape(to)
    y = F.conv1d(x.reshape(rows), matrix, residual=residual, data_format=format_of(last))
    return y.reshape(shape)


def is_interpolation(node: Node) -> bool:
    """Whether outputs are weighted sums, axis by axis, whose weights add up to 1."""
    return _manner(node) is not None
