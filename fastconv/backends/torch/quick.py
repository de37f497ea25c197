"""Fused steps of a region without looking at everything again: between two layers of a network Python finds nothing in
the caches that it read before the first, and each look at a tensor takes longer than it does by itself.

What weights and options were is compared for all steps at once, before the first one runs. A step then only finds the
plan of its input's shape and strides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import nn

from fastconv.backends.torch import packing
from fastconv.backends.torch.arrays import TO_LAST, Tensor, as_tensor
from fastconv.backends.torch.calls import is_profiled
from fastconv.backends.torch.fusion import FusedConvolution
from fastconv.backends.torch.padding import Padded
from fastconv.functional.planned import SHAPES_KEPT, PlannedConv
from fastconv.kernels.core import isa_index
from fastconv.planner import PlanCache
from fastconv.runtime import resolve_algorithm

_OPTIONS = ("stride", "padding", "output_padding", "dilation", "groups", "padding_mode", "kernel_size", "eps")


class QuickStep:
    """A fused convolution whose weights are those that its plans have."""

    def __init__(self, step: FusedConvolution) -> None:
        self._step = step
        self._plans: PlanCache[tuple[PlannedConv, bool]] = PlanCache(SHAPES_KEPT)

    def __call__(self, x: Tensor, residual: Tensor | None = None, *others: Any) -> Any:
        """What the step gives."""
        step = self._step
        padded = x if step.padding is None else step.padding(x, *others)
        source = padded.x if isinstance(padded, Padded) else padded
        if not _is_simple(source) or (residual is not None and not _is_simple(residual)) or is_profiled():
            return step.of_padded(padded, residual)
        pads = padded.pads if isinstance(padded, Padded) else None
        key = _kind(source), pads, None if residual is None else _kind(residual)
        found = self._plans.get(key)
        if found is None:
            found = self._planned(padded, source, residual)
            if found is None:
                return step.of_padded(padded, residual)
            self._plans.put(key, found)
        plan, last = found
        if residual is None:
            return as_tensor(plan(_array(source, last)), last)
        return as_tensor(plan(_array(source, last), residual=_array(residual, last)), last)

    def _planned(self, padded: Any, source: Tensor, residual: Tensor | None) -> tuple[PlannedConv, bool] | None:
        """The plan of a call whose arrays lie as they are taken."""
        try:
            found = self._step.planned(padded, residual)
        except (TypeError, ValueError):  # which the step knows how to tell
            return None
        tensors = (source,) if residual is None else (source, residual)
        return found if found and all(_array(x, found[1]).flags.c_contiguous for x in tensors) else None


def _is_simple(x: Any) -> bool:
    """Whether it is a tensor of no kind that others would have to be told from by more than its shape and strides."""
    return type(x) is Tensor and x.is_cpu and x.layout is torch.strided


def _kind(x: Tensor) -> tuple[Any, ...]:
    return x.shape, x.stride(), x.dtype


def _array(x: Tensor, last: bool) -> Any:
    array = x.numpy(force=True)
    return array.transpose(TO_LAST[array.ndim]) if last else array


class Watch:
    """What a region's steps were planned with: whether it is still so."""

    def __init__(self, steps: Iterable[FusedConvolution]) -> None:
        self._settings = isa_index(), resolve_algorithm()
        self._tensors: list[tuple[dict[str, Any], str, Tensor | None, Any]] = []
        self._options: list[tuple[dict[str, Any], str, Any]] = []
        self.is_complete = all(map(self._add, [part for step in steps for part in _parts(step)]))

    def _add(self, module: nn.Module) -> bool:
        """Watch a module; False if its tensors are not simply its own, or count no writes."""
        holders = module._parameters, module._buffers
        if any(tensor is not None and tensor.is_inference() for holder in holders for tensor in holder.values()):
            return False
        for holder in holders:
            self._tensors += [(holder, name, tensor, packing.state_of(tensor)) for name, tensor in holder.items()]
        own = vars(module)
        self._options += [(own, name, own[name]) for name in _OPTIONS if name in own]
        return not hasattr(module, "parametrizations")

    def is_current(self) -> bool:
        """Whether nothing that was seen has changed since."""
        if self._settings != (isa_index(), resolve_algorithm()):
            return False
        for holder, name, tensor, state in self._tensors:
            if holder.get(name) is not tensor or packing.state_of(tensor) != state:
                return False
        return all(own.get(name) == value for own, name, value in self._options)


def _parts(step: FusedConvolution) -> Iterator[nn.Module]:
    yield step.conv
    if step.norm is not None:
        yield step.norm


def quick_steps(steps: dict[str, FusedConvolution]) -> dict[str, Callable[..., Any]]:
    """The steps, those that can be as quick ones."""
    return {name: QuickStep(step) if type(step) is FusedConvolution else step for name, step in steps.items()}
