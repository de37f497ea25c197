"""One node as it runs: its kernel, what it is given, and what is not read after it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np

from fastconv.backends.errors import ModelError
from fastconv.backends.onnx.graph import Node
from fastconv.backends.onnx.kernels import Kernel

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


def run_steps(steps: Sequence[Step], values: Values, observer: Observer | None) -> None:
    """Add what they make to the values, and take out what is not read again."""
    for step in steps:
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
