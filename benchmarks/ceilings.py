"""What this machine can do at most: multiply-adds in registers, and copies; and the least time that leaves a task.

    python -m benchmarks.ceilings [--json FILE]

Measured by fastconv's own vectors (fastconv.kernels.probe), on one and on all threads, in a process of their own.
Copies are made with ordinary stores and with stores around the caches ("streamed").
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from math import log
from typing import Any

import numpy as np
from fastconv.kernels.core import register_tile
from fastconv.kernels.probe import copy_rate, fma_rate
from rich.table import Table

from fastconv import runtime

from .engines import Engine, started
from .networks import Job
from .report import console, environment, write_json
from .worker import Session

FOOTPRINTS = tuple(1 << power for power in (15, 17, 19, 21, 23, 25, 27, 29))  # bytes read and written
PROBE = 3e-3  # seconds
STORES = {"ordinary": False, "streamed": True}


def configure(session: Session, isa: str, threads: int) -> None:
    """Switch fastconv's own process to an ISA and a number of threads."""
    runtime.set_isa(isa)
    runtime.set_num_threads(threads)


class Ceiling:
    """A probe that takes about `PROBE` seconds; calling it gives a rate.

    `rate(threads, times)` does `work` a thread so many times. How many are enough is tried on one thread, which waits
    for no other to be woken.
    """

    def __init__(self, rate: Callable[[int, int], float], work: float) -> None:
        self.rate, self.threads = rate, runtime.get_num_threads()
        self.times = max(1, round(PROBE * max(rate(1, 1) for _ in range(5)) / work))

    def __call__(self) -> float:
        return self.rate(self.threads, self.times)


def fma(dtype: str) -> Ceiling:
    """Floating-point operations a second of the ISA and threads in use."""
    steps = 10_000
    operations = 24 * register_tile(dtype)["vlen"] * steps
    return Ceiling(lambda threads, times: fma_rate(dtype, threads, steps * times), operations)


def copy(footprint: int, stream: bool = False) -> Ceiling:
    """Bytes read and written a second by copies of half as many, by the threads in use."""
    source = np.ones(max(footprint // 8, 4096), np.float32)
    destination = _aligned_zeros(source.size)
    share = 2 * source.nbytes / runtime.get_num_threads()
    return Ceiling(lambda threads, times: copy_rate(destination, source, threads, times, stream), share)


def _aligned_zeros(size: int) -> np.ndarray:
    """So many float32 from a multiple of 64 bytes on, which stores around the caches need."""
    room = np.zeros(size + 16, np.float32)
    start = -room.ctypes.data % 64 // room.itemsize
    return room[start : start + size]


def fma_peaks(session: Session, dtype: str, repeats: int) -> float:
    """The best of some probes."""
    return _best(fma(dtype), repeats)


def copy_peaks(session: Session, footprint: int, repeats: int, stream: bool = False) -> float:
    """The best of some copies."""
    return _best(copy(footprint, stream), repeats)


def _best(ceiling: Ceiling, repeats: int) -> float:
    return max(ceiling() for _ in range(repeats))


def thread_counts() -> tuple[int, ...]:
    """One, and all."""
    return tuple(dict.fromkeys((1, runtime.get_num_threads())))


def measure(repeats: int = 9) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of FMA peaks and of copy rates."""
    peaks, copies = [], []
    with started([Engine("fastconv", runtime.get_num_threads())]) as (engine,):
        for threads in thread_counts():
            for isa in runtime.available_isas():
                engine.run("ceilings:configure", isa, threads)
                for dtype in ("float32", "float64"):
                    rate = engine.run("ceilings:fma_peaks", dtype, repeats)
                    peaks.append({"isa": isa, "dtype": dtype, "threads": threads, "flops": rate})
            engine.run("ceilings:configure", runtime.available_isas()[0], threads)
            for footprint in FOOTPRINTS:
                for stores, stream in STORES.items():
                    rate = engine.run("ceilings:copy_peaks", footprint, repeats, stream)
                    copies.append({"footprint": footprint, "stores": stores, "threads": threads,
                                   "bytes_per_second": rate})  # fmt: skip
    return peaks, copies


@dataclass(frozen=True)
class Ceilings:
    """The peaks of one run, its ISA and threads."""

    flops: dict[str, float]
    """Floating-point operations a second, by dtype."""
    copies: dict[str, dict[int, float]]
    """Bytes read and written a second, by stores and footprint."""

    @classmethod
    def measured(cls, engine: Engine, dtypes: tuple[str, ...], repeats: int) -> Ceilings:
        """By fastconv's engine, on its threads."""
        flops = {dtype: engine.run("ceilings:fma_peaks", dtype, repeats) for dtype in dtypes}
        copies = {
            stores: {size: engine.run("ceilings:copy_peaks", size, repeats, stream) for size in FOOTPRINTS}
            for stores, stream in STORES.items()
        }
        return cls(flops, copies)

    def copy_rate(self, footprint: int) -> float:
        """Of the best copy of a footprint, between those that were measured."""
        return max(
            float(np.exp(np.interp(log(footprint), [log(size) for size in rates], [log(r) for r in rates.values()])))
            for rates in self.copies.values()
        )

    def floor(self, task: Job, flops: float | None = None) -> float:
        """The least seconds of a task that does all products of the definition, at a peak of its own if given."""
        moved = task.compulsory_bytes / self.copy_rate(task.compulsory_bytes)
        return moved if task.pools else max(moved, 2 * task.multiply_adds / (flops or self.flops[task.dtype]))


def size_name(count: int) -> str:
    """A number of bytes in KiB or MiB."""
    return f"{count >> 20} MiB" if count >= 1 << 20 else f"{count >> 10} KiB"


def show(peaks: list[dict[str, Any]], copies: list[dict[str, Any]]) -> None:
    """Both tables, a column a number of threads."""
    out, counts = console(), thread_counts()
    for title, rows, keys, value in (
        ("Multiply-adds in registers, GFLOP/s", peaks, ("isa", "dtype"), "flops"),
        ("Copies, GB/s read and written", copies, ("footprint", "stores"), "bytes_per_second"),
    ):
        table = Table(*keys, *(f"{count} thread{'s' * (count > 1)}" for count in counts), title=title)
        lines: dict[tuple[Any, ...], dict[int, float]] = {}
        for row in rows:
            lines.setdefault(tuple(row[key] for key in keys), {})[row["threads"]] = row[value] / 1e9
        for key, rates in lines.items():
            names = [size_name(part) if isinstance(part, int) else part for part in key]
            table.add_row(*names, *(f"{rates[count]:.1f}" for count in counts))
        out.print(table)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ceilings", description=__doc__)
    parser.add_argument("--json", metavar="FILE", help="write the rows there, too")
    options = parser.parse_args()
    peaks, copies = measure()
    show(peaks, copies)
    if options.json:
        write_json(options.json, environment(runtime.get_num_threads(), None, {}), fma=peaks, copy=copies)


if __name__ == "__main__":
    main()
