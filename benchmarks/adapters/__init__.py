"""How an engine runs a layer: a module each.

    start(threads)                      once, in the engine's own process; returns {package: version}
    supports(layer, data_format)        whether it has the operator in that layout
    prepare(layer, arrays, data_format, kind) -> (call, as_array)
                                        what is timed, and its result as a NumPy array (N, C, *size)

`arrays` are (x, weight, bias), channels first; moving them to the layout in which they are read is part of the
preparation. `kind` is "functional", where weights are prepared inside the timed call, or "layer", where they are packed
ahead as far as the engine can. Which of an engine's modules a process imports is settled by its name; no other engine
is loaded beside it.
"""

from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

MODULES = {"fastconv": "benchmarks.adapters.ours", "torch": "benchmarks.adapters.pytorch"}
KINDS = ("functional", "layer")


def load(engine: str) -> ModuleType:
    """The adapter of an engine, for its own process."""
    return import_module(MODULES[engine])


def installed(engine: str) -> bool:
    """Whether an engine's package is there; it is not imported."""
    return find_spec(engine) is not None
