"""How operators take their arrays: inputs as kernels read them, and where the result goes."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastconv.geometry import check_array, check_out, check_same_dtype
from fastconv.kernels.memory import empty, fits

Array = NDArray[Any]


def contiguous(x: Array) -> Array:
    """x itself if it is C-contiguous and aligned, else such a copy."""
    flags = x.flags
    return x if flags.c_contiguous and flags.aligned else np.require(x, requirements=("C", "A"))


def output_array(out: Array | None, shape: tuple[int, ...], dtype: np.dtype[Any], *inputs: Array | None) -> Array:
    """`out` once it is known to fit, or a new array; the inputs are those that out may not overlap."""
    if out is None:
        return empty(shape, dtype)
    if not fits(out, shape, dtype, inputs):
        check_out(out, shape, dtype, inputs)
    return out


def residual_output(
    out: Array | None, shape: tuple[int, ...], dtype: np.dtype[Any], residual: Any, *inputs: Array | None
) -> Array:
    """The same where a residual, which may be None, is added to the result; it may be `out` itself."""
    if residual is None:
        return output_array(out, shape, dtype, *inputs)
    check_array(residual, "residual")
    check_same_dtype(x=inputs[0], residual=residual)
    check_like(residual, "residual", shape, "the output")
    return output_array(out, shape, dtype, *inputs, None if residual is out else residual)


def check_like(array: Array, name: str, shape: tuple[int, ...], like: str) -> None:
    """Raise ValueError unless the array has the shape that goes with argument `like`."""
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape} to go with {like}, got {name}.shape={array.shape}")


def check_gradient(grad_y: Any, shape: tuple[int, ...], like: str, **saved: Array) -> None:
    """Raise unless grad_y is an array of this shape, which goes with `like`, and of the dtype of the saved array."""
    check_array(grad_y, "grad_y")
    check_same_dtype(**saved, grad_y=grad_y)
    check_like(grad_y, "grad_y", shape, like)


def check_channel_values(x: Array, channels: int, **values: Array | None) -> None:
    """Raise unless each of the named arrays is None or holds one value a channel in x's dtype."""
    for name, value in values.items():
        if value is None or (isinstance(value, np.ndarray) and value.dtype == x.dtype and value.shape == (channels,)):
            continue
        check_array(value, name)
        check_same_dtype(x=x, **{name: value})
        check_like(value, name, (channels,), "its channels")
