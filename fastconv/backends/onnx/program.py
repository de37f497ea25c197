"""A graph, ready to run: kernels in order, each value freed after its last use.

Freed results lie in memory that fastconv keeps for the next ones, so that a run takes little more than its largest
moment, and pointwise operators write into an input that nobody reads again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fastconv.backends.onnx.fallback import kernel_of
from fastconv.backends.onnx.graph import Graph
from fastconv.backends.onnx.images import ImageWise
from fastconv.backends.onnx.kernels import Kernel
from fastconv.backends.onnx.layout import lying_first
from fastconv.backends.onnx.step import Observer, Step, Values, run_steps


class Program:
    """The steps of a graph and the constants that they read; any number of threads may run it at once."""

    def __init__(self, graph: Graph) -> None:
        kernels = [kernel_of(node, graph.opsets, graph.constants) for node in graph.nodes]
        self.outputs = graph.output_names
        self.steps = _schedule(graph, kernels)
        kept = {*(name for step in self.steps for name in step.reads), *self.outputs}
        self.constants = {name: value for name, value in graph.constants.items() if name in kept}
        self._own = _fresh(graph, kernels)
        self._image_wise = ImageWise(graph, self.steps)

    def run(self, feeds: Mapping[str, Any], observer: Observer | None = None) -> list[Any]:
        """The outputs for these inputs; an observer is told of each step, its inputs, outputs and seconds.

        What is not finite goes through as IEEE says, without NumPy's warnings.
        """
        values: Values = {**self.constants, **feeds}
        with np.errstate(all="ignore"):
            first = self._image_wise.run(values, observer)
            run_steps(self.steps[first:], values, observer)
        return [self._handed_out(name, values[name]) for name in self.outputs]

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
