"""Batch normalization of tensors by the batch's own statistics, with a sum and an activation after it, and its
gradients, as ops of PyTorch.

    y = activation(normal(x) * weight + bias + residual)

A gradient's own gradient is PyTorch's, of the formulas in `_gradients`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

import fastconv.functional as ff
from fastconv.backends.torch.arrays import LAYOUTS, Array, Tensor, as_array, as_tensor, empty
from fastconv.backends.torch.convolution import as_channels, as_groups, split
from fastconv.backends.torch.operator import Operator
from fastconv.functional.activation import TOLD_BY_RESULT

_CURVES: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "relu6": F.relu6,
    "leaky_relu": F.leaky_relu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "elu": F.elu,
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "silu": F.silu,
    "hardswish": F.hardswish,
}
_SLOPES: dict[str, Callable[[Tensor], Any]] = {  # by their result: after a sum nothing else tells them
    "relu": lambda y: y > 0,
    "relu6": lambda y: (y > 0) & (y < 6),
    "leaky_relu": lambda y: torch.where(y > 0, 1.0, 0.01),
    "sigmoid": lambda y: y * (1 - y),
    "tanh": lambda y: 1 - y * y,
}


def _values(tensor: Tensor | None) -> Array | None:
    return None if tensor is None else tensor.numpy(force=True)


def _array(tensor: Tensor | None, channels_last: bool) -> Array | None:
    return None if tensor is None else as_array(tensor, channels_last)


def can_follow(activation: str | None, summed: bool) -> bool:
    """Whether an activation, after a sum or not, has a gradient here: after a sum its result has to tell it."""
    return activation is None or activation in (TOLD_BY_RESULT if summed else _CURVES)


def _forward(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, residual: Tensor | None, activation: str | None, eps: float,
    channels_last: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    if not can_follow(activation, residual is not None):
        told = ", ".join(TOLD_BY_RESULT if residual is not None else _CURVES)
        raise ValueError(f"activation must be None or one whose gradient can be told ({told}), got {activation=}")
    y, statistics = ff.batch_norm(
        as_array(x, channels_last), None, None, _values(weight), _values(bias), True, eps=eps, activation=activation,
        residual=_array(residual, channels_last), return_statistics=True, data_format=LAYOUTS[channels_last],
    )  # fmt: skip
    return as_tensor(y, channels_last), torch.from_numpy(statistics)


def _forward_fake(
    x: Tensor, weight: Any, bias: Any, residual: Any, activation: Any, eps: float, channels_last: bool
) -> tuple[Tensor, Tensor]:
    return empty(x.shape, x.dtype, x.device, channels_last), x.new_empty((2, x.shape[1]), dtype=torch.float64)


def _forward_save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, weight, bias, residual, ctx.activation, ctx.eps, ctx.channels_last = inputs
    y, statistics = output
    ctx.summed = residual is not None
    ctx.save_for_backward(x, weight, bias, y if ctx.summed and ctx.activation is not None else None, statistics)


def _forward_backward(ctx: Any, grad_y: Tensor, _: Any) -> tuple[Any, ...]:
    """That of y: nobody sees the statistics but what goes on without gradients."""
    *tensors, statistics = ctx.saved_tensors
    options = ctx.summed, ctx.activation, ctx.eps, ctx.channels_last
    of_x, *of_values, of_sum = batch_norm_backward(grad_y, *tensors, statistics.detach(), *options)
    of_weight, of_bias = (of if need else None for of, need in zip(of_values, ctx.needs_input_grad[1:], strict=False))
    of_residual = None if not ctx.needs_input_grad[3] else grad_y if ctx.activation is None else of_sum
    return of_x, of_weight, of_bias, of_residual, None, None, None


def _forward_batch(
    info: Any, in_dims: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, residual: Tensor | None, *rest: Any
) -> Any:
    size = info.batch_size
    x, residual = _all_channels((x, residual), (in_dims[0], in_dims[3]), size)
    y, statistics = batch_norm(x, *_all_groups((weight, bias), in_dims[1:3], size), residual, *rest)
    return (split(y, 1, size), split(statistics, 1, size)), (1, 1)


def _all_channels(tensors: tuple[Tensor | None, ...], dims: Any, size: int) -> list[Any]:
    """Maps of as many times the channels."""
    return [None if t is None else as_channels(t, dim, size) for t, dim in zip(tensors, dims, strict=True)]


def _all_groups(tensors: tuple[Tensor | None, ...], dims: Any, size: int) -> list[Tensor | None]:
    """Values of each channel for as many times the channels."""
    return [None if t is None else as_groups(t, dim, size) for t, dim in zip(tensors, dims, strict=True)]


def _backward(
    grad_y: Tensor, x: Tensor, weight: Tensor | None, bias: Tensor | None, y: Tensor | None, statistics: Tensor,
    summed: bool, activation: str | None, eps: float, channels_last: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients by x, weight, bias and, where an activation follows a sum, by that sum."""
    ones, zeros = x.new_ones(x.shape[1]), x.new_zeros(x.shape[1])
    of_x, of_weight, of_bias, *of_sum = ff.batch_norm_backward(
        as_array(grad_y, channels_last), as_array(x, channels_last), _values(ones if weight is None else weight),
        _values(zeros if bias is None else bias), running_mean=None, running_var=None, training=True, eps=eps,
        activation=activation, statistics=_values(statistics.contiguous()),
        y=_array(y, channels_last), data_format=LAYOUTS[channels_last],
    )  # fmt: skip
    of_values = [torch.from_numpy(of) for of in (of_weight, of_bias)]
    grad_sum = as_tensor(of_sum[0], channels_last) if of_sum else x.new_empty(0)
    return as_tensor(of_x, channels_last), of_values[0], of_values[1], grad_sum


def _backward_fake(
    grad_y: Tensor, x: Tensor, weight: Any, bias: Any, y: Any, statistics: Tensor, summed: bool,
    activation: str | None, eps: float, channels_last: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    like_x, values = partial(empty, x.shape, x.dtype, x.device, channels_last), partial(x.new_empty, x.shape[1])
    return like_x(), values(), values(), like_x() if summed and activation is not None else x.new_empty(0)


def _backward_save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *tensors, _, ctx.summed, ctx.activation, ctx.eps, _ = inputs
    ctx.save_for_backward(*tensors)


def _gradients(
    grad_y: Tensor, x: Tensor, weight: Tensor, bias: Tensor, y: Tensor, summed: bool, activation: str | None, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    axes = [0, *range(2, x.ndim)]
    centred = x - x.mean(axes, keepdim=True)
    scale = (centred.square().mean(axes, keepdim=True) + eps).rsqrt()
    normal, per_channel = centred * scale, (-1, *(1,) * (x.ndim - 2))
    weight, bias, grad = weight.reshape(per_channel), bias.reshape(per_channel), grad_y
    if activation is not None and summed:
        grad = grad_y * _SLOPES[activation](y)
    elif activation is not None:
        grad = torch.func.vjp(_CURVES[activation], normal * weight + bias)[1](grad_y)[0]
    rest = grad - grad.mean(axes, keepdim=True) - normal * (grad * normal).mean(axes, keepdim=True)
    of_sum = grad if summed and activation is not None else x.new_empty(0)
    return rest * scale * weight, (grad * normal).sum(axes), grad.sum(axes), of_sum


def _backward_backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
    grad_y, x, weight, bias, y = ctx.saved_tensors
    ones, zeros = x.new_ones(x.shape[1]), x.new_zeros(x.shape[1])
    filled = [ones if weight is None else weight, zeros if bias is None else bias, x if y is None else y]
    function = partial(_gradients, summed=ctx.summed, activation=ctx.activation, eps=ctx.eps)
    _, pull = torch.func.vjp(function, grad_y, x, *filled)
    of_grad_y, of_x, *others = pull(gradients)
    of_values = [None if t is None else of for t, of in zip((weight, bias, y), others, strict=True)]
    return of_grad_y, of_x, *of_values, None, None, None, None, None


def _backward_batch(
    info: Any, in_dims: Any, grad_y: Tensor, x: Tensor, weight: Tensor | None, bias: Tensor | None, y: Tensor | None,
    statistics: Tensor, summed: bool, activation: str | None, *rest: Any,
) -> Any:  # fmt: skip
    size = info.batch_size
    grad_y, x, y, statistics = _all_channels((grad_y, x, y, statistics), (*in_dims[:2], in_dims[4], in_dims[5]), size)
    values = _all_groups((weight, bias), in_dims[2:4], size)
    of_x, *others, of_sum = batch_norm_backward(grad_y, x, *values, y, statistics, summed, activation, *rest)
    of_values = [split(other, 0, size) for other in others]
    if not summed or activation is None:
        return (split(of_x, 1, size), *of_values, of_sum), (1, 0, 0, None)
    return (split(of_x, 1, size), *of_values, split(of_sum, 1, size)), (1, 0, 0, 1)


batch_norm = Operator(
    "batch_norm",
    "(Tensor x, Tensor? weight, Tensor? bias, Tensor? residual, str? activation, float eps, bool channels_last)"
    " -> (Tensor, Tensor)",
    _forward, _forward_fake, _forward_save, _forward_backward, _forward_batch,
)  # fmt: skip
batch_norm_backward = Operator(
    "batch_norm_backward",
    "(Tensor grad_y, Tensor x, Tensor? weight, Tensor? bias, Tensor? y, Tensor statistics, bool summed,"
    " str? activation, float eps, bool channels_last) -> (Tensor, Tensor, Tensor, Tensor)",
    _backward, _backward_fake, _backward_save, _backward_backward, _backward_batch,
)  # fmt: skip
