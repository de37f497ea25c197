"""How operators take their arrays: inputs as kernels read them, and where the result goes."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastconv.geometry import check_out

Array = NDArray[Any]


def contiguous(x: Array) -> Array:
    """x itself if it is C-contiguous and aligned, else such a copy."""
    flags = x.flags
    return x if flags.c_contiguous and flags.aligned else np.require(x, requirements=("C", "A"))


def output_array(out: Array | None, shape: tuple[int, ...], dtype: np.dtype[Any], *inputs: Array | None) -> Array:
    """`out` once it is known to fit, or a new array; the inputs are those that out may not overlap."""
    if out is None:
        return np.empty(shape, dtype)
    check_out(out, shape, dtype, inputs)
    return out


def check_like(array: Array, name: str, shape: tuple[int, ...], like: str) -> None:
    """Raise ValueError unless the array has the shape that goes with argument `like`."""
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape} to go with {like}, got {name}.shape={array.shape}")
