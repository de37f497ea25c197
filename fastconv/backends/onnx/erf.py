"""The error function, which NumPy has not."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastconv import functional as F
from fastconv.kernels.memory import empty
from fastconv.runtime import get_num_threads

Array = NDArray[Any]

# erf(x) = tanh(x * P(x^2)): atanh(erf(x)) / x is smooth, and these are its minimax coefficients on |x| <= 3.9 for the
# relative error of erf, which is 9.5e-8; beyond, where erf is 1 in float32, x * P(x^2) stays above 8.9, where tanh is
# 1, too.
ERF = (1.12837927, 0.102769056, -0.000191830553, -0.000619784853, 8.76373939e-05, -5.66848554e-06, 1.41852745e-07)
# Elements that are computed at once: they stay in L2 throughout, fastconv starts no team for them, and threads seldom
# wait for the interpreter's lock; of a quarter as many, two threads took longer than one.
CHUNK = 65536
SHARE = 2**18  # elements that are worth a thread of their own


def erf(x: Array) -> Array:
    """erf of each element of a float32 or float64 array: within 3 eps of float32 in relative error, exact in float64.

    Exact is what `math.erf` is, element by element.
    """
    y = empty(x.shape, x.dtype)
    if x.dtype == np.float64:
        y.reshape(-1)[:] = np.fromiter(map(math.erf, x.ravel().tolist()), np.float64, x.size)
        return y
    _by_chunks(lambda part, to, room: F.tanh(_odd(ERF, part, room, to), out=to), x, y)
    return y


def _by_chunks(function: Callable[[Array, Array, Array], Any], x: Array, y: Array) -> None:
    """Let a function fill y from x, chunk by chunk and with room for as much, large arrays by several threads: NumPy
    lets go of its lock."""
    flat, to = np.ravel(x), y.reshape(-1)

    def run(starts: range) -> None:
        room = empty((min(CHUNK, flat.size),), flat.dtype)
        with np.errstate(all="ignore"):
            for start in starts:
                part = flat[start : start + CHUNK]
                function(part, to[start : start + CHUNK], room[: part.size])

    starts = range(0, flat.size, CHUNK)
    threads = min(get_num_threads(), flat.size // SHARE)
    if threads < 2:
        run(starts)
        return
    with ThreadPoolExecutor(threads) as pool:  # made anew, since threads that are kept do not outlive a fork
        list(pool.map(run, (starts[thread::threads] for thread in range(threads))))


def _odd(coefficients: Sequence[float], x: Array, y: Array, square: Array) -> Array:
    """x times the polynomial of x^2, into y, with room for the squares."""
    np.square(x, out=square)
    np.multiply(square, np.float32(coefficients[-1]), out=y)
    for coefficient in coefficients[-2:0:-1]:
        np.add(y, np.float32(coefficient), out=y)
        np.multiply(y, square, out=y)
    np.add(y, np.float32(coefficients[0]), out=y)
    return np.multiply(y, x, out=y)
