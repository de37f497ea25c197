"""Images of contiguous tensors, turned to channels_last for a region of many convolutions, which are faster there.

Arguments are copied once, results copied back: what comes out lies as PyTorch has it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch.utils import _pytree as pytree

from fastconv import functional
from fastconv.backends.torch.arrays import TO_LAST, Tensor, as_tensor, is_channels_last
from fastconv.backends.torch.fusion import FusedConvolution, FusedLinear

FEWEST = 8  # convolutions that make up for the copies
_DTYPES = (torch.float32, torch.float64)


def is_worth_turning(steps: Iterable[Any]) -> bool:
    """Whether so many steps of a region are convolutions of images."""
    convolutions = [step for step in steps if isinstance(step, FusedConvolution) and not isinstance(step, FusedLinear)]
    return sum(step.conv.weight.ndim == 4 for step in convolutions) >= FEWEST


def turned(arguments: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """The arguments of a call, contiguous images among them in channels_last; None if there are none."""
    found = pytree.tree_map(_turned, arguments)
    leaves = zip(pytree.tree_leaves(found), pytree.tree_leaves(arguments), strict=True)
    return None if all(ours is theirs for ours, theirs in leaves) else found


def turned_back(result: Any) -> Any:
    """A result, whose images are contiguous."""
    return pytree.tree_map(_turned_back, result)


def _turned(x: Any) -> Any:
    if not _is_image(x) or not x.is_contiguous() or x.shape[1] == 1 or x.shape[2:].numel() == 1:
        return x
    return as_tensor(functional.to_channels_last(x.numpy(force=True)), True)


def _turned_back(x: Any) -> Any:
    if not _is_image(x) or x.is_contiguous() or not is_channels_last(x):
        return x
    return torch.from_numpy(functional.to_channels_first(x.numpy(force=True).transpose(TO_LAST[4])))


def _is_image(x: Any) -> bool:
    return type(x) is Tensor and x.ndim == 4 and x.is_cpu and x.dtype in _DTYPES and x.numel() > 0
