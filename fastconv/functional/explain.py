"""Which algorithm a convolution takes and why, how exact it is, and the memory it works in."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from fastconv.choice import Costs
from fastconv.functional._pooling import as_x_shape
from fastconv.geometry import as_bool, check_choice, conv_geometry, conv_transpose_geometry, is_batched, is_int
from fastconv.geometry.arguments import IntOrTuple, Padding
from fastconv.geometry.arrays import DTYPES
from fastconv.kernels.memory import is_pooled
from fastconv.kernels.winograd import WinogradPlan
from fastconv.kernels.winograd_weight import WinogradWeightPlan
from fastconv.planner import ConvPlan
from fastconv.runtime import resolve_algorithm

__all__ = ["Budget", "PlanExplanation", "explain_plan", "explanation"]

Shape = tuple[int, ...]

DIRECTIONS = ("forward", "backward_input", "backward_weight")
EXACT = "sums of the definition's products"
CLOSE = "within four times direct's, in relative L2 and in the largest"
COARSE = "not held to four times direct's"
TRANSPOSED = {"forward": "backward_input", "backward_input": "forward", "backward_weight": "backward_weight"}


@dataclass(frozen=True, slots=True)
class Budget:
    """The memory that a call takes beside its arguments, and what is kept between calls, in bytes.

    Attributes
    ----------
    thread, shared : scratch memory of each thread, and of all together
    workspace : both, with all threads of the call
    packed : the packed or transformed weight
    kept : weights that a plan or an evaluated layer keeps; 0 where every call packs its own
    partial_sums : of a weight gradient
    padded : the gradient of an x padded with its own pixels, before it is folded back
    not_finite : what an output that is not finite takes, since the direct kernel then computes all of them again
    output : the result
    output_pooled : whether its memory is kept for the next result, once nothing refers to it
    """

    thread: int
    shared: int
    workspace: int
    packed: int
    kept: int
    partial_sums: int
    padded: int
    not_finite: int
    output: int
    output_pooled: bool


@dataclass(frozen=True, slots=True)
class PlanExplanation:
    """How a convolution or one of its gradients is computed, and what that takes; `print` shows it.

    Attributes
    ----------
    direction : "forward", "backward_input" or "backward_weight"
    algorithm : "direct", "depthwise", "grouped" or "winograd"
    reason : the rule that chose it
    costs : what `direct` and `winograd` cost by the model that chose between them, in multiply-adds of the direct
        kernel's inner loop; None where a rule chose
    error : the class of its rounding error
    packing : what the source is read as, a word for each phase of a stride: "pixels" in place, "turned" to lines, or
        packed "lines" or "columns" (direct), "lines" (grouped), "tiles" (winograd), "rows", "planes" or "turned" planes
        (depthwise), "channels", "in place", "patches", a "bundle" of groups or "tiles" (weight gradients)
    points : Winograd's points along each axis, phase by phase; else empty
    isa, dtype : of the microkernels
    threads : that a call takes, at most `fastconv.get_num_threads()`
    tasks : that they share out
    multiply_adds, definition_multiply_adds : of the algorithm's products, and of the definition's
    budget : memory, see `Budget`
    """

    direction: str
    algorithm: str
    reason: str
    costs: Costs | None
    error: str
    packing: tuple[str, ...]
    points: tuple[Shape, ...]
    isa: str
    dtype: np.dtype[Any]
    threads: int
    tasks: int
    multiply_adds: int
    definition_multiply_adds: int
    budget: Budget

    def __str__(self) -> str:
        b = self.budget
        lines = {
            self.direction: f"{self.algorithm}: {self.reason}",
            "costs": self.costs and f"direct {self.costs.direct:.3g}, winograd {self.costs.winograd:.3g} multiply-adds",
            "error": self.error,
            "packing": ", ".join(dict.fromkeys(self.packing)),
            "points": ", ".join(dict.fromkeys(" x ".join(map(str, p)) for p in self.points)),
            "multiply-adds": f"{self.multiply_adds:,} for the definition's {self.definition_multiply_adds:,}",
            "threads": f"{self.threads} for {self.tasks:,} tasks, {self.isa}, {self.dtype}",
            "workspace": f"{b.workspace:,} bytes, {b.thread:,} a thread and {b.shared:,} shared",
            "weight": f"{b.packed:,} bytes packed, {b.kept:,} kept",
            "partial sums": b.partial_sums and f"{b.partial_sums:,} bytes",
            "padded": b.padded and f"{b.padded:,} bytes",
            "not finite": b.not_finite and f"{b.not_finite:,} bytes, for the direct kernel",
            "output": f"{b.output:,} bytes" + (", kept for the next" if b.output_pooled else ""),
        }
        width = max(map(len, lines))
        return "\n".join(f"{name:{width}}  {text}" for name, text in lines.items() if text)


def explain_plan(
    x_shape: Shape,
    weight_shape: Shape,
    *,
    stride: IntOrTuple = 1,
    padding: Padding = 0,
    output_padding: IntOrTuple = 0,
    dilation: IntOrTuple = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
    data_format: str = "channels_first",
    algorithm: str | None = None,
    dtype: Any = "float32",
    transposed: bool = False,
    direction: str = "forward",
    prepared: bool = False,
) -> PlanExplanation:
    """Which algorithm a convolution takes with the ISA, threads and policy in force, why, and every budget in bytes.

    Parameters
    ----------
    x_shape : shape of x, (N, C_in, *size) or (N, *size, C_in); N may be left out
    weight_shape : (C_out, C_in / groups, *kernel), a transposed convolution's (C_in, C_out / groups, *kernel)
    stride, padding, dilation, groups, padding_mode, data_format, algorithm
        As in `conv1d` to `conv3d`.
    output_padding : as in `conv_transpose1d` to `conv_transpose3d`
    dtype : "float32" (default) or "float64", of all arrays
    transposed : bool, default False
        Whether it is a transposed convolution, which has no `padding_mode`.
    direction : "forward" (default), "backward_input" or "backward_weight"
    prepared : bool, default False
        Whether the weight is packed ahead, as `plan_conv2d` and layers after `eval()` do; of forward alone.

    Returns
    -------
    PlanExplanation
        Of neither bias nor activation, which change nothing in it.

    Raises
    ------
    TypeError, ValueError
        As in the operators.
    """
    check_choice(direction, "direction", DIRECTIONS)
    if as_bool(prepared, "prepared") and direction != "forward":
        raise ValueError(f'prepared must be False unless direction="forward", got direction={direction!r}')
    x_shape, weight_shape = as_x_shape(x_shape), _as_weight_shape(weight_shape)
    ndim = len(weight_shape) - 2
    shapes = x_shape if is_batched(len(x_shape), ndim) else (1, *x_shape), weight_shape
    options: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    options |= {"data_format": data_format, "ndim": ndim}
    if as_bool(transposed, "transposed"):
        check_choice(padding_mode, "padding_mode", ("zeros",))
        geometry = conv_transpose_geometry(*shapes, output_padding=output_padding, **options)
    else:
        if output_padding != 0:
            raise ValueError(f"output_padding must be 0 unless transposed=True, got output_padding={output_padding!r}")
        geometry = conv_geometry(*shapes, padding_mode=padding_mode, **options)
    plan = ConvPlan(geometry, _as_dtype(dtype), padding_mode, resolve_algorithm(algorithm))
    return explanation(plan, direction, TRANSPOSED[direction] if transposed else direction, prepared)


def explanation(plan: ConvPlan, direction: str, own_direction: str, prepared: bool) -> PlanExplanation:
    """What an operator's direction takes; the plan's own is another if the operator is transposed."""
    folded = own_direction == "backward_input" and plan.padding_mode != "zeros"
    g, planned = plan.geometry, (plan.unpadded if folded else plan).planned(own_direction, prepared)
    kernel, choice = planned.kernel, planned.choice
    threads, winograd = kernel.threads, isinstance(kernel, (WinogradPlan, WinogradWeightPlan))
    return PlanExplanation(
        direction=direction,
        algorithm=choice.algorithm,
        reason=choice.reason,
        costs=choice.costs,
        error=EXACT if not winograd else COARSE if choice.coarse else CLOSE,
        packing=kernel.packing,
        points=kernel.points if winograd else (),
        isa=planned.isa,
        dtype=plan.dtype,
        threads=threads,
        tasks=kernel.task_count(threads),
        multiply_adds=int(kernel.multiply_adds),
        definition_multiply_adds=g.batch * prod(g.out_size) * prod(g.weight_shape),
        budget=_budget(plan, own_direction, planned.kernel, prepared and hasattr(kernel, "pack"), folded),
    )


def _budget(plan: ConvPlan, direction: str, kernel: Any, keeps: bool, folded: bool) -> Budget:
    itemsize, threads, gradient = plan.dtype.itemsize, kernel.threads, direction == "backward_weight"
    weight = prod(plan.geometry.weight_shape) * itemsize
    own, shared = kernel.workspace_bytes(threads)
    packed = 0 if gradient else kernel.packed_bytes
    output = weight if gradient else prod(plan.y_shape if direction == "forward" else plan.x_shape) * itemsize
    again = 0
    if isinstance(kernel, WinogradPlan):
        again = _workspace(kernel.direct, kernel.direct.threads) + kernel.direct.packed_bytes
    elif isinstance(kernel, WinogradWeightPlan):
        again = _workspace(kernel.direct, kernel.direct.threads) + kernel.direct.partial_bytes
    return Budget(
        thread=own,
        shared=shared,
        workspace=threads * own + shared,
        packed=packed,
        kept=packed + weight * kernel.rereads_weight if keeps else 0,
        partial_sums=kernel.partial_bytes if gradient else 0,
        padded=prod(plan.unpadded.x_shape) * itemsize if folded else 0,
        not_finite=again,
        output=output,
        output_pooled=not gradient and is_pooled(output),
    )


def _workspace(kernel: Any, threads: int) -> int:
    own, shared = kernel.workspace_bytes(threads)
    return threads * int(own) + int(shared)


def _as_weight_shape(weight_shape: Any) -> Shape:
    if not isinstance(weight_shape, (tuple, list)) or not all(is_int(size) for size in weight_shape):
        raise TypeError(f"weight_shape must be a tuple of integers, got weight_shape={weight_shape!r}")
    if not 3 <= len(weight_shape) <= 5:
        raise ValueError(
            f"weight_shape must be two numbers of channels and 1 to 3 sizes, got weight_shape={tuple(weight_shape)}"
        )
    return tuple(int(size) for size in weight_shape)


def _as_dtype(dtype: Any) -> np.dtype[Any]:
    with contextlib.suppress(TypeError):
        if dtype is not None and np.dtype(dtype) in DTYPES:
            return np.dtype(dtype)
    raise TypeError(f"dtype must be float32 or float64, got dtype={dtype!r}")
