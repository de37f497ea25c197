"""How convolutions and linear layers get their weight and bias."""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike

from fastconv import init
from fastconv.layers.base import Layer


def add_weights(
    layer: Layer,
    shape: tuple[int, ...],
    biases: int | None,
    initializer: init.Initializer | None,
    dtype: DTypeLike,
    rng: init.Rng,
) -> None:
    """Add `weight` of this shape and `bias`, of so many values or none, to a layer.

    Without an initializer both start as in PyTorch, from U(-b, b) with b = 1 / sqrt(fan_in); with one it gives the
    weight, and the bias is zero.

    Raises
    ------
    TypeError
        If dtype is neither float32 nor float64.
    """
    if np.dtype(dtype) not in (np.float32, np.float64):
        raise TypeError(f"dtype must be float32 or float64, got {np.dtype(dtype)}")
    rng = np.random.default_rng(rng)
    layer.add_parameter("weight", (initializer or init.fan_in_uniform)(shape, rng=rng, dtype=dtype))
    if biases is None:
        layer.add_parameter("bias", None)
    elif initializer is not None:
        layer.add_parameter("bias", init.zeros((biases,), dtype=dtype))
    else:
        layer.add_parameter("bias", init.fan_in_uniform((biases,), init.fans(shape)[0], rng=rng, dtype=dtype))
