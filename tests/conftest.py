"""Fixtures that run a test on every ISA and on one and all threads."""

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import hypothesis
import pytest

from fastconv import runtime

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


def on_threads(names: Iterable[str], large: Iterable[str]) -> list[tuple[str, int]]:
    """Parameters (name, threads): every case on one thread, those that are large enough for a team on all."""
    return [(name, 1) for name in names] + [(name, MANY) for name in large]


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
