"""Fixtures that run a test on every ISA and on one and all threads, and what runs one over many values at once."""

import contextlib
import ctypes
import functools
import inspect
import itertools
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

# Before NumPy and libgomp are loaded. Threads that spin while they wait take most of the time of a suite of small
# calls, and the CPUs of its other processes: let ours sleep, and what they are compared with have one, PyTorch below.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import hypothesis
import pytest

from fastconv import plots, runtime

# benchmarks/ is tested, too; last, so that an installed fastconv is not hidden by the checkout's.
sys.path.append(str(Path(__file__).parents[1]))

hypothesis.settings.register_profile("fastconv", deadline=None, derandomize=True, max_examples=60, database=None)
hypothesis.settings.load_profile("fastconv")

# Fresh memory holds a pattern (-1.7e38 as float32), so that what a kernel leaves unwritten shows: glibc's M_PERTURB.
if hasattr(ctypes.CDLL(None), "mallopt"):
    ctypes.CDLL(None).mallopt(-6, 1)

FORCED_ISA = os.environ.get("FASTCONV_ISA")
MANY = max(2, runtime.available_cpus())


ISAS = (FORCED_ISA,) if FORCED_ISA else runtime.available_isas()


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each ISA that this machine runs, or the one that FASTCONV_ISA names."""
    with using_isa(request.param):
        yield request.param


@contextlib.contextmanager
def using_isa(name: str) -> Iterator[None]:
    """The microkernels of one ISA inside the block."""
    before = runtime.get_isa()
    runtime.set_isa(name)
    try:
        yield
    finally:
        runtime.set_isa(before)


def each(**values: Iterable[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A test over all combinations of these values, as one item: pytest takes longer for an item than most cases run.

    Every combination is run, and those that fail are named.
    """
    combinations = [dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values())]

    def over(test: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(test)
        def of_all(**fixtures: Any) -> None:
            failures = []
            for combination in combinations:
                try:
                    test(**fixtures, **combination)
                except Exception as error:
                    error.add_note(f"with {', '.join(f'{name}={value!r}' for name, value in combination.items())}")
                    failures.append(error)
            if len(failures) > 1:
                raise ExceptionGroup(f"{len(failures)} of {len(combinations)} combinations", failures)
            for failure in failures:
                raise failure

        signature = inspect.signature(test)
        left = [parameter for name, parameter in signature.parameters.items() if name not in values]
        of_all.__signature__ = signature.replace(parameters=left)
        return of_all

    return over


def on_threads(names: Iterable[str], large: Iterable[str]) -> list[tuple[str, int]]:
    """Parameters (name, threads): every case on one thread, those that are large enough for a team on all."""
    return [(name, 1) for name in names] + [(name, MANY) for name in large]


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pictures of a training are empty files: to draw them takes ten times as long as a short training."""
    for name in ("learning_curve", "confusion_matrix"):
        monkeypatch.setattr(plots, name, lambda path, *_: path.touch())


def pytest_collection_finish() -> None:
    """One thread for PyTorch, if it was imported."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what runs on every ISA already, so that it need not run again where one is forced."""
    for item in items:
        if "isa" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.every_isa)


@pytest.fixture(params=(1, MANY), ids=("serial", "threaded"))
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """One thread, and all."""
    with using_threads(request.param):
        yield request.param


@contextlib.contextmanager
def using_threads(count: int) -> Iterator[None]:
    """At most `count` threads inside the block."""
    before = runtime.get_num_threads()
    runtime.set_num_threads(count)
    try:
        yield
    finally:
        runtime.set_num_threads(before)
