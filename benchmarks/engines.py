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
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .layer import Array
from .networks import Job
from .timing import Spread, Timing
from .worker import First

# glibc takes and keeps everything on one heap, in huge pages where the system has them to give.
MEMORY = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 40),
    "MALLOC_TOP_PAD_": str(64 << 20),
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}

# A first call of more than so many seconds and times the quickest is not repeated.
LONG, HOPELESS = 0.5, 20

# Threads of engines that read no OMP_NUM_THREADS, and BLAS.
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NPROC")

# What the dispatchers of PyTorch and XLA call the ISAs that FASTCONV_ISA names.
ISA_VARIABLES = {
    "avx512": {},
    "avx2": {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2",
             "XLA_FLAGS": "--xla_cpu_max_isa=AVX2"},
    "baseline": {"ONEDNN_MAX_CPU_ISA": "SSE41", "ATEN_CPU_CAPABILITY": "default", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
                 "XLA_FLAGS": "--xla_cpu_max_isa=SSE4_2"},
    "neon": {},
}  # fmt: skip


class EngineError(RuntimeError):
    """An engine's process raised or died."""


class Engine:
    """One engine in its own process."""

    def __init__(self, name: str, threads: int, isa: str | None = None, algorithm: str | None = None) -> None:
        self.name = name
        environment = {**os.environ, **MEMORY, **dict.fromkeys(THREADS, str(threads))}
        environment["PYTHONPATH"] = os.pathsep.join(entry or os.getcwd() for entry in sys.path)  # the same modules
        if isa is not None:
            environment |= {"FASTCONV_ISA": isa, **ISA_VARIABLES[isa]}
        if algorithm is not None:
            environment["FASTCONV_ALGORITHM"] = algorithm
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  what libraries print would spoil a live table
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", f"{__package__}.worker", name, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
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
            raise EngineError(f"{self.name} ended with status {self._process.wait()}{self._last_words()}") from None
        if not done:
            raise EngineError(f"{self.name} failed:\n{result}")
        self._wait_until_asleep()
        return result

    def _last_words(self, lines: int = 5) -> str:
        """The end of what it has printed, after a colon."""
        if self._said.closed:
            return ""
        self._said.seek(0)
        said = self._said.read().decode(errors="replace").strip().splitlines()
        return ":\n" + "\n".join(said[-lines:]) if said else ""

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
        self._said.close()


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
    """An engine that runs tasks in one layout."""

    engine: Engine
    data_format: str

    @property
    def name(self) -> str:
        return f"{self.engine.name} {self.data_format}"


@dataclass(frozen=True)
class Result:
    """What was measured of one contestant; seconds of a call."""

    spread: Spread
    faults: float
    """Page faults a call."""
    first: float
    """Planning, packing, compiling and running."""
    cold: float | None
    """With nothing in the caches; None if not asked for."""
    how: str = ""
    """Which of its own ways the engine found to be the quickest, if it has several."""


def race(
    contestants: Sequence[Contestant],
    task: Job,
    rounds: int,
    seconds: float,
    cold: int = 0,
    expected: Sequence[Array] | None = None,
) -> tuple[dict[str, Result], dict[str, str]]:
    """Results by contestant, without those that do not have the task; and of peers that failed or were wrong, why.

    The first contestants are those whose results have to be right, all of one engine. The results are compared before
    anything is timed, with each other and with what is expected, if that is known. Each round gives every contestant
    `seconds`, in turn; `cold` calls more find empty caches. The first call counts for those that are hopelessly slow.

    Raises
    ------
    EngineError
        If the first contestant's result is not confirmed by any other, or by one of its own engine, or not expected.
    """
    out: dict[Contestant, str] = {}
    answers = _each(contestants, out, lambda c: c.engine.run("worker:prepare", task, c.data_format))
    firsts = {c: first for c, first in answers.items() if first is not None}
    answers.clear()
    if expected is not None:
        check_agreement(task, "what is expected", expected, contestants[0].name, firsts[contestants[0]].arrays)
    out |= _disagreeing(task, {c: first.arrays for c, first in firsts.items()})
    firsts = {c: first._replace(arrays=()) for c, first in firsts.items()}
    timings = {c: [Timing(first.ran, 0)] for c, first in firsts.items()}
    able = _worth_timing({c: first.ran for c, first in firsts.items() if c not in out})
    timings |= {c: [] for c in able}
    for _ in range(rounds):
        for c, timing in _each(able, out, lambda c: c.engine.run("worker:time_round", seconds)).items():
            timings[c].append(timing)
    colds = _each(able, out, lambda c: c.engine.run("worker:time_cold", cold) if cold else None)
    results = {c.name: _result(timings[c], first, colds.get(c)) for c, first in firsts.items() if c not in out}
    return results, {c.name: why for c, why in out.items()}


def _worth_timing(ran: dict[Contestant, float]) -> list[Contestant]:
    """Without those whose first call says enough: some gradients take XLA ten seconds."""
    limit = max(LONG, HOPELESS * min(ran.values()))
    return [c for c, seconds in ran.items() if seconds <= limit]


def _each(
    contestants: Sequence[Contestant], out: dict[Contestant, str], ask: Callable[[Contestant], Any]
) -> dict[Contestant, Any]:
    """Answers of those that are not out; a peer that fails is, and the run goes on."""
    answers = {}
    for c in contestants:
        if c in out:
            continue
        try:
            answers[c] = ask(c)
        except EngineError as error:
            if c.engine.name == contestants[0].engine.name:
                raise
            out[c] = str(error).strip().splitlines()[-1]
    return answers


def _result(timings: list[Timing], first: First, cold: float | None) -> Result:
    faults = statistics.median(t.faults for t in timings)
    return Result(Spread.of(t.seconds for t in timings), faults, first.seconds, cold, first.how)


def _disagreeing(task: Job, results: dict[Contestant, Any]) -> dict[Contestant, str]:
    """Who differs from the first contestant, and by how much.

    Raises
    ------
    EngineError
        If nobody agrees with it, or not all contestants of its own engine do.
    """
    first, *others = results
    wrong: dict[Contestant, EngineError] = {}
    for other in others:
        try:
            check_agreement(task, first.name, results[first], other.name, results[other])
        except EngineError as error:
            wrong[other] = error
            if other.engine.name == first.engine.name:
                raise
    peers = {c.engine.name for c in others} - {first.engine.name}
    if peers and peers <= {c.engine.name for c in wrong}:
        raise next(iter(wrong.values()))
    return {c: str(error) for c, error in wrong.items()}


def check_agreement(
    task: Job, name: str, result: Sequence[Array | None], other_name: str, other: Sequence[Array | None]
) -> None:
    """Raise EngineError unless two engines' results are the same but for rounding.

    Relative L2 distance, as many roundings as the task allows.
    """
    for number, (a, b) in enumerate(zip(result, other, strict=True)):
        if a is None or b is None:
            if a is not b:
                raise EngineError(f"{task.name}: {name} and {other_name} differ in which gradients there are")
            continue
        if a.shape != b.shape or a.dtype != b.dtype:
            raise EngineError(f"{task.name}: {name} gives {a.shape} {a.dtype}, {other_name} {b.shape} {b.dtype}")
        apart = distance(a, b)
        if not apart <= task.limit(number):
            raise EngineError(f"{task.name}: {name} and {other_name} are {apart:.2g} apart (relative L2)")


def distance(exact: Array, other: Array) -> float:
    """Relative L2 distance of two arrays, summed up in float64."""
    apart = size = 0.0
    for a, b in zip(exact, other, strict=True):  # an image at a time: results may be hundreds of megabytes
        wide = a.astype(np.float64)
        apart += float(np.square(wide - b).sum())
        size += float(np.square(wide).sum())
    return (apart / size) ** 0.5 if size else apart
