"""Activations that weigh x by a gate between 0 and 1, each with its backward, which takes x."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from fastconv.functional.activation import CURVES, pointwise, pointwise_backward
from fastconv.geometry import check_choice

__all__ = ["gelu", "gelu_backward", "hardswish", "hardswish_backward", "silu", "silu_backward"]

Array = NDArray[Any]

_GELUS = {"none": "gelu", "tanh": "gelu_tanh"}


def gelu(x: Array, approximate: str = "none", *, out: Array | None = None) -> Array:
    """Gaussian error linear unit.

    ``y = x * (1 + erf(x / sqrt(2))) / 2``, or, approximately, ``x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))) / 2``

    Parameters
    ----------
    x : array of any shape, float32 or float64
    approximate : "none" (default) or "tanh"
    out : array like x, default None
        Where to write y.

    Returns
    -------
    array
        y, shape and dtype of x.

    Raises
    ------
    TypeError
        x is not a float32 or float64 array, or out differs in dtype.
    ValueError
        approximate is neither, or out differs in shape, is read-only or overlaps x.

    Source
    ------
    Hendrycks, Gimpel: Gaussian Error Linear Units (2016), section 2.
    """
    return pointwise(*_gelu_curve(approximate), x, out)


def gelu_backward(grad_y: Array, x: Array, approximate: str = "none", *, out: Array | None = None) -> Array:
    """Gradient of `gelu` from its input.

    ``grad_x = grad_y * (gate + x * gate')``, ``gate(x) = gelu(x) / x``

    Parameters
    ----------
    grad_y, x : arrays of one shape and dtype
    approximate : as for `gelu`
    out : array like x, default None

    Returns
    -------
    array
        grad_x, shape and dtype of x.

    Raises
    ------
    TypeError, ValueError
        The arrays differ in shape or dtype, approximate is unknown, or out does not fit them.
    """
    return pointwise_backward(*_gelu_curve(approximate), grad_y, x, "x", out)


def silu(x: Array, *, out: Array | None = None) -> Array:
    """Sigmoid linear unit, also called swish.

    ``y = x / (1 + exp(-x))``

    Parameters
    ----------
    x : array of any shape, float32 or float64
    out : array like x, default None

    Returns
    -------
    array
        y, shape and dtype of x.

    Raises
    ------
    TypeError, ValueError
        x or out as in `gelu`.

    Source
    ------
    Elfwing, Uchibe, Doya: Sigmoid-Weighted Linear Units for Neural Network Function Approximation in Reinforcement
    Learning (2018), section 2.
    """
    return pointwise(*CURVES["silu"], x, out)


def silu_backward(grad_y: Array, x: Array, *, out: Array | None = None) -> Array:
    """Gradient of `silu` from its input.

    ``grad_x = grad_y * s * (1 + x * (1 - s))``, ``s = 1 / (1 + exp(-x))``

    Parameters
    ----------
    grad_y, x : arrays of one shape and dtype
    out : array like x, default None

    Returns
    -------
    array
        grad_x, shape and dtype of x.

    Raises
    ------
    TypeError, ValueError
        The arrays differ in shape or dtype, or out does not fit them.
    """
    return pointwise_backward(*CURVES["silu"], grad_y, x, "x", out)


def hardswish(x: Array, *, out: Array | None = None) -> Array:
    """Swish with straight pieces.

    ``y = x * min(max(x + 3, 0), 6) / 6``

    Parameters
    ----------
    x : array of any shape, float32 or float64
    out : array like x, default None

    Returns
    -------
    array
        y, shape and dtype of x.

    Raises
    ------
    TypeError, ValueError
        x or out as in `gelu`.

    Source
    ------
    Howard et al.: Searching for MobileNetV3 (2019), section 5.2.
    """
    return pointwise(*CURVES["hardswish"], x, out)


def hardswish_backward(grad_y: Array, x: Array, *, out: Array | None = None) -> Array:
    """Gradient of `hardswish` from its input.

    ``grad_x = grad_y * (x / 3 + 1 / 2 where -3 < x < 3, else 0 below and 1 above)``

    Parameters
    ----------
    grad_y, x : arrays of one shape and dtype
    out : array like x, default None

    Returns
    -------
    array
        grad_x, shape and dtype of x.

    Raises
    ------
    TypeError, ValueError
        The arrays differ in shape or dtype, or out does not fit them.
    """
    return pointwise_backward(*CURVES["hardswish"], grad_y, x, "x", out)


def _gelu_curve(approximate: str) -> tuple[int, float]:
    check_choice(approximate, "approximate", tuple(_GELUS))
    return CURVES[_GELUS[approximate]]
