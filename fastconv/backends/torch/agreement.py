"""Whether two ways to run a model give the same."""

from __future__ import annotations

from dataclasses import is_dataclass
from typing import Any

import torch
from torch.utils import _pytree as pytree

from fastconv.backends.torch.arrays import Tensor

AGREE = 2**13  # eps of the largest value: some for each layer of a deep network; other code is off by far more


def agree(expected: Any, actual: Any) -> bool:
    """Whether two results are the same but for rounding."""
    ours, theirs = pytree.tree_flatten(actual), pytree.tree_flatten(expected)
    return ours[1] == theirs[1] and all(map(_agrees, theirs[0], ours[0]))


def _agrees(expected: Any, actual: Any) -> bool:
    if not isinstance(expected, Tensor):
        if type(expected) is type(actual) and is_dataclass(expected):
            return agree(vars(expected), vars(actual))
        return type(expected) is type(actual) and bool(expected == actual)
    if not isinstance(actual, Tensor) or expected.shape != actual.shape or expected.dtype != actual.dtype:
        return False
    if not expected.dtype.is_floating_point:
        return torch.equal(expected, actual)
    largest = expected.nan_to_num(posinf=0, neginf=0).abs().max().item() if expected.numel() else 0
    tolerance = AGREE * torch.finfo(expected.dtype).eps * largest
    return torch.allclose(actual, expected, rtol=0, atol=tolerance, equal_nan=True)
