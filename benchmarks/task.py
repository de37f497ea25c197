"""What engines are asked to do with a layer, and the arrays for it."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import ClassVar, NamedTuple

import numpy as np

from fastconv.kernels.memory import empty

from .layer import Array, Layer
from .shapes import compulsory_bytes, deformation_shapes, multiply_adds, out_shape

KINDS = ("layer", "functional")
OFFSET = 2.0  # pixels, the standard deviation of offsets


@dataclass(frozen=True)
class Task:
    """A layer, forward or backward, in one dtype.

    `kind` is "functional", where weights are prepared inside the timed call, or "layer", where they are packed ahead as
    far as an engine can. Backward takes grad_y to the gradients of x, weight and bias.
    """

    layer: Layer
    dtype: str = "float32"
    kind: str = "functional"
    backward: bool = False

    tolerance: ClassVar[float] = 100.0
    """Roundings that results may be apart: room for what Winograd's transforms lose."""

    @property
    def label(self) -> str:
        """What tables and filters call it; only a deformable convolution has forward and backward in one group."""
        return self.layer.name + ("/backward" if self.backward and self.layer.deforms else "")

    @property
    def name(self) -> str:
        return f"{self.layer.name}{' backward' if self.backward else ''}, {self.dtype}, {self.kind}"

    @property
    def batch(self) -> int:
        return self.layer.batch

    @property
    def pools(self) -> bool:
        return self.layer.pools

    def limit(self, result: int) -> float:
        """The relative L2 distance at which two engines' results of this number agree."""
        return self.tolerance * float(np.finfo(self.dtype).eps)

    @property
    def multiply_adds(self) -> int:
        """Products that the definition needs, taps in the padding left out; each gradient has as many as y."""
        return multiply_adds(self.layer) * (2 if self.backward and not self.layer.pools else 1)

    @property
    def compulsory_bytes(self) -> int:
        """Read and written at least: what forward reads and writes; backward also reads grad_y or writes grad_x."""
        itemsize = np.dtype(self.dtype).itemsize
        once = compulsory_bytes(self.layer, self.dtype)
        if not self.backward or self.layer.pools:  # a pool's gradient: grad_y read, grad_x written
            return once
        return 2 * once - itemsize * prod(out_shape(self.layer))


class Operands(NamedTuple):
    """The arrays of a task, channels first; None where it has none."""

    x: Array
    weight: Array | None
    bias: Array | None
    grad_y: Array | None


def operands(task: Task) -> Operands:
    """The same in every process. y is of the size of x: weights are scaled by the number of terms."""
    layer, dtype = task.layer, task.dtype
    rng = np.random.default_rng([len(layer.name), *layer.x_shape])
    x = rng.standard_normal(layer.x_shape, np.float32).astype(dtype, copy=False)
    weight = bias = grad_y = None
    if not layer.pools:
        terms = layer.in_channels // layer.groups * prod(layer.kernel)
        weight = (rng.standard_normal(layer.weight_shape, np.float32) / terms**0.5).astype(dtype)
        bias = rng.standard_normal(layer.out_channels).astype(dtype) if layer.bias else None
    if task.backward:
        grad_y = rng.standard_normal(out_shape(layer), np.float32).astype(dtype, copy=False)
    return Operands(on_cache_lines(x), weight, bias, None if grad_y is None else on_cache_lines(grad_y))


def deformation(task: Task) -> tuple[Array, Array | None]:
    """Offset and mask of a deformable convolution, channels first: the same in every process.

    Offsets keep off whole numbers, where gradients jump and rounding would decide between them; a mask is in (0, 1).
    """
    shapes = deformation_shapes(task.layer)
    rng = np.random.default_rng([len(task.layer.name), *shapes[0]])
    offset, *mask = (on_cache_lines(rng.standard_normal(shape, np.float32).astype(task.dtype)) for shape in shapes)
    whole = np.floor(OFFSET * offset)
    offset[...] = whole + 0.02 + 0.96 * (OFFSET * offset - whole)
    return offset, 1 / (1 + np.exp(-mask[0])) if mask else None


def on_cache_lines(array: Array) -> Array:
    """A copy that begins on a cache line, as what libraries allocate for themselves does."""
    copy = empty(array.shape, array.dtype)
    copy[...] = array
    return copy


def channels_last(array: Array) -> Array:
    """(N, C, *size) moved to (N, *size, C)."""
    return on_cache_lines(np.moveaxis(array, 1, -1))


def channels_first(array: Array) -> Array:
    """(N, *size, C) seen as (N, C, *size)."""
    return np.moveaxis(array, -1, 1)
