"""Engines seen from outside: each in a process of its own, one awake at a time.

Two thread pools that are awake together, or right after each other, slow each other down. So a round begins only when
every thread of every engine sleeps. All have the same memory to allocate from, which is never given back to the system:
a fresh output costs nobody page faults.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.layer import Array, Layer
from benchmarks.timing import Spread, Timing

ROOT = Path(__file__).resolve().parents[1]

# glibc takes and keeps everything on the heap, in huge pages where the system has them to give.
MEMORY = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 40),
    "MALLOC_TOP_PAD_": str(64 << 20),
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}

# What PyTorch's own dispatchers call the ISAs that FASTCONV_ISA names.
ISA_VARIABLES = {
    "avx512": {},
    "avx2": {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    "baseline": {"ONEDNN_MAX_CPU_ISA": "SSE41", "ATEN_CPU_CAPABILITY": "default", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"},
    "neon": {},
}


class EngineError(RuntimeError):
    """An engine's process raised or died."""


class Engine:
    """One engine in its own process."""

    def __init__(self, name: str, threads: int, isa: str | None = None) -> None:
        self.name = name
        environment = {**os.environ, **MEMORY, **{f"{k}_NUM_THREADS": str(threads) for k in ("OMP", "MKL", "OPENBLAS")}}
        environment["PYTHONPATH"] = os.pathsep.join(entry or os.getcwd() for entry in sys.path)  # the same modules
        if isa is not None:
            environment |= {"FASTCONV_ISA": isa, **ISA_VARIABLES[isa]}
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "benchmarks.worker", name, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )

    def run(self, function: str, *arguments: Any) -> Any:
        """The result of `module:name` in the engine's process, once all its threads sleep again.

        Raises
        ------
        EngineError
            With the traceback of the other process.
        """
        requests, answers = self._process.stdin, self._process.stdout
        assert requests is not None
        assert answers is not None
        try:
            pickle.dump((function, arguments), requests, pickle.HIGHEST_PROTOCOL)
            requests.flush()
            done, result = pickle.load(answers)
        except (EOFError, BrokenPipeError):
            raise EngineError(f"{self.name} ended with status {self._process.wait()}") from None
        if not done:
            raise EngineError(f"{self.name} failed:\n{result}")
        self._wait_until_asleep()
        return result

    def _wait_until_asleep(self, patience: float = 5.0) -> None:
        """OpenMP's threads spin for a while after their work: wait for the last, or a while without /proc."""
        threads = Path(f"/proc/{self._process.pid}/task")
        if not threads.is_dir():
            time.sleep(0.1)
            return
        end = time.monotonic() + patience
        while any(_is_awake(thread) for thread in threads.iterdir()):
            if time.monotonic() > end:
                raise EngineError(f"{self.name} has threads that do not go to sleep")
            time.sleep(0.002)

    def close(self) -> None:
        """End the process."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _is_awake(thread: Path) -> bool:
    try:
        state = (thread / "stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):  # it has ended
        return False
    return state == "R"


@contextlib.contextmanager
def started(engines: Sequence[Engine]) -> Iterator[Sequence[Engine]]:
    """The engines inside the block; their processes end with it."""
    try:
        yield engines
    finally:
        for engine in engines:
            engine.close()


@dataclass(frozen=True)
class Contestant:
    """An engine that runs layers in one layout."""

    engine: Engine
    data_format: str

    @property
    def name(self) -> str:
        return f"{self.engine.name} {self.data_format}"


def race(
    contestants: Sequence[Contestant], layer: Layer, dtype: str, kind: str, rounds: int, seconds: float
) -> dict[str, tuple[Spread, float]]:
    """Time of a call of a layer and its page faults, by contestant; those that do not have the layer are left out.

    The results are compared before anything is timed. Each round gives every contestant `seconds`, in turn.

    Raises
    ------
    EngineError
        If results differ.
    """
    results = {c: c.engine.run("benchmarks.worker:prepare", layer, dtype, c.data_format, kind) for c in contestants}
    able = [c for c in contestants if results[c] is not None]
    first = able[0]
    for other in able[1:]:
        check_agreement(layer, first.name, results[first], other.name, results[other])
    results.clear()
    timings: dict[str, list[Timing]] = {c.name: [] for c in able}
    for _ in range(rounds):
        for c in able:
            timings[c.name].append(c.engine.run("benchmarks.worker:time_round", seconds))
    return {
        name: (Spread.of(t.seconds for t in timed), statistics.median(t.faults for t in timed))
        for name, timed in timings.items()
    }


def check_agreement(layer: Layer, name: str, y: Array, other_name: str, other: Array) -> None:
    """Raise EngineError unless two engines' results are the same but for rounding.

    Relative L2 distance, with room for what Winograd's transforms lose.
    """
    limit = 100 * float(np.finfo(y.dtype).eps)
    if y.shape != other.shape or y.dtype != other.dtype:
        raise EngineError(f"{layer.name}: {name} gives {y.shape} {y.dtype}, {other_name} {other.shape} {other.dtype}")
    distance = size = 0.0
    for a, b in zip(y, other, strict=True):  # an image at a time: results may be hundreds of megabytes
        exact = a.astype(np.float64)
        distance += float(np.square(exact - b).sum())
        size += float(np.square(exact).sum())
    if not distance <= limit**2 * size:
        apart = (distance / size) ** 0.5
        raise EngineError(f"{layer.name}: {name} and {other_name} are {apart:.2g} apart (relative L2)")
