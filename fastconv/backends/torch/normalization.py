"""Batch normalization of tensors by the batch's own statistics, and its gradient, as ops of PyTorch.

A gradient's own gradient is PyTorch's, of the formula in `_gradients`.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

import fastconv.functional as ff
from fastconv.backends.torch.arrays import LAYOUTS, Array, Tensor, as_array, as_tensor, empty
from fastconv.backends.torch.convolution import as_channels, as_groups, split
from fastconv.backends.torch.operator import Operator


def _values(tensor: Tensor | None) -> Array | None:
    return None if tensor is None else tensor.numpy(force=True)


def _forward(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, channels_last: bool
) -> tuple[Tensor, Tensor]:
    y, statistics = ff.batch_norm(
        as_array(x, channels_last), None, None, _values(weight), _values(bias), True, eps=eps, return_statistics=True,
        data_format=LAYOUTS[channels_last],
    )  # fmt: skip
    return as_tensor(y, channels_last), torch.from_numpy(statistics)


def _forward_fake(x: Tensor, weight: Any, bias: Any, eps: float, channels_last: bool) -> tuple[Tensor, Tensor]:
    return empty(x.shape, x.dtype, x.device, channels_last), x.new_empty((2, x.shape[1]), dtype=torch.float64)


def _forward_save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, weight, _, ctx.eps, ctx.channels_last = inputs
    ctx.save_for_backward(x, weight, output[1])


def _forward_backward(ctx: Any, grad_y: Tensor, _: Any) -> tuple[Any, ...]:
    """That of y: nobody sees the statistics but what goes on without gradients."""
    x, weight, statistics = ctx.saved_tensors
    of_x, of_weight, of_bias = batch_norm_backward(grad_y, x, weight, statistics.detach(), ctx.eps, ctx.channels_last)
    need_weight, need_bias = ctx.needs_input_grad[1:3]
    return of_x, of_weight if need_weight else None, of_bias if need_bias else None, None, None


def _forward_batch(
    info: Any, in_dims: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, channels_last: bool
) -> Any:
    size = info.batch_size
    x, *values = as_channels(x, in_dims[0], size), *_all_groups((weight, bias), in_dims[1:3], size)
    y, statistics = batch_norm(x, *values, eps, channels_last)
    return (split(y, 1, size), split(statistics, 1, size)), (1, 1)


def _all_groups(tensors: tuple[Tensor | None, ...], dims: Any, size: int) -> list[Tensor | None]:
    """Values of each channel for as many times the channels."""
    return [None if t is None else as_groups(t, dim, size) for t, dim in zip(tensors, dims, strict=True)]


def _backward(
    grad_y: Tensor, x: Tensor, weight: Tensor | None, statistics: Tensor, eps: float, channels_last: bool
) -> tuple[Tensor, Tensor, Tensor]:
    arrays = as_array(grad_y, channels_last), as_array(x, channels_last)
    of_x, of_weight, of_bias = ff.batch_norm_backward(
        *arrays, _values(x.new_ones(x.shape[1]) if weight is None else weight), _values(x.new_empty(x.shape[1])),
        running_mean=None, running_var=None, training=True, eps=eps, statistics=_values(statistics.contiguous()),
        data_format=LAYOUTS[channels_last],
    )  # fmt: skip
    return as_tensor(of_x, channels_last), torch.from_numpy(of_weight), torch.from_numpy(of_bias)


def _backward_fake(
    grad_y: Tensor, x: Tensor, weight: Any, statistics: Tensor, eps: float, channels_last: bool
) -> tuple[Tensor, Tensor, Tensor]:
    channels = x.shape[1]
    return empty(x.shape, x.dtype, x.device, channels_last), x.new_empty(channels), x.new_empty(channels)


def _backward_save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    grad_y, x, weight, _, ctx.eps, _ = inputs
    ctx.save_for_backward(grad_y, x, weight)


def _gradients(grad_y: Tensor, x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    axes = [0, *range(2, x.ndim)]
    centred = x - x.mean(axes, keepdim=True)
    scale = (centred.square().mean(axes, keepdim=True) + eps).rsqrt()
    normal, of_bias = centred * scale, grad_y.sum(axes)
    of_weight = (grad_y * normal).sum(axes)
    rest = grad_y - grad_y.mean(axes, keepdim=True) - normal * (grad_y * normal).mean(axes, keepdim=True)
    return rest * scale * weight.reshape(-1, *(1,) * (x.ndim - 2)), of_weight, of_bias


def _backward_backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
    grad_y, x, weight = ctx.saved_tensors
    ones = x.new_ones(x.shape[1]) if weight is None else weight
    _, pull = torch.func.vjp(partial(_gradients, eps=ctx.eps), grad_y, x, ones)
    of_grad_y, of_x, of_weight = pull(gradients)
    return of_grad_y, of_x, None if weight is None else of_weight, None, None, None


def _backward_batch(
    info: Any, in_dims: Any, grad_y: Tensor, x: Tensor, weight: Tensor | None, statistics: Tensor, *rest: Any
) -> Any:
    size = info.batch_size
    grad_y, x = as_channels(grad_y, in_dims[0], size), as_channels(x, in_dims[1], size)
    (weights,) = _all_groups((weight,), in_dims[2:3], size)
    of_x, *others = batch_norm_backward(grad_y, x, weights, as_channels(statistics, in_dims[3], size), *rest)
    return (split(of_x, 1, size), *(split(other, 0, size) for other in others)), (1, 0, 0)


batch_norm = Operator(
    "batch_norm",
    "(Tensor x, Tensor? weight, Tensor? bias, float eps, bool channels_last) -> (Tensor, Tensor)",
    _forward, _forward_fake, _forward_save, _forward_backward, _forward_batch,
)  # fmt: skip
batch_norm_backward = Operator(
    "batch_norm_backward",
    "(Tensor grad_y, Tensor x, Tensor? weight, Tensor statistics, float eps, bool channels_last)"
    " -> (Tensor, Tensor, Tensor)",
    _backward, _backward_fake, _backward_save, _backward_backward, _backward_batch,
)  # fmt: skip
