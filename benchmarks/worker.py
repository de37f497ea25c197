"""The process that one engine lives in: it runs functions for the process that started it, and sleeps in between.

    python -m benchmarks.worker ENGINE THREADS

Pickled requests (function, arguments) come by standard input, answers (done, result or error) go by standard output.
A function is named `module:name`, so that nothing of another engine needs to be imported to name it; its first argument
is the `Session` of this process.
"""

from __future__ import annotations

import os
import pickle
import sys
import traceback
from collections.abc import Callable
from importlib import import_module
from typing import Any

from benchmarks import adapters
from benchmarks.layer import Array, Layer, operands
from benchmarks.timing import Timing, time_calls


class Session:
    """An engine that has been started, and the layer it has been given last."""

    def __init__(self, engine: str, threads: int) -> None:
        self.adapter = adapters.load(engine)
        self.versions: dict[str, str] = self.adapter.start(threads)
        self.call: Callable[[], Any] = lambda: None


def versions(session: Session) -> dict[str, str]:
    """What has been loaded here."""
    return session.versions


def prepare(session: Session, layer: Layer, dtype: str, data_format: str, kind: str) -> Array | None:
    """Get a layer ready and run it once; its result (N, C, *size), or None where the engine does not have it."""
    session.call = lambda: None  # lets go of the arrays of the layer before
    if not session.adapter.supports(layer, data_format):
        return None
    session.call, as_array = session.adapter.prepare(layer, operands(layer, dtype), data_format, kind)
    return as_array(session.call())


def time_round(session: Session, seconds: float) -> Timing:
    """One round of the prepared layer."""
    return time_calls(session.call, seconds)


def main() -> None:
    """Serve until standard input ends; what libraries print goes to standard error."""
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
            answer = (True, getattr(import_module(module), name)(session, *arguments))
        except Exception:
            answer = (False, traceback.format_exc())
        pickle.dump(answer, answers, pickle.HIGHEST_PROTOCOL)
        answers.flush()


if __name__ == "__main__":
    # Under its own name, so that the Session that functions are given is the one they know.
    import_module("benchmarks.worker").main()
