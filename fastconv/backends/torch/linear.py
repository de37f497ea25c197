"""Linear layers: convolutions of one tap, whose pixels are the rows of their input.

PyTorch's products are those of a BLAS, which may know the CPU less well, whose threads spin for a while after each, and
which leaves bias, sum and activation to others.
"""

from __future__ import annotations

from typing import Any

import torch

from fastconv.backends.torch import packing
from fastconv.backends.torch.arrays import Tensor
from fastconv.backends.torch.convolution import convolution

# Multiply-adds of a product that is worth the way: so many took 0.8 of PyTorch's time on Zen 5, a quarter of them 1.2.
LEAST_WORK = 2**18

# As `convolution` takes it, of x (1, C_in, rows) that lies as (1, rows, C_in).
_GEOMETRY = ((1,), (0, 0), (1,), False, (0,), 1, "zeros", True)


def reason_against_product(x: Tensor, weight: Tensor) -> str | None:
    """Why a product is PyTorch's own to make; None if it is fastconv's."""
    if x.ndim == 0 or x.shape[-1] != weight.shape[1]:
        return f"the input does not end with {weight.shape[1]} features"
    return None if x.numel() * weight.shape[0] >= LEAST_WORK else "the product is small"


def planned_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, activation: str | None = None, residual: Tensor | None = None
) -> Tensor:
    """activation(x weight^T + bias + residual), without gradients, the weight packed until it is written to."""
    rows = _rows(x)
    options = {"data_format": "channels_last", "activation": activation}
    plan = packing.plan(rows.shape, weight, bias, "conv1d", options)
    array = rows.numpy(force=True)
    y = plan(array) if residual is None else plan(array, residual=_rows(residual).numpy(force=True))
    return torch.from_numpy(y).view(*x.shape[:-1], weight.shape[0])


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The same of any tensors, differentiable as often as you please."""
    y = convolution(_rows(x).transpose(1, 2), weight.unsqueeze(-1), bias, *_GEOMETRY, False)
    return y.transpose(1, 2).reshape(*x.shape[:-1], weight.shape[0])


def _rows(x: Tensor) -> Any:
    return x.reshape(1, -1, x.shape[-1])
