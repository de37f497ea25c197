"""Seconds of one call, and what to make of many such numbers."""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

CHUNK = 200e-6  # seconds timed at once: the clock's own cost is below a thousandth of it


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
    once = _elapsed(call, 1)
    if once >= seconds:
        return Timing(once, _page_faults() - faults)
    at_once = max(1, round(CHUNK / max(once, 1e-9)))
    chunks = max(1, round(seconds / max(once * at_once, CHUNK)))
    faults = _page_faults()
    times = [_elapsed(call, at_once) / at_once for _ in range(chunks)]
    return Timing(statistics.median(times), (_page_faults() - faults) / (chunks * at_once))


def _elapsed(call: Callable[[], Any], times: int) -> float:
    repeats = range(times)
    start = time.perf_counter()
    for _ in repeats:
        call()
    return time.perf_counter() - start


def _page_faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
