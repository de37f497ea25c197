"""Which macro-kernel runs a convolution; plans are remembered by what the user wrote.

A plan is a macro-kernel bound to a geometry: index maps, blocking and workspace sizes are settled, and it runs any
number of times, from any thread.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from fastconv.choice import (
    GROUPED_BYTES,
    Choice,
    Dense,
    Sources,
    choose_backward_weight,
    choose_dense,
    choose_depthwise,
)
from fastconv.geometry import ConvGeometry
from fastconv.kernels.backward_weight import BackwardWeightPlan
from fastconv.kernels.core import current_isa, register_tile
from fastconv.kernels.deformable import DeformablePlan
from fastconv.kernels.deformable_backward import DeformableGradients
from fastconv.kernels.depthwise import DepthwiseLines
from fastconv.kernels.depthwise_weight import DepthwiseWeight
from fastconv.kernels.direct import DirectPlan
from fastconv.kernels.grouped import GroupedPlan
from fastconv.kernels.winograd import WinogradPlan
from fastconv.kernels.winograd_weight import WinogradWeightPlan
from fastconv.sources import backward_input_sources, forward_sources

Plan = TypeVar("Plan")
Array = NDArray[Any]
Kernel: TypeAlias = DirectPlan | DepthwiseLines | GroupedPlan | WinogradPlan
WeightGradient: TypeAlias = BackwardWeightPlan | DepthwiseWeight | WinogradWeightPlan


class PlanCache(Generic[Plan]):
    """The plans of the calls seen last; a network has tens, a service with varying shapes some hundreds.

    A key holds the ISA (`fastconv.kernels.core.isa_index()`), shapes, dtypes, and arguments that compare equal only if
    they mean the same: exact ints, strings and tuples of ints, never floats or bools.
    """

    def __init__(self, size: int = 1024) -> None:
        self.size = size
        self._plans: dict[Any, Plan] = {}
        self._lock = threading.Lock()

    def get(self, key: Any) -> Plan | None:
        """The plan of a key; None also for what cannot be hashed, an argument whose error the geometry raises."""
        try:
            return self._plans.get(key)
        except TypeError:
            return None

    def put(self, key: Any, plan: Plan) -> Plan:
        """Remember `plan`, forgetting the oldest when there are too many."""
        with self._lock:
            while len(self._plans) >= self.size:
                del self._plans[next(iter(self._plans))]
            return self._plans.setdefault(key, plan)


class Planned(NamedTuple):
    """A macro-kernel bound to a geometry, why it is that one, and the ISA whose microkernels it calls."""

    kernel: Any
    choice: Choice
    isa: str


@dataclass(frozen=True)
class ConvPlan:
    """Forward and both backward passes of one geometry; each macro-kernel is planned when it is first needed.

    A kernel of `forward` or `backward_input` that gains by it has ``pack(weight)``, whose result it takes as
    ``packed=``; then it reads the weight itself only if it ``rereads_weight``.
    """

    geometry: ConvGeometry
    dtype: np.dtype[Any]
    padding_mode: str = "zeros"
    algorithm: str = "auto"
    _planned: dict[tuple[str, bool], Planned] = field(default_factory=dict, init=False, compare=False, repr=False)

    @cached_property
    def y_shape(self) -> tuple[int, ...]:
        """Shape of the batched output in its layout."""
        return self.geometry.y_shape

    @cached_property
    def x_shape(self) -> tuple[int, ...]:
        """Shape of the batched input in its layout."""
        return self.geometry.x_shape

    @cached_property
    def unpadded(self) -> ConvPlan:
        """The plan that knows zeros alone as padding: this one, or that of the input padded beforehand."""
        g = self.geometry
        if self.padding_mode == "zeros":
            return self
        in_size = tuple(i + before + after for i, (before, after) in zip(g.in_size, g.padding, strict=True))
        return replace(self, geometry=replace(g, in_size=in_size, padding=((0, 0),) * g.ndim), padding_mode="zeros")

    @cached_property
    def forward(self) -> Kernel:
        """y from (x, weight, bias)."""
        return self.planned("forward").kernel

    @cached_property
    def prepared_forward(self) -> Kernel:
        """The same for a weight packed ahead, which makes more algorithms pay."""
        return self.planned("forward", prepared=True).kernel

    @cached_property
    def backward_input(self) -> Kernel:
        """grad_x from (grad_y, weight, None) where padding is zeros; a transposed y from (x, weight, bias)."""
        return self.planned("backward_input").kernel

    @cached_property
    def prepared_backward_input(self) -> Kernel:
        """The same for a weight packed ahead."""
        return self.planned("backward_input", prepared=True).kernel

    @cached_property
    def _backward_weight(self) -> WeightGradient:
        return self.planned("backward_weight").kernel

    def backward_weight(
        self, grad_y: Array, x: Array, weight: bool = True, bias: bool = True
    ) -> tuple[Array | None, Array | None]:
        """(grad_weight, grad_bias), each None unless wanted; a transposed convolution swaps grad_y and x."""
        grad_weight = np.empty(self.geometry.weight_shape, self.dtype) if weight else None
        grad_bias = np.empty(self.geometry.out_channels, self.dtype) if bias else None
        self._backward_weight(grad_y, x, grad_weight, grad_bias)
        return grad_weight, grad_bias

    def planned(self, direction: str, prepared: bool = False) -> Planned:
        """The kernel of "forward", "backward_input" or "backward_weight" and why it is that one."""
        key = direction, prepared
        if key not in self._planned:
            plan = {"forward": self._forward, "backward_input": self._backward_input}.get(direction)
            kernel, choice = plan(prepared) if plan else self._weight_gradient()
            self._planned[key] = Planned(kernel, choice, current_isa())
        return self._planned[key]

    @property
    def _depthwise(self) -> Choice | None:
        g = self.geometry
        return choose_depthwise(g.in_channels, g.out_channels, g.groups, self.algorithm)

    def _forward(self, prepared: bool) -> tuple[Kernel, Choice]:
        g = self.geometry
        if choice := self._depthwise:
            return DepthwiseLines(g, self.dtype, self.padding_mode, backward=False), choice
        sources = forward_sources(g, self.padding_mode)
        return self._dense(prepared, False, g.in_channels, g.out_channels, g.in_size, g.out_size, sources)

    def _backward_input(self, prepared: bool) -> tuple[Kernel, Choice]:
        g = self.geometry
        if choice := self._depthwise:
            return DepthwiseLines(g, self.dtype, "zeros", backward=True), choice
        sources = backward_input_sources(g)
        return self._dense(prepared, True, g.out_channels, g.in_channels, g.out_size, g.in_size, sources)

    def _weight_gradient(self) -> tuple[WeightGradient, Choice]:
        g = self.geometry
        if choice := self._depthwise:
            return DepthwiseWeight(g, self.dtype, self.padding_mode), choice
        sources = forward_sources(g, self.padding_mode)
        grouped = self._grouped_gradient()
        task = self._task(sources, g.in_channels, g.out_channels, g.out_size)
        choice = choose_backward_weight(task, self.algorithm, grouped is not None)
        if grouped and choice.algorithm == "grouped":
            return grouped, choice
        direct = BackwardWeightPlan(g, self.dtype, self.padding_mode)
        if choice.algorithm == "winograd":
            return WinogradWeightPlan(direct, g, self.dtype, sources), choice
        return direct, choice

    def _grouped_gradient(self) -> DepthwiseWeight | None:
        """The weight gradient of several channels a group as depthwise windows sum theirs, or None if it cannot be."""
        g = self.geometry
        if g.groups in (1, g.in_channels) or g.in_channels != g.out_channels:
            return None
        kernel = DepthwiseWeight(g, self.dtype, self.padding_mode)
        return kernel if kernel.runs else None

    def _task(self, sources: Sources, source: int, destination: int, size: Any, prepared: bool = False) -> Dense:
        g, vlen = self.geometry, register_tile(self.dtype.name)["vlen"]
        kin, kout = source // g.groups, destination // g.groups
        return Dense(sources, size, g.batch, g.groups, kin, kout, g.channels_last, vlen, prepared)

    def _dense(
        self, prepared: bool, backward: bool, source: int, destination: int, source_size: Any, size: Any, sources: Any
    ) -> tuple[Kernel, Choice]:
        g = self.geometry
        task = self._task(sources, source, destination, size, prepared)
        problem = {
            "dtype": int(self.dtype == np.float64),
            "backward": backward,
            "batch": g.batch,
            "groups": g.groups,
            "kin": task.kin,
            "kout": task.kout,
            "source_size": source_size,
            "destination_size": size,
            "sources": sources,
            "kernel": g.kernel,
        }
        choice = choose_dense(task, self.algorithm)
        if choice.algorithm == "grouped":
            grouped = GroupedPlan(**problem)
            if grouped.workspace_bytes(1)[0] <= GROUPED_BYTES:
                return grouped, choice
            choice = choose_dense(replace(task, packs_lines=False), self.algorithm)
        direct = DirectPlan(channels_last=g.channels_last, **problem)
        if choice.algorithm == "winograd":
            return WinogradPlan(direct, channels_last=g.channels_last, **problem), choice
        return direct, choice


@dataclass(frozen=True)
class DeformPlan:
    """A deformable convolution and its gradients; each macro-kernel is planned when it is first needed."""

    geometry: ConvGeometry
    offset_groups: int
    dtype: np.dtype[Any]

    @cached_property
    def forward(self) -> DeformablePlan:
        """y from (x, offset, mask, weight, bias)."""
        return DeformablePlan(int(self.dtype == np.float64), self.geometry, self.offset_groups)

    @cached_property
    def backward(self) -> DeformableGradients:
        """The five gradients from (grad_y, x, offset, mask, weight, need)."""
        return DeformableGradients(int(self.dtype == np.float64), self.geometry, self.offset_groups)
