"""Layer normalization, forward and backward."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastconv.functional._output import check_gradient, check_like, contiguous, output_array
from fastconv.geometry import as_float, as_int, check_array, check_same_dtype
from fastconv.kernels import layer_norm as kernel
from fastconv.kernels.memory import empty

__all__ = ["layer_norm", "layer_norm_backward"]

Array = NDArray[Any]


def layer_norm(
    x: Array,
    normalized_shape: int | tuple[int, ...],
    weight: Array | None = None,
    bias: Array | None = None,
    eps: float = 1e-5,
    *,
    out: Array | None = None,
) -> Array:
    """Normalise what the last axes hold to mean 0 and variance 1, then scale and shift it element by element.

    ``y = (x - mean) / sqrt(var + eps) * weight + bias``, mean and var over the axes of normalized_shape.

    Parameters
    ----------
    x : array (..., *normalized_shape), float32 or float64
    normalized_shape : int, or tuple of one or more
        The sizes of x's last axes, all positive.
    weight, bias : arrays of normalized_shape, dtype of x, default None
    eps : float >= 0, default 1e-5
    out : array like x, default None
        Where to write y.

    Returns
    -------
    array
        y, shape and dtype of x.

    Raises
    ------
    TypeError
        The arrays are not float32 or float64 of one dtype, or an argument has the wrong type.
    ValueError
        normalized_shape is not how x.shape ends, weight or bias has another shape, eps < 0, or out does not fit.

    Source
    ------
    Ba, Kiros, Hinton: Layer Normalization (2016), section 3.
    """
    n, eps = _check(x, normalized_shape, eps, weight=weight, bias=bias)
    out = output_array(out, x.shape, x.dtype, x, weight, bias)
    if x.size:
        kernel.layer_norm(contiguous(x), n, _contiguous(weight), _contiguous(bias), eps, out)
    return out


def layer_norm_backward(
    grad_y: Array,
    x: Array,
    normalized_shape: int | tuple[int, ...],
    weight: Array | None = None,
    bias: Array | None = None,
    eps: float = 1e-5,
) -> tuple[Array, Array | None, Array | None]:
    """Gradients of `layer_norm`.

    With ``h = (x - mean) / sqrt(var + eps)``, ``g = grad_y * weight`` and means over the axes of normalized_shape,
    ``grad_x = (g - mean(g) - h * mean(g * h)) / sqrt(var + eps)``; over all others, ``grad_weight = sum(grad_y * h)``
    and ``grad_bias = sum(grad_y)``.

    Parameters
    ----------
    grad_y : array like x
    x, normalized_shape, weight, bias, eps
        As given to `layer_norm`.

    Returns
    -------
    (grad_x, grad_weight, grad_bias)
        Shapes of x, weight and bias; None for a weight or bias that is None.

    Raises
    ------
    TypeError, ValueError
        As `layer_norm`; also if grad_y differs from x in shape or dtype.
    """
    n, eps = _check(x, normalized_shape, eps, weight=weight, bias=bias)
    check_gradient(grad_y, x.shape, "x", x=x)
    grad_x = empty(x.shape, x.dtype)
    grad_weight, grad_bias = (None if a is None else np.zeros(a.shape, x.dtype) for a in (weight, bias))
    if x.size:
        kernel.layer_norm_backward(
            contiguous(grad_y), contiguous(x), n, _contiguous(weight), eps, grad_x, grad_weight, grad_bias
        )
    return grad_x, grad_weight, grad_bias


def _contiguous(values: Array | None) -> Array | None:
    return None if values is None else contiguous(values)


def _check(x: Array, normalized_shape: Any, eps: float, **values: Array | None) -> tuple[int, float]:
    """How many elements are normalised together, and eps, once all arguments are known to fit."""
    check_array(x, "x")
    sizes = normalized_shape if isinstance(normalized_shape, (tuple, list)) else (normalized_shape,)
    shape = tuple(as_int(size, "normalized_shape", minimum=1) for size in sizes)
    if not shape or x.shape[-len(shape) :] != shape:
        raise ValueError(f"normalized_shape must be how x.shape={x.shape} ends, got normalized_shape={shape}")
    for name, array in values.items():
        if array is not None:
            check_array(array, name)
            check_same_dtype(x=x, **{name: array})
            check_like(array, name, shape, "normalized_shape")
    small = as_float(eps, "eps")
    if not small >= 0:
        raise ValueError(f"eps must be >= 0, got eps={small}")
    return prod(shape), small
