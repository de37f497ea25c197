"""Seconds of one call, and what to make of many such numbers."""

from __future__ import annotations

import os
import resource
import statistics
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

CHUNK = 200e-6  # seconds timed at once: the clock's own cost is below a thousandth of it
LEAST_READ = 8 << 20  # bytes that fill the caches of one CPU


class Timing(NamedTuple):
    """One round of calls."""

    seconds: float
    """Median time of a call."""
    faults: float
    """Page faults a call: more than a few mean that the operating system was timed."""


class Spread(NamedTuple):
    """Median and quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        values = sorted(values)
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high)


def time_calls(call: Callable[[], Any], seconds: float) -> Timing:
    """Call again and again for about so many seconds, after one call that wakes threads and fills caches.

    Short calls are timed many at a time; one that lasts so many seconds is timed once.
    """
    call()
    faults = _page_faults()
    once = elapsed(call, 1)
    if once >= seconds:
        return Timing(once, _page_faults() - faults)
    at_once = max(1, round(CHUNK / max(once, 1e-9)))
    chunks = max(1, round(seconds / max(once * at_once, CHUNK)))
    faults = _page_faults()
    times = [elapsed(call, at_once) / at_once for _ in range(chunks)]
    return Timing(statistics.median(times), (_page_faults() - faults) / (chunks * at_once))


def cold_call(call: Callable[[], Any], times: int) -> float:
    """Median seconds of a call right after every CPU has read more memory than the last cache holds."""
    taken = []
    for _ in range(times):
        _fill_caches()
        taken.append(elapsed(call))
    return statistics.median(taken)


def _fill_caches() -> None:
    """Each CPU reads its share of twice the last cache, and at least twice its own."""
    cpus = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    buffer = _buffer(len(cpus))

    def read(index: int, cpu: int) -> None:
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, {cpu})  # of this thread alone
        np.add.reduce(buffer[index])

    with ThreadPoolExecutor(len(cpus)) as pool:
        for done in [pool.submit(read, index, cpu) for index, cpu in enumerate(cpus)]:
            done.result()


@cache
def _buffer(parts: int) -> np.ndarray:
    return np.ones((parts, max(2 * last_cache() // parts, LEAST_READ) // 8))


def last_cache() -> int:
    """Bytes of the last cache, or 64 MiB where the system does not tell."""
    units = {"K": 1 << 10, "M": 1 << 20}
    sizes = [path.read_text().strip() for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")]
    return max((int(size[:-1]) * units[size[-1]] for size in sizes if size[-1:] in units), default=64 << 20)


def elapsed(call: Callable[[], Any], times: int = 1) -> float:
    """Seconds of so many calls."""
    repeats = range(times)
    start = time.perf_counter()
    for _ in repeats:
        call()
    return time.perf_counter() - start


def _page_faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
