"""What the tests of the oracle against PyTorch in float64 share: gradients by autograd, layouts."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from fastconv import reference

LAYOUTS = ["channels_first", "channels_last"]

RANKS = [1, 2, 3]

SPATIAL = {1: (9,), 2: (7, 8), 3: (5, 6, 5)}


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed + sum(shape)).standard_normal(shape)


def leaf(a: np.ndarray | None) -> torch.Tensor | None:
    return None if a is None else torch.tensor(a, requires_grad=True)


def to(layout: str, a: np.ndarray) -> np.ndarray:
    """A channels_first batch of activations in the given layout."""
    return np.moveaxis(a, 1, -1) if layout == "channels_last" else a


def same(ours: Any, theirs: torch.Tensor | None, layout: str = "channels_first") -> None:
    assert theirs is not None
    expected = to(layout, theirs.detach().numpy())
    assert ours.shape == expected.shape
    assert ours.dtype == expected.dtype
    np.testing.assert_allclose(ours, expected, rtol=1e-10, atol=1e-10)


def operator(name: str, rank: int, suffix: str = "") -> Callable[..., Any]:
    return getattr(reference, f"{name}{rank}d{suffix}")


def torch_operator(name: str, rank: int) -> Callable[..., Any]:
    return getattr(F, f"{name}{rank}d")


def gradients(y: torch.Tensor, *leaves: torch.Tensor) -> tuple[np.ndarray, tuple[torch.Tensor, ...]]:
    """A random grad_y, and the gradients that autograd makes of it."""
    grad_y = draw(*y.shape, seed=99)
    return grad_y, torch.autograd.grad(y, leaves, torch.tensor(grad_y), allow_unused=True)
