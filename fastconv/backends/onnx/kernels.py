"""What runs a node, and the table of operators that have more than onnx's reference evaluator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastconv.backends.onnx.graph import Node, is_float
from fastconv.geometry.arrays import DTYPES

Array = NDArray[Any]
Run = Callable[..., Any]
Constants = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Kernel:
    """A node, ready to run: ``run(*inputs)`` returns its output or a tuple of them, None standing for what is left out.

    Attributes
    ----------
    run : the function
    how : what runs, for a profile; a string, or a function of the inputs
    fresh : whether results lie in memory of their own, never in that of inputs
    overwrites : whether `run` takes ``reusable``, the positions of inputs into whose memory it may write
    bound : positions of inputs that it holds itself, and is given as None
    """

    run: Run
    how: str | Callable[..., str] = "NumPy"
    fresh: bool = True
    overwrites: bool = False
    bound: tuple[int, ...] = ()


# None leaves a node to the reference evaluator.
Factory = Callable[[Node, Constants], Kernel | None]
OPERATORS: dict[str, Factory] = {}


def operator(*names: str) -> Callable[[Factory], Factory]:
    """Enter a function that makes kernels in the table, for operators of the default domain."""

    def enter(factory: Factory) -> Factory:
        OPERATORS.update(dict.fromkeys(names, factory))
        return factory

    return enter


def floating(run: Run) -> Run:
    """The same function for float16 and bfloat16, too: computed in float32 and rounded at the end.

    Integers and other types raise a TypeError.
    """

    def of_any_float(*inputs: Any, **options: Any) -> Any:
        dtype = next(x.dtype for x in inputs if x is not None)
        if dtype in DTYPES:
            return run(*inputs, **options)
        if dtype.itemsize != 2 or not is_float(inputs[0]):
            raise TypeError(f"its dtype must be float16, bfloat16, float32 or float64, got {dtype}")
        result = run(*map(widened, inputs), **options)
        if isinstance(result, tuple):
            return tuple(narrowed(y, dtype) for y in result)
        return narrowed(result, dtype)

    return of_any_float


def widened(x: Any) -> Any:
    """float16 and bfloat16 as float32; anything else as it is."""
    return x.astype(np.float32) if is_float(x) and x.dtype.itemsize == 2 else x


def wide(array: Array) -> Array:
    """In float64, in which passes compute weights."""
    return array.astype(np.float64)


def narrowed(y: Array, dtype: np.dtype[Any]) -> Array:
    """float32 as `dtype`; anything else, such as indices, as it is."""
    return y.astype(dtype) if y.dtype == np.float32 else y
