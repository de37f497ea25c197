"""Weights kept packed, as evaluated convolutions want them, until they are written to.

What is kept belongs to a weight, not to a module: it lives as long as the weight does, is neither copied nor pickled,
and holds for one state of weight and bias, told by their storage and PyTorch's count of in-place writes. A write that
PyTorch does not count, to `weight.data` or through `weight.numpy()`, is not seen; `forget` makes up for it.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor

from fastconv.backends.torch.arrays import as_array
from fastconv.functional import planned
from fastconv.functional.planned import SHAPES_KEPT, PlannedConv, plan_key
from fastconv.planner import PlanCache


def state_of(tensor: Tensor | None) -> Any:
    """What differs between any two states of a tensor whose storage is kept; None cannot change."""
    return None if tensor is None else (tensor.data_ptr(), tensor._version, tensor.shape, tensor.stride())


def is_kept_up(tensor: Tensor | None) -> bool:
    """Whether a tensor outlives the call, and writes to it are seen: inference mode's own tensors count none."""
    return tensor is None or (isinstance(tensor, torch.nn.Parameter) and not tensor.is_inference())


class Packs:
    """The plans of a weight and bias in one state.

    Their storages are held: memory that is not given back cannot become another tensor's at the same address.
    """

    __slots__ = ("_storages", "plans", "state", "weight")

    def __init__(self, weight: Tensor, bias: Tensor | None, state: Any) -> None:
        key = id(weight)
        self.weight = weakref.ref(weight, lambda _: _packs.pop(key, None))
        self.state = state
        self.plans: PlanCache[PlannedConv] = PlanCache(SHAPES_KEPT)
        self._storages = [tensor.untyped_storage() for tensor in (weight, bias) if tensor is not None]


_packs: dict[int, Packs] = {}


def plan(
    x_shape: tuple[int, ...], weight: Tensor, bias: Tensor | None, operator: str, options: dict[str, Any]
) -> PlannedConv:
    """The planned convolution `operator` of these shapes, whose weight is packed when it is first asked for."""
    packs, state = _packs.get(id(weight)), (state_of(weight), state_of(bias))
    if packs is None or packs.weight() is not weight or packs.state != state:
        packs = _packs[id(weight)] = Packs(weight, bias, state)
    key = plan_key(x_shape, None, operator, *options.values())
    found = packs.plans.get(key)
    if found is None:
        array = as_array(weight, False)
        kernel = array[..., None] if array.ndim == 2 else array  # a linear layer's
        arrays = kernel, None if bias is None else bias.numpy(force=True)
        found = packs.plans.put(key, getattr(planned, f"plan_{operator}")(x_shape, *arrays, **options))
    return found


def forget(weight: Tensor) -> None:
    """Drop what is kept of a weight, so that it is packed anew."""
    _packs.pop(id(weight), None)


def is_kept(weight: Tensor) -> bool:
    """Whether a weight has been packed in the state that it is in."""
    packs = _packs.get(id(weight))
    return packs is not None and packs.weight() is weight and packs.state[0] == state_of(weight)
