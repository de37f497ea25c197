"""Convolutions one after the other, planned to be run stripe by stripe: see `fastconv.kernels.stripes`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastconv.functional._convolution import check_operands, epilogue
from fastconv.functional._output import check_like, residual_output
from fastconv.functional.conv import conv_plan
from fastconv.functional.planned import SHAPES_KEPT, plan_key
from fastconv.geometry import check_array, check_same_dtype
from fastconv.geometry.arguments import IntOrTuple, Padding
from fastconv.kernels.core import team_of
from fastconv.kernels.stripes import MOST_STAGES, StripesPlan
from fastconv.planner import PlanCache
from fastconv.runtime import get_num_threads

__all__ = ["PlannedStripes", "Stage", "StripesByShape", "plan_stripes"]

Array = NDArray[Any]
Shape = tuple[int, ...]

STRIPE_BYTES = 384 * 1024  # of the rows that a thread keeps between stages: less than half of a 1 MB L2
MOST_BYTES = 768 * 1024  # of those of a stripe of one row, above which L2 does not keep them
WASTE = 1.3  # times an even share of the multiply-adds: what the busiest thread may do, rows that bands share among it


@dataclass(frozen=True, slots=True)
class Stage:
    """One convolution in channels_last, with zeros as padding; arguments as in `conv2d`."""

    weight: Array
    bias: Array | None = None
    stride: IntOrTuple = 1
    padding: Padding = 0
    dilation: IntOrTuple = 1
    groups: int = 1
    activation: str | None = None


class Window(NamedTuple):
    """How a stage's rows read those of the stage before."""

    source_rows: int
    rows: int
    stride: int
    before: int
    extent: int

    def read_by(self, first: int, end: int) -> tuple[int, int]:
        """The rows that rows first .. end - 1 read."""
        low = min(self.source_rows, max(0, first * self.stride - self.before))
        return low, max(low, min(self.source_rows, (end - 1) * self.stride - self.before + self.extent))


class Cut(NamedTuple):
    """How the rows of y are shared out."""

    bands: int
    stripe: int
    waste: float
    """The busiest thread's multiply-adds over an even share of those without bands."""


class PlannedStripes:
    """Convolutions of any x of one shape, one after the other.

    ``plan(x)`` returns y, and ``plan(x, residual=r)`` adds r, an array like y, before the last activation. The bits are
    those of `conv2d` stage by stage where that takes the same algorithms. Any number of threads may call it; for as
    many as it was planned with it is cut best.

    Attributes
    ----------
    x_shape, y_shape : shapes of x and y
    dtype : of all arrays
    bands, stripe : how many bands an image's rows are cut into, and how many rows a stripe has
    """

    __slots__ = ("_kernel", "bands", "dtype", "stripe", "x_shape", "y_shape")

    def __init__(self, kernel: StripesPlan, x_shape: Shape, y_shape: Shape, dtype: Any, cut: Cut) -> None:
        self._kernel, self.x_shape, self.y_shape, self.dtype = kernel, x_shape, y_shape, dtype
        self.bands, self.stripe = cut.bands, cut.stripe

    def __call__(self, x: Array, *, residual: Array | None = None, out: Array | None = None) -> Array:
        """Return y, which is `out` if given: an array of y's shape and dtype that does not overlap x.

        Raises
        ------
        TypeError, ValueError
            If x, residual or out has not the dtype or shape that was planned for.
        """
        if type(x) is not np.ndarray or x.shape != self.x_shape or x.dtype != self.dtype:
            check_array(x, "x")
            check_like(x, "x", self.x_shape, "this plan")
            raise TypeError(f"x must have the dtype of the weights, {self.dtype}, got {x.dtype}")
        y = residual_output(out, self.y_shape, self.dtype, residual, x)
        self._kernel(x, y, residual)
        return y


class StripesByShape:
    """`plan_stripes` of the same weights, which are packed once for each shape of x; the packs made last are kept.

    It is called as `plan_stripes` is, but with a function that returns the stages, which is asked only for a plan that
    is not kept: always for stages with the same arrays as weights and biases, which must not change.
    """

    def __init__(self) -> None:
        self._plans: PlanCache[tuple[PlannedStripes | None]] = PlanCache(SHAPES_KEPT)

    def __call__(self, x_shape: Shape, stages: Callable[[], Sequence[Stage]]) -> PlannedStripes | None:
        key = plan_key(x_shape, None, get_num_threads())
        held = self._plans.get(key)
        if held is None:
            held = self._plans.put(key, (plan_stripes(x_shape, stages()),))
        return held[0]


def plan_stripes(
    x_shape: Shape, stages: Sequence[Stage], algorithm: str | None = None, cut: Cut | None = None
) -> PlannedStripes | None:
    """Plan convolutions, each of which reads what the one before made, for one shape of x.

    Parameters
    ----------
    x_shape : (N, H, W, C_in)
    stages : two to eight, with the values that their weights have now
    algorithm : the policy, as in `conv2d`
    cut : how rows are shared out; by default the cheapest for the threads that there are now

    Returns
    -------
    PlannedStripes
        Or None where that would not pay: a convolution takes an algorithm whose rows are not made apart from others, a
        cache does not hold the rows that one is made of, or there are so few that threads make too many of them twice.

    Raises
    ------
    TypeError, ValueError
        As `conv2d` does for each stage.

    Source: Alwani, Chen, Ferdman, Milder, "Fused-Layer CNN Accelerators", 2016, section III.
    """
    if not 2 <= len(stages) <= MOST_STAGES:
        raise ValueError(f"stages must be 2 to {MOST_STAGES}, got {len(stages)}")
    dtype = check_same_dtype(**{f"stages[{i}].weight": stage.weight for i, stage in enumerate(stages)})
    batch, *image = x_shape
    shape, plans = (1, *image), []
    for stage in stages:
        plans.append(_plan_stage(shape, stage, algorithm))
        shape = plans[-1].y_shape
    kernels = [plan.prepared_forward for plan in plans]
    if batch == 0 or 0 in shape or not all(kernel.makes_rows for kernel in kernels):
        return None
    windows = [_window(plan.geometry) for plan in plans]
    row_bytes = [dtype.itemsize * prod(s[2:]) for s in ((1, *image), *(plan.y_shape for plan in plans))]
    work = [kernel.multiply_adds for kernel in kernels]
    if cut is None:
        cut = _cut(windows, row_bytes, work, batch, team_of(batch * sum(work)))
    if cut is None or cut.waste > WASTE:
        return None
    made = [
        (kernel, stage.weight, stage.bias, *epilogue(stage.activation))
        for kernel, stage in zip(kernels, stages, strict=True)
    ]
    kernel = StripesPlan(made, windows, row_bytes, batch, cut.bands, cut.stripe, batch * sum(work))
    return PlannedStripes(kernel, tuple(x_shape), (batch, *shape[1:]), dtype, cut)


def _plan_stage(x_shape: Shape, stage: Stage, algorithm: str | None) -> Any:
    x = np.broadcast_to(np.empty((), stage.weight.dtype), x_shape)
    check_operands(2, x, stage.weight, stage.bias)
    return conv_plan(2, x, stage.weight, stage.bias, stage.stride, stage.padding, stage.dilation, stage.groups,
                     "zeros", "channels_last", algorithm)  # fmt: skip


def _window(geometry: Any) -> Window:
    extent = (geometry.kernel[0] - 1) * geometry.dilation[0] + 1
    return Window(geometry.in_size[0], geometry.out_size[0], geometry.stride[0], geometry.padding[0][0], extent)


def _cut(windows: Sequence[Window], row_bytes: Sequence[int], work: Sequence[float], batch: int,
         threads: int) -> Cut | None:  # fmt: skip
    """The fewest bands with the least work of the busiest thread, and the longest stripes that L2 keeps."""
    rows = windows[-1].rows
    most = 1 if batch >= 4 * threads else min(rows, 4 * threads)
    waste, bands = min((_waste(windows, work, batch, threads, bands), bands) for bands in range(1, most + 1))
    longest = -(-rows // bands)
    fitting = [n for n in range(1, longest + 1) if _kept(windows, row_bytes, n) <= STRIPE_BYTES]
    stripe = max(fitting, default=1)
    if not fitting and _kept(windows, row_bytes, 1) > MOST_BYTES:
        return None
    return Cut(bands, -(-longest // -(-longest // stripe)), waste)


def _kept(windows: Sequence[Window], row_bytes: Sequence[int], stripe: int) -> int:
    """Bytes of the rows that a thread keeps between stages."""
    rows, total = stripe, 0
    for window, size in zip(windows[:0:-1], row_bytes[-2:0:-1], strict=True):
        rows = min(window.source_rows, (rows - 1) * window.stride + window.extent)
        total += rows * size
    return total


def _waste(windows: Sequence[Window], work: Sequence[float], batch: int, threads: int, bands: int) -> float:
    rows = windows[-1].rows
    bounds = [rows * band // bands for band in range(bands + 1)]
    longest = max(_band_work(windows, work, first, end) for first, end in pairwise(bounds))
    return -(-batch * bands // threads) * longest * threads / (batch * sum(work))


def _band_work(windows: Sequence[Window], work: Sequence[float], first: int, end: int) -> float:
    total = 0.0
    for window, each in zip(reversed(windows), reversed(work), strict=True):
        total += each * (end - first) / window.rows
        first, end = window.read_by(first, end)
    return total
