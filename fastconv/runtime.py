"""The knobs a user may turn: threads, ISA, algorithm policy, memory; and what this build and machine are."""

from __future__ import annotations

import contextlib
import contextvars
import math
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fastconv.kernels import core

ALGORITHMS = ("auto", "direct", "depthwise", "grouped", "winograd")


def available_cpus() -> int:
    """CPUs this process may use: its affinity mask, cut down to the control group's quota where there is one."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            allowed = min(allowed, max(1, math.ceil(int(quota) / int(period))))
    return allowed


def set_num_threads(count: int) -> None:
    """Let every operator use at most `count` threads (default: OMP_NUM_THREADS, else the CPUs this process may use).

    Results are the same bits for every count.

    Raises
    ------
    TypeError, ValueError
        If `count` is not an integer of at least 1.
    """
    if isinstance(count, bool) or not isinstance(count, (int, np.integer)):
        raise TypeError(f"count must be an int, got {count!r}")
    if not 1 <= count <= 4096:
        raise ValueError(f"count must be between 1 and 4096, got {count}")
    core.set_threads(int(count))


def get_num_threads() -> int:
    """Threads that an operator may use."""
    return core.get_threads()


def available_isas() -> tuple[str, ...]:
    """ISAs that this build holds and this machine can run, widest first."""
    return core.supported_isas()


def get_isa() -> str:
    """Name of the ISA in use."""
    return core.current_isa()


def set_isa(name: str) -> None:
    """Use the microkernels of one ISA: `"avx512"`, `"avx2"`, `"baseline"` or `"neon"` (default: the widest supported).

    The environment variable FASTCONV_ISA does the same at import.

    Raises
    ------
    ValueError
        If this build does not hold it or this machine cannot run it.
    """
    if name not in core.supported_isas():
        where = "this machine does not support it" if name in core.built_isas() else "this build does not hold it"
        raise ValueError(f"isa must be one of {core.supported_isas()}, got {name!r}: {where}")
    core.use_isa(name)


_process_algorithm = "auto"
_algorithm: contextvars.ContextVar[str | None] = contextvars.ContextVar("fastconv_algorithm", default=None)


def resolve_algorithm(name: str | None = None) -> str:
    """The policy of a call: its own, or that of the surrounding `algorithm` block, or that of the process.

    Raises
    ------
    ValueError
        If `name` is not one of `ALGORITHMS`.
    """
    if name is None:
        return _algorithm.get() or _process_algorithm
    if name not in ALGORITHMS:
        raise ValueError(f"algorithm must be one of {ALGORITHMS}, got {name!r}")
    return name


@contextlib.contextmanager
def algorithm(name: str) -> Iterator[None]:
    """Use one algorithm policy inside a `with` block: `with fastconv.algorithm("direct"): ...`.

    "auto" takes the fastest within 4 times the rounding error of "direct"; any other is taken wherever it can run a
    convolution, else "direct". No weight gradient is "winograd".

    The environment variable FASTCONV_ALGORITHM sets the policy of the process.

    Raises
    ------
    ValueError
        If `name` is not one of `ALGORITHMS`.
    """
    token = _algorithm.set(resolve_algorithm(name))
    try:
        yield
    finally:
        _algorithm.reset(token)


def trim() -> int:
    """Give idle workspace back to the system; returns the bytes that were kept."""
    idle = core.idle_workspace_bytes()
    core.trim_workspace()
    return idle


def info() -> dict[str, str]:
    """Version, ISA, threads, compiler and OpenMP runtime, as `python -m fastconv info` prints them."""
    from fastconv import __version__

    build = core.build_info()
    return {
        "fastconv": __version__,
        "isa": f"{get_isa()} (available: {', '.join(available_isas())})",
        "threads": f"{get_num_threads()} (CPUs: {available_cpus()})",
        "algorithm": resolve_algorithm(),
        "compiler": build["compiler"],
        "openmp": f"{build['openmp_runtime']}, specification {build['openmp']}",
        "numpy": np.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.machine()} {_cpu_name()}".strip(),
    }


def _cpu_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def _threads_from_environment() -> int:
    first = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return min(int(first), 4096) if first.isdigit() and int(first) > 0 else available_cpus()


def _is_command() -> bool:
    """Whether this process is `python -m fastconv` or the script `fastconv`.

    Both import the package before any code of the command line runs, so its errors cannot be caught there.
    """
    arguments = getattr(sys, "argv", [""])  # an embedded interpreter may have none
    if arguments[0] == "-m":  # as long as Python looks for the module to run; the name follows the -m, or is part of it
        return sys.orig_argv[-len(arguments)].removeprefix("-m") == "fastconv"
    return Path(arguments[0]).name in ("fastconv", "fastconv.exe")


def _initialise() -> None:
    global _process_algorithm
    set_num_threads(_threads_from_environment())
    try:
        variable = "FASTCONV_ISA"
        if isa := os.environ.get(variable):
            set_isa(isa)
        variable = "FASTCONV_ALGORITHM"
        _process_algorithm = resolve_algorithm(os.environ.get(variable) or "auto")
    except ValueError as error:
        if not _is_command():
            raise ValueError(f"{variable}: {error}") from None
        print(f"fastconv: {variable}: {error}", file=sys.stderr)
        raise SystemExit(2) from None


_initialise()
