"""The process that one engine lives in: it runs functions for the process that started it, and sleeps in between.

    python -m benchmarks.worker ENGINE THREADS

Pickled requests (function, arguments) come by standard input, answers (done, result or error) go by standard output.
A function is named `module:name`, the module within this package, so that nothing of another engine needs to be
imported to name it; its first argument is the `Session` of this process.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pickle
import signal
import sys
import time
import traceback
from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple

from . import adapters
from .layer import Array
from .networks import Job, pictures
from .task import Task, operands
from .timing import Timing, cold_call, time_calls


class Session:
    """An engine that has been started, and the task it has been given last."""

    def __init__(self, engine: str, threads: int) -> None:
        if hasattr(os, "sched_setaffinity"):  # so many threads means as many CPUs, for every engine
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
        self.engine, self.adapter = engine, adapters.load(engine)
        self.versions: dict[str, str] = self.adapter.start(threads)
        self.call: Callable[[], Any] = lambda: None


class First(NamedTuple):
    """The first call of a task."""

    arrays: tuple[Array | None, ...]
    """What it gives: y, or the gradients of x, weight and bias; channels first."""
    seconds: float
    """What it takes, with planning, compiling and packing."""
    ran: float
    """What it takes without."""
    how: str = ""
    """Which way of the engine's own turned out to be the quickest."""


def versions(session: Session) -> dict[str, str]:
    """What has been loaded here."""
    return session.versions


def prepare(session: Session, task: Job, data_format: str) -> First | None:
    """Get a task ready and run it once; None where the engine does not have it."""
    session.call = lambda: None  # lets go of the arrays of the task before
    try:
        prepared = _prepared(session, task, data_format)
        start = time.perf_counter()
        session.call = prepared.build()
    except adapters.Unsupported:
        return None
    built = time.perf_counter()
    result = session.call()
    end = time.perf_counter()
    if not isinstance(task, Task):
        _give_memory_back()
    return First(prepared.arrays(result), end - start, end - built, getattr(session.call, "how", ""))


def _prepared(session: Session, task: Job, data_format: str) -> adapters.Prepared:
    if not isinstance(task, Task):
        prepare_network = adapters.load_for(session.engine, task).prepare
        prepared: adapters.Prepared = prepare_network(task, pictures(task), data_format)
        _give_memory_back()
    else:
        prepared = session.adapter.prepare(task, operands(task), data_format)
    return prepared


def _give_memory_back() -> None:
    """Of what is free, where there is glibc: making a large network's weights takes several times their memory."""
    with contextlib.suppress(AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def time_round(session: Session, seconds: float) -> Timing:
    """One round of the prepared task."""
    return time_calls(session.call, seconds)


def time_cold(session: Session, times: int) -> float:
    """Median seconds of a call of the prepared task whose operands are in no cache."""
    return cold_call(session.call, times)


def main() -> None:
    """Serve until standard input ends; what libraries print goes to standard error."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C stops the process that started this one
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    session = Session(sys.argv[1], int(sys.argv[2]))
    while True:
        try:
            function, arguments = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        module, _, name = function.partition(":")
        try:
            answer = (True, getattr(import_module(f".{module}", __package__), name)(session, *arguments))
        except Exception:
            answer = (False, traceback.format_exc())
        pickle.dump(answer, answers, pickle.HIGHEST_PROTOCOL)
        answers.flush()


if __name__ == "__main__":
    # Under its own name, so that the Session that functions are given is the one they know.
    import_module(".worker", __package__).main()
