"""How far a convolution may be from the exact one, derived rather than tried out.

A sum of n products whose n roundings go either way is off by about eps / 2 * sqrt(n) of its partial sums, and where the
products' signs are random those grow as sqrt(n), too (Higham and Mary 2019, A new approach to probabilistic rounding
error analysis, theorem 2.4):

    |y - exact| <= SCHEME * eps * n * max|x| * max|w|

SCHEME is for how a kernel sums: 1 in one chain, fused or not; more chains (blocks of channels, tiles, threads) only
shorten it. 2 leaves room for the maximum over many outputs. It stays four orders of magnitude below one product.
"""

from __future__ import annotations

import numpy as np

SCHEME = 2


def bound(dtype: object, terms: int, x: np.ndarray, w: np.ndarray) -> float:
    """The largest error of a sum of `terms` products of elements of x and w, and an addend of their size."""
    largest = max(1.0, float(np.abs(x).max(initial=0)) * float(np.abs(w).max(initial=0)))
    return SCHEME * float(np.finfo(dtype).eps) * (terms + 1) * largest


def assert_within(actual: np.ndarray, exact: np.ndarray, limit: float, dtype: object = None) -> None:
    """Shape and dtype are right, non-finite values are where they should be, and no finite one is off by more."""
    assert actual.shape == exact.shape, f"shape {actual.shape}, expected {exact.shape}"
    if dtype is not None:
        assert actual.dtype == dtype, f"dtype {actual.dtype}, expected {np.dtype(dtype)}"
    with np.errstate(invalid="ignore"):
        if (np.abs(actual - exact) <= limit).all():  # as nearly always; no value that is not finite passes
            return
    with np.errstate(over="ignore"):
        rounded = exact.astype(actual.dtype)
    finite = np.isfinite(rounded)
    np.testing.assert_array_equal(actual[~finite], rounded[~finite], "values that are not finite")
    with np.errstate(invalid="ignore"):
        error = np.abs(actual.astype(np.float64) - exact, where=finite, out=np.zeros(exact.shape))
    if not (error <= limit).all():  # a NaN is not
        wrong = ~(error <= limit)
        flat = np.argmax(np.where(np.isnan(error), np.inf, error))
        worst = tuple(int(i) for i in np.unravel_index(flat, error.shape))
        raise AssertionError(
            f"{wrong.sum()} of {error.size} values are off by more than {limit:.3g}; the worst, {worst} in "
            f"{error.shape}, is {actual[worst]:.9g}, expected {exact[worst]:.9g} (off by {error[worst]:.3g})"
        )
