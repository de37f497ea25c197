"""Initial values of weights: Kaiming and Glorot, uniform and normal, drawn from a seeded NumPy generator.

Every initializer is called as ``initializer(shape, rng=..., dtype=...)`` and returns a new array, so that any of them
(or a function of one's own) can be given to a layer: ``Conv2d(3, 64, 3, initializer=init.kaiming_normal)``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

Array = NDArray[Any]
Rng = np.random.Generator | int | None
Initializer = Callable[..., Array]

_GAINS: dict[str, Callable[[float], float]] = {
    "linear": lambda a: 1.0,
    "sigmoid": lambda a: 1.0,
    "tanh": lambda a: 5 / 3,
    "relu": lambda a: math.sqrt(2),
    "leaky_relu": lambda a: math.sqrt(2 / (1 + a * a)),
}


def fans(shape: Sequence[int]) -> tuple[int, int]:
    """Return (fan_in, fan_out), the terms that one output sums and the outputs that one input reaches.

    A weight of a convolution is (C_out, C_in / groups, *K), of a linear layer (C_out, C_in): fan_in is the product of
    all but the first axis, fan_out of all but the second. The same rule is applied to a transposed convolution, whose
    first two axes are the other way round, because PyTorch does so.

    Raises
    ------
    ValueError
        If shape has fewer than two axes.
    """
    if len(shape) < 2:
        raise ValueError(f"shape must have at least two axes to have a fan-in and a fan-out, got {tuple(shape)}")
    taps = math.prod(shape[2:])
    return shape[1] * taps, shape[0] * taps


def kaiming_uniform(
    shape: Sequence[int],
    a: float = 0.0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    *,
    rng: Rng = None,
    dtype: DTypeLike = np.float32,
) -> Array:
    """Draw from U(-b, b) with b = gain * sqrt(3 / fan), which keeps the variance through layers of this nonlinearity.

    Parameters
    ----------
    shape
        Shape of the weight, (C_out, C_in / groups, *K).
    a
        Negative slope of the leaky ReLU that follows; 0 is a ReLU.
    mode
        "fan_in" keeps the variance of the forward pass, "fan_out" that of the backward pass.
    nonlinearity
        "linear", "sigmoid", "tanh", "relu" or "leaky_relu".
    rng
        A NumPy generator, which is advanced, or a seed. None draws a new seed from the system.
    dtype
        float32 or float64.

    Source: He, Zhang, Ren, Sun, "Delving Deep into Rectifiers", 2015, section 2.2.
    """
    bound = math.sqrt(3) * _kaiming_deviation(shape, a, mode, nonlinearity)
    return _uniform(shape, bound, rng, dtype)


def kaiming_normal(
    shape: Sequence[int],
    a: float = 0.0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    *,
    rng: Rng = None,
    dtype: DTypeLike = np.float32,
) -> Array:
    """Draw from N(0, s^2) with s = gain / sqrt(fan); arguments and source as for `kaiming_uniform`."""
    return normal(shape, _kaiming_deviation(shape, a, mode, nonlinearity), rng=rng, dtype=dtype)


def glorot_uniform(shape: Sequence[int], gain: float = 1.0, *, rng: Rng = None, dtype: DTypeLike = np.float32) -> Array:
    """Draw from U(-b, b) with b = gain * sqrt(6 / (fan_in + fan_out)), for layers of tanh or sigmoid.

    Source: Glorot, Bengio, "Understanding the difficulty of training deep feedforward neural networks", 2010, eq. 16.
    """
    return _uniform(shape, gain * math.sqrt(6 / _at_least_one(sum(fans(shape)))), rng, dtype)


def glorot_normal(shape: Sequence[int], gain: float = 1.0, *, rng: Rng = None, dtype: DTypeLike = np.float32) -> Array:
    """Draw from N(0, s^2) with s = gain * sqrt(2 / (fan_in + fan_out)); source as for `glorot_uniform`."""
    return normal(shape, gain * math.sqrt(2 / _at_least_one(sum(fans(shape)))), rng=rng, dtype=dtype)


def fan_in_uniform(
    shape: Sequence[int], fan_in: int | None = None, *, rng: Rng = None, dtype: DTypeLike = np.float32
) -> Array:
    """Draw from U(-b, b) with b = 1 / sqrt(fan_in): what PyTorch's layers start from, weights and biases alike.

    fan_in is that of shape when None; a bias, which has none of its own, is given its weight's.
    """
    return _uniform(shape, 1 / math.sqrt(_at_least_one(fans(shape)[0] if fan_in is None else fan_in)), rng, dtype)


def normal(shape: Sequence[int], deviation: float = 1.0, *, rng: Rng = None, dtype: DTypeLike = np.float32) -> Array:
    """Draw from N(0, deviation^2)."""
    drawn: Any = np.dtype(dtype)  # NumPy's annotation lists the two that it draws, and raises for others
    values: Array = np.random.default_rng(rng).standard_normal(tuple(shape), dtype=drawn)
    values *= deviation
    return values


def zeros(shape: Sequence[int], *, rng: Rng = None, dtype: DTypeLike = np.float32) -> Array:
    """Return zeros, for weights that a checkpoint will fill: the pages of a large network stay untouched until then."""
    return np.zeros(tuple(shape), dtype)


def _kaiming_deviation(shape: Sequence[int], a: float, mode: str, nonlinearity: str) -> float:
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f'mode must be "fan_in" or "fan_out", got {mode!r}')
    if nonlinearity not in _GAINS:
        raise ValueError(f"nonlinearity must be one of {', '.join(_GAINS)}, got {nonlinearity!r}")
    fan = fans(shape)[mode == "fan_out"]
    return _GAINS[nonlinearity](a) / math.sqrt(_at_least_one(fan))


def _uniform(shape: Sequence[int], bound: float, rng: Rng, dtype: DTypeLike) -> Array:
    drawn: Any = np.dtype(dtype)
    values: Array = np.random.default_rng(rng).random(tuple(shape), dtype=drawn)
    values *= 2 * bound
    values -= bound
    return values


def _at_least_one(fan: int) -> int:
    return max(fan, 1)
