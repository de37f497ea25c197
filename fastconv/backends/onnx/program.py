"""A graph, ready to run: kernels in order, each value freed after its last use.

Freed results lie in memory that fastconv keeps for the next ones, so that a run takes little more than its largest
moment, and pointwise operators write into an input that nobody reads again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np

from fastconv.backends.errors import ModelError
from fastconv.backends.onnx.fallback import kernel_of
from fastconv.backends.onnx.graph import Graph, Node
from fastconv.backends.onnx.kernels import Kernel
from fastconv.backends.onnx.layout import lying_first

Values = dict[str, Any]
Observer = Callable[["Step", list[Any], tuple[Any, ...], float], None]

FAULTS = (ValueError, TypeError, RuntimeError, LookupError, ArithmeticError, AttributeError, AssertionError)


@dataclass(frozen=True, eq=False)
class Step:
    """A node's kernel, the values it is given, and what is not read after it."""

    node: Node
    kernel: Kernel
    reads: tuple[str, ...]
    options: dict[str, Any]
    frees: tuple[str, ...]

    def __call__(self, values: Values) -> tuple[Any, ...]:
        """Run it and return its outputs.

        Raises
        ------
        ModelError
            That names the node and the shapes of its inputs.
        """
        inputs = [values[name] if name else None for name in self.reads]
        try:
            results = self.kernel.run(*inputs, **self.options)
        except FAULTS as error:
            raise self._error(inputs, error) from error
        return results if isinstance(results, tuple) else (results,)

    def _error(self, inputs: list[Any], error: Exception) -> ModelError:
        shown = (f"{name} {x.dtype}{list(x.shape)}" for name, x in zip(self.reads, inputs, strict=True)
                 if isinstance(x, np.ndarray))  # fmt: skip
        return self.node.error(f"{error or type(error).__name__}; its inputs: {', '.join(shown) or 'none'}")


class Program:
    """The steps of a graph and the constants that they read; any number of threads may run it at once."""

    def __init__(self, graph: Graph) -> None:
        kernels = [kernel_of(node, graph.opsets, graph.constants) for node in graph.nodes]
        self.outputs = graph.output_names
        self.steps = _schedule(graph, kernels)
        kept = {*(name for step in self.steps for name in step.reads), *self.outputs}
        self.constants = {name: value for name, value in graph.constants.items() if name in kept}
        self._own = _fresh(graph, kernels)

    def run(self, feeds: Mapping[str, Any], observer: Observer | None = None) -> list[Any]:
        """The outputs for these inputs; an observer is told of each step, its inputs, outputs and seconds.

        What is not finite goes through as IEEE says, without NumPy's warnings.
        """
        values: Values = {**self.constants, **feeds}
        with np.errstate(all="ignore"):
            self._run(values, observer)
        return [self._handed_out(name, values[name]) for name in self.outputs]

    def _run(self, values: Values, observer: Observer | None) -> None:
        """Fill in the outputs."""
        for step in self.steps:
            if observer is None:
                results = step(values)
            else:
                inputs = [values[name] if name else None for name in step.reads]
                start = perf_counter()
                results = step(values)
                observer(step, inputs, results, perf_counter() - start)
            values.update((name, y) for name, y in zip(step.node.outputs, results, strict=False) if name)
            for name in step.frees:
                values.pop(name, None)

    def _handed_out(self, name: str, value: Any) -> Any:
        """An output as the caller may have it: C-contiguous, and no view of inputs or constants."""
        if not isinstance(value, np.ndarray):
            return value
        return lying_first(value) if name in self._own else value.copy(order="C")


def _fresh(graph: Graph, kernels: list[Kernel]) -> frozenset[str]:
    """Values that lie in memory of their own."""
    steps = zip(graph.nodes, kernels, strict=True)
    return frozenset(name for node, kernel in steps if kernel.fresh for name in node.outputs if name)


def _schedule(graph: Graph, kernels: list[Kernel]) -> list[Step]:
    alone = _fresh(graph, kernels) - _viewed(graph, kernels) - set(graph.output_names)
    later = set(graph.output_names)
    steps = []
    for node, kernel in zip(reversed(graph.nodes), reversed(kernels), strict=True):
        given = (*node.inputs, *node.captured)
        reads = tuple("" if position in kernel.bound else name for position, name in enumerate(given))
        last = {name for name in (*reads, *node.outputs) if name} - later - set(graph.constants)
        options = {}
        if kernel.overwrites:
            options["reusable"] = tuple(i for i, name in enumerate(reads) if name in last & alone)
        steps.append(Step(node, kernel, reads, options, tuple(last)))
        later.update(name for name in reads if name)
    return steps[::-1]


def _viewed(graph: Graph, kernels: list[Kernel]) -> set[str]:
    """Values that some other value may be a view of."""
    steps = zip(graph.nodes, kernels, strict=True)
    return {name for node, kernel in steps if not kernel.fresh for name in node.reads}
