"""The error function, which NumPy has not, and Gelu, which is made of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastconv import functional as F
from fastconv.kernels.memory import empty

Array = NDArray[Any]

# erf(x) = tanh(x * P(x^2)): atanh(erf(x)) / x is smooth, and these are its minimax coefficients on |x| <= 3.9 for the
# relative error of erf, which is 9.5e-8; beyond, erf is 1 in float32, and so is tanh of what P continued by its last
# value gives.
ERF = (1.12837927, 0.102769056, -0.000191830553, -0.000619784853, 8.76373939e-05, -5.66848554e-06, 1.41852745e-07)
ERF_LIMIT = 3.9**2
# And so the normal distribution is (1 + erf(x / sqrt(2))) / 2 = sigmoid(sqrt(2) * x * P(x^2 / 2)).
NORMAL = tuple(math.sqrt(2) * coefficient / 2**power for power, coefficient in enumerate(ERF))
NORMAL_LIMIT = 2 * ERF_LIMIT
CHUNK = 8192  # elements: what is computed of so many stays in L1 and L2 throughout


def erf(x: Array) -> Array:
    """erf of each element of a float32 or float64 array: within 3 eps of float32 in relative error, exact in float64.

    Exact is what `math.erf` is, element by element.
    """
    y = empty(x.shape, x.dtype)
    if x.dtype == np.float64:
        y.reshape(-1)[:] = np.fromiter(map(math.erf, x.ravel().tolist()), np.float64, x.size)
        return y
    flat, to = np.ravel(x), y.reshape(-1)
    for start in range(0, flat.size, CHUNK):
        part = slice(start, start + CHUNK)
        F.tanh(_odd(ERF, ERF_LIMIT, flat[part]), out=to[part])
    return y


def gelu(x: Array) -> Array:
    """x times the normal distribution's probability of less than x, as exactly as `erf`."""
    if x.dtype == np.float64:
        return 0.5 * x * (1 + erf(x * math.sqrt(0.5)))
    y = empty(x.shape, x.dtype)
    flat, to = np.ravel(x), y.reshape(-1)
    for start in range(0, flat.size, CHUNK):
        part = slice(start, start + CHUNK)
        F.sigmoid(_odd(NORMAL, NORMAL_LIMIT, flat[part]), out=to[part])
        np.multiply(to[part], flat[part], out=to[part])
    return y


def _odd(coefficients: Sequence[float], limit: float, x: Array) -> Array:
    """x times the polynomial of x^2, which counts up to a limit."""
    square = np.square(x)
    np.minimum(square, np.float32(limit), out=square)
    y = np.multiply(square, np.float32(coefficients[-1]))
    for coefficient in coefficients[-2:0:-1]:
        np.add(y, np.float32(coefficient), out=y)
        np.multiply(y, square, out=y)
    np.add(y, np.float32(coefficients[0]), out=y)
    return np.multiply(y, x, out=y)
