"""The same call on every kind of array a user may pass, under every ISA and any number of threads."""

from collections.abc import Callable, Iterator

import numpy as np

from fastconv import runtime


def views(a: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """(kind, array equal to a): contiguous, read-only, Fortran order, negative strides, gaps, unaligned."""
    yield "contiguous", a.copy()
    read_only = a.copy()
    read_only.flags.writeable = False
    yield "read-only", read_only
    yield "fortran", np.asfortranarray(a)
    reverse = (slice(None, None, -1),) * a.ndim
    yield "negative strides", a[reverse].copy()[reverse]
    gaps = np.full((*a.shape[:-1], 2 * a.shape[-1]), np.nan if a.dtype.kind == "f" else 99, a.dtype)
    gaps[..., ::2] = a
    yield "gaps", gaps[..., ::2]
    unaligned = np.empty(a.nbytes + 1, np.uint8)[1:].view(a.dtype).reshape(a.shape)
    unaligned[...] = a
    yield "unaligned", unaligned


def draw(*shape: int, dtype: type = np.float64, seed: int = 0) -> np.ndarray:
    """Normal values, the same for the same arguments."""
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def each_isa_and_team(function: Callable[[], np.ndarray]) -> list[np.ndarray]:
    """function()'s results under every ISA of this machine; each ISA's bits are the same for any number of threads."""
    isa, threads, results = runtime.get_isa(), runtime.get_num_threads(), []
    try:
        for name in runtime.available_isas():
            runtime.set_isa(name)
            runtime.set_num_threads(1)
            results.append(function())
            runtime.set_num_threads(3)
            np.testing.assert_array_equal(function(), results[-1])
    finally:
        runtime.set_isa(isa)
        runtime.set_num_threads(threads)
    return results
