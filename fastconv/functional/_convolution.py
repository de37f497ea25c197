"""What convolution, transposed and deformable convolution share: keys of plans, batches, epilogues, docstrings."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from fastconv.functional.activation import ACTIVATIONS, CURVES
from fastconv.geometry import (
    as_bool,
    as_int,
    as_padding,
    as_tuple,
    check_array,
    check_choice,
    check_same_dtype,
    is_batched,
)

Array = NDArray[Any]
Function = TypeVar("Function", bound=Callable[..., Any])

# What a kernel is told of an activation: the range it clamps to, a curve of rowwise (or -1) and the curve's alpha.
EPILOGUES: dict[str | None, tuple[float, float, int, float]] = {
    **{name: (-inf, inf, *curve) for name, curve in CURVES.items()},
    "relu": (0.0, inf, -1, 0.0),
    "relu6": (0.0, 6.0, -1, 0.0),
}


def exact_int(value: Any, name: str) -> int:
    """A plain int, as a plan's key needs it (1 == 1.0 == True); raises TypeError for other types."""
    return value if type(value) is int else as_int(value, name)


def exact_tuple(value: Any, ndim: int, name: str) -> Any:
    """A plain int or a tuple of `ndim` plain ints; raises TypeError for other types."""
    return value if type(value) is int or _is_plain_tuple(value, ndim) else as_tuple(value, ndim, name)


def _is_plain_tuple(value: Any, ndim: int) -> bool:
    """Whether the usual is given, so that nothing need be rebuilt."""
    return type(value) is tuple and len(value) == ndim and {*map(type, value)} == {int}


def exact_padding(value: Any, ndim: int) -> Any:
    """A plain int, a string, or plain ints or pairs of them; raises TypeError for other types."""
    if type(value) is int or type(value) is str or _is_plain_tuple(value, ndim):
        return value
    ones = (1,) * ndim
    return as_padding(value, ones, ones, ones)


def check_operands(ndim: int, x: Any, weight: Any, bias: Any) -> np.dtype[Any]:
    """The common dtype of a convolution's arrays; raises the errors of all that is not a shape."""
    check_array(x, "x", (ndim + 1, ndim + 2))
    check_array(weight, "weight", ndim + 2)
    if bias is not None:
        check_array(bias, "bias", 1)
    return check_same_dtype(x=x, weight=weight, bias=bias)


def batched_shape(x: Array, ndim: int) -> tuple[int, ...]:
    """x.shape with a batch axis of 1 where x has none."""
    return x.shape if is_batched(x.ndim, ndim) else (1, *x.shape)


def epilogue(activation: str | None) -> tuple[float, float, int, float]:
    """What a kernel is told of an activation; raises ValueError for an unknown one."""
    if activation is not None:
        check_choice(activation, "activation", ACTIVATIONS)
    return EPILOGUES[activation]


def flip(weight: Array, flip_kernel: bool) -> Array:
    """The weight as it correlates: turned about along every kernel axis for a true convolution."""
    if flip_kernel is False or not as_bool(flip_kernel, "flip_kernel"):
        return weight
    turned: tuple[Any, ...] = (..., *(slice(None, None, -1),) * (weight.ndim - 2))
    return weight[turned]


def check_need(need: Any) -> None:
    """Raise unless `need` holds one bool for each of (grad_x, grad_weight, grad_bias)."""
    if not isinstance(need, (tuple, list)) or not all(isinstance(n, (bool, np.bool_)) for n in need):
        raise TypeError(f"need must be three bools (grad_x, grad_weight, grad_bias), got need={need!r}")
    if len(need) != 3:
        raise ValueError(f"need must be three bools (grad_x, grad_weight, grad_bias), got need={need!r}")


RANKS = {
    1: {"size": "W", "kernel": "KW", "out": "W_out", "ndim": "1"},
    2: {"size": "H, W", "kernel": "KH, KW", "out": "H_out, W_out", "ndim": "2"},
    3: {"size": "D, H, W", "kernel": "KD, KH, KW", "out": "D_out, H_out, W_out", "ndim": "3"},
}


def documented(template: str, ndim: int) -> Callable[[Function], Function]:
    """Give a function of one rank the docstring of its family."""

    def decorate(function: Function) -> Function:
        text = template
        for field, value in RANKS[ndim].items():
            text = text.replace("{" + field + "}", value)
        function.__doc__ = text
        return function

    return decorate
