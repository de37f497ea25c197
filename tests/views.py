"""The same values behind every kind of array a user may pass."""

from collections.abc import Iterator

import numpy as np


def views(a: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """(kind, array equal to a): contiguous, read-only, Fortran order, negative strides, gaps, unaligned."""
    yield "contiguous", a.copy()
    read_only = a.copy()
    read_only.flags.writeable = False
    yield "read-only", read_only
    yield "fortran", np.asfortranarray(a)
    reverse = (slice(None, None, -1),) * a.ndim
    yield "negative strides", a[reverse].copy()[reverse]
    gaps = np.full((*a.shape[:-1], 2 * a.shape[-1]), np.nan, a.dtype)
    gaps[..., ::2] = a
    yield "gaps", gaps[..., ::2]
    unaligned = np.empty(a.nbytes + 1, np.uint8)[1:].view(a.dtype).reshape(a.shape)
    unaligned[...] = a
    yield "unaligned", unaligned


def draw(*shape: int, dtype: type = np.float64, seed: int = 0) -> np.ndarray:
    """Normal values, the same for the same arguments."""
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)
