"""Convolutions planned beforehand for one weight and one shape of x, as servers want them and evaluated layers keep."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastconv.functional._convolution import check_operands, documented, epilogue, flip
from fastconv.functional._output import check_like, residual_output
from fastconv.functional._pooling import as_x_shape
from fastconv.functional.conv import conv_plan
from fastconv.functional.explain import PlanExplanation, explanation
from fastconv.functional.transposed import conv_transpose_plan
from fastconv.geometry import check_array
from fastconv.geometry.arguments import IntOrTuple, Padding
from fastconv.kernels.core import isa_index
from fastconv.planner import PlanCache
from fastconv.runtime import resolve_algorithm

__all__ = [
    "PlannedConv",
    "PlansByShape",
    "plan_conv1d",
    "plan_conv2d",
    "plan_conv3d",
    "plan_conv_transpose1d",
    "plan_conv_transpose2d",
    "plan_conv_transpose3d",
]

Array = NDArray[Any]
Shape = tuple[int, ...]

SHAPES_KEPT = 4  # packs of one weight: a service has a few sizes of batch, and each pack is a weight


def plan_key(x_shape: Shape, algorithm: str | None, *others: Any) -> tuple[Any, ...]:
    """The key in a `PlanCache` of a plan for x of this shape with the ISA and algorithm policy now in force."""
    return isa_index(), resolve_algorithm(algorithm), x_shape, *others


class PlannedConv:
    """A convolution of one weight and bias, and of any x of one shape.

    ``plan(x, out=y)`` neither allocates nor looks anything up, and ``plan(x)`` makes a new y. An algorithm whose weight
    is dear to prepare pays here sooner than in a call of the operator: the bits of both are the same for a policy other
    than "auto". Any number of threads may call it. What was in force when it was planned stays so:
    ISA, algorithm policy, and the values of weight and bias.

    Attributes
    ----------
    x_shape, y_shape : shapes of x and y, with a batch axis if they were planned with one
    dtype : of all arrays
    packed_bytes : memory that the packed weight takes; 0 where the algorithm reads the weight as it is
    """

    __slots__ = (
        "_adds", "_bias", "_curve", "_explain", "_kernel", "_options", "_weight", "dtype", "packed_bytes", "x_shape",
        "y_shape",
    )  # fmt: skip

    def __init__(
        self, kernel: Any, weight: Array, bias: Array | None, x_shape: Shape, y_shape: Shape, activation: str | None,
        explain: Callable[[], PlanExplanation], adds: bool = True,
    ) -> None:  # fmt: skip
        self._kernel, self._curve, self._explain, self._adds = kernel, epilogue(activation), explain, adds
        self.x_shape, self.y_shape, self.dtype = x_shape, y_shape, weight.dtype
        self._bias = None if bias is None else bias.copy()
        if hasattr(kernel, "pack"):
            packed = kernel.pack(weight)
            self.packed_bytes, self._options = packed.nbytes, {"packed": packed}
        else:
            self.packed_bytes, self._options = 0, {}
        read = not self._options or kernel.rereads_weight
        self._weight = np.array(weight, order="C") if read else np.ascontiguousarray(weight)

    def __call__(self, x: Array, *, residual: Array | None = None, out: Array | None = None) -> Array:
        """Return y, which is `out` if given: an array of y's shape and dtype that does not overlap x.

        A convolution, but no transposed one, adds `residual` before its activation: an array of y's shape and dtype,
        which may be `out` itself. A copy of it is made if it is not contiguous, or if it is `out` and the algorithm is
        another than "direct".

        Raises
        ------
        TypeError, ValueError
            If x, residual or out has not the dtype or shape that was planned for.
        """
        if type(x) is not np.ndarray or x.shape != self.x_shape or x.dtype != self.dtype:
            self._check(x)
        if residual is not None and not self._adds:
            raise ValueError("residual must be None for a transposed convolution, got an array")
        y = residual_output(out, self.y_shape, self.dtype, residual, x)
        self._kernel(x, self._weight, self._bias, y, *self._curve, residual, **self._options)
        return y

    def explain(self) -> PlanExplanation:
        """Which algorithm it takes, why, and every budget in bytes, with the threads now in force."""
        return self._explain()

    def _check(self, x: Any) -> None:
        check_array(x, "x")
        if x.dtype != self.dtype:
            raise TypeError(
                f"x must have the dtype of weight, {self.dtype}, got {x.dtype}; cast it with x.astype(np.{self.dtype})"
            )
        check_like(x, "x", self.x_shape, "this plan")

    def __repr__(self) -> str:
        return f"PlannedConv({self.x_shape} -> {self.y_shape}, {self.dtype}, packed_bytes={self.packed_bytes})"


class PlansByShape:
    """An operator with one weight, which is packed once for each shape of x; the packs made last are kept.

    It is called as the operator is, always with the same arrays as weight and bias, which must not change.
    """

    def __init__(self, plan: Callable[..., PlannedConv]) -> None:
        self._plan = plan
        self._plans: PlanCache[PlannedConv] = PlanCache(SHAPES_KEPT)

    def __call__(
        self, x: Array, weight: Array, bias: Array | None, *, residual: Array | None = None, **options: Any
    ) -> Array:
        check_array(x, "x")
        key = plan_key(x.shape, options["algorithm"], *options.values())
        plan = self._plans.get(key)
        if plan is None:
            plan = self._plans.put(key, self._plan(x.shape, weight, bias, **options))
        return plan(x) if residual is None else plan(x, residual=residual)


def _stand_in(ndim: int, x_shape: Any, weight: Array, bias: Array | None) -> Array:
    """An x of this shape that takes no memory, once it is known to go with weight and bias."""
    check_array(weight, "weight")
    x = np.broadcast_to(np.empty((), weight.dtype), as_x_shape(x_shape))
    check_operands(ndim, x, weight, bias)
    return x


def _plan_conv(
    ndim: int, x_shape: Shape, weight: Array, bias: Array | None, stride: Any, padding: Any, dilation: Any,
    groups: Any, padding_mode: str, data_format: str, activation: str | None, flip_kernel: bool, algorithm: str | None,
) -> PlannedConv:  # fmt: skip
    x = _stand_in(ndim, x_shape, weight, bias)
    plan = conv_plan(ndim, x, weight, bias, stride, padding, dilation, groups, padding_mode, data_format, algorithm)
    y_shape = plan.y_shape if x.ndim == ndim + 2 else plan.y_shape[1:]
    explain = partial(explanation, plan, "forward", "forward", prepared=True)
    return PlannedConv(plan.prepared_forward, flip(weight, flip_kernel), bias, x.shape, y_shape, activation, explain)


def _plan_conv_transpose(
    ndim: int, x_shape: Shape, weight: Array, bias: Array | None, stride: Any, padding: Any, output_padding: Any,
    groups: Any, dilation: Any, data_format: str, activation: str | None, algorithm: str | None,
) -> PlannedConv:  # fmt: skip
    x = _stand_in(ndim, x_shape, weight, bias)
    plan = conv_transpose_plan(
        ndim, x, weight, bias, stride, padding, output_padding, groups, dilation, data_format, algorithm
    )
    y_shape = plan.x_shape if x.ndim == ndim + 2 else plan.x_shape[1:]
    explain = partial(explanation, plan, "forward", "backward_input", prepared=True)
    return PlannedConv(plan.prepared_backward_input, weight, bias, x.shape, y_shape, activation, explain, adds=False)


_CONV = """Plan `conv{ndim}d` for one weight and one shape of x; see `PlannedConv`.

    Parameters
    ----------
    x_shape : shape of x, (N, C_in, {size}) or (N, {size}, C_in); N may be left out
    weight, bias : as in `conv{ndim}d`, with the values that they have now; x will have their dtype
    stride, padding, dilation, groups, padding_mode, data_format, activation, flip_kernel, algorithm
        As in `conv{ndim}d`.

    Returns
    -------
    PlannedConv
        ``plan(x, out=y)`` writes y and returns it, ``plan(x)`` returns a new one; ``plan(x, residual=r)`` adds r.

    Raises
    ------
    TypeError, ValueError
        As in `conv{ndim}d`.
    """


@documented(_CONV, 1)
def plan_conv1d(
    x_shape: Shape,
    weight: Array,
    bias: Array | None = None,
    stride: IntOrTuple = 1,
    padding: Padding = 0,
    dilation: IntOrTuple = 1,
    groups: int = 1,
    *,
    padding_mode: str = "zeros",
    data_format: str = "channels_first",
    activation: str | None = None,
    flip_kernel: bool = False,
    algorithm: str | None = None,
) -> PlannedConv:
    return _plan_conv(1, x_shape, weight, bias, stride, padding, dilation, groups, padding_mode, data_format,
                      activation, flip_kernel, algorithm)  # fmt: skip


@documented(_CONV, 2)
def plan_conv2d(
    x_shape: Shape,
    weight: Array,
    bias: Array | None = None,
    stride: IntOrTuple = 1,
    padding: Padding = 0,
    dilation: IntOrTuple = 1,
    groups: int = 1,
    *,
    padding_mode: str = "zeros",
    data_format: str = "channels_first",
    activation: str | None = None,
    flip_kernel: bool = False,
    algorithm: str | None = None,
) -> PlannedConv:
    return _plan_conv(2, x_shape, weight, bias, stride, padding, dilation, groups, padding_mode, data_format,
                      activation, flip_kernel, algorithm)  # fmt: skip


@documented(_CONV, 3)
def plan_conv3d(
    x_shape: Shape,
    weight: Array,
    bias: Array | None = None,
    stride: IntOrTuple = 1,
    padding: Padding = 0,
    dilation: IntOrTuple = 1,
    groups: int = 1,
    *,
    padding_mode: str = "zeros",
    data_format: str = "channels_first",
    activation: str | None = None,
    flip_kernel: bool = False,
    algorithm: str | None = None,
) -> PlannedConv:
    return _plan_conv(3, x_shape, weight, bias, stride, padding, dilation, groups, padding_mode, data_format,
                      activation, flip_kernel, algorithm)  # fmt: skip


_CONV_TRANSPOSE = """Plan `conv_transpose{ndim}d` for one weight and one shape of x; see `PlannedConv`.

    Parameters
    ----------
    x_shape : shape of x, (N, C_in, {size}) or (N, {size}, C_in); N may be left out
    weight, bias : as in `conv_transpose{ndim}d`, with the values that they have now; x will have their dtype
    stride, padding, output_padding, groups, dilation, data_format, activation, algorithm
        As in `conv_transpose{ndim}d`.

    Returns
    -------
    PlannedConv
        ``plan(x, out=y)`` writes y and returns it, ``plan(x)`` returns a new one.

    Raises
    ------
    TypeError, ValueError
        As in `conv_transpose{ndim}d`.
    """


@documented(_CONV_TRANSPOSE, 1)
def plan_conv_transpose1d(
    x_shape: Shape,
    weight: Array,
    bias: Array | None = None,
    stride: IntOrTuple = 1,
    padding: Padding = 0,
    output_padding: IntOrTuple = 0,
    groups: int = 1,
    dilation: IntOrTuple = 1,
    *,
    data_format: str = "channels_first",
    activation: str | None = None,
    algorithm: str | None = None,
) -> PlannedConv:
    return _plan_conv_transpose(1, x_shape, weight, bias, stride, padding, output_padding, groups, dilation,
                                data_format, activation, algorithm)  # fmt: skip


@documented(_CONV_TRANSPOSE, 2)
def plan_conv_transpose2d(
    x_shape: Shape,
    weight: Array,
    bias: Array | None = None,
    stride: IntOrTuple = 1,
    padding: Padding = 0,
    output_padding: IntOrTuple = 0,
    groups: int = 1,
    dilation: IntOrTuple = 1,
    *,
    data_format: str = "channels_first",
    activation: str | None = None,
    algorithm: str | None = None,
) -> PlannedConv:
    return _plan_conv_transpose(2, x_shape, weight, bias, stride, padding, output_padding, groups, dilation,
                                data_format, activation, algorithm)  # fmt: skip


@documented(_CONV_TRANSPOSE, 3)
def plan_conv_transpose3d(
    x_shape: Shape,
    weight: Array,
    bias: Array | None = None,
    stride: IntOrTuple = 1,
    padding: Padding = 0,
    output_padding: IntOrTuple = 0,
    groups: int = 1,
    dilation: IntOrTuple = 1,
    *,
    data_format: str = "channels_first",
    activation: str | None = None,
    algorithm: str | None = None,
) -> PlannedConv:
    return _plan_conv_transpose(3, x_shape, weight, bias, stride, padding, output_padding, groups, dilation,
                                data_format, activation, algorithm)  # fmt: skip
