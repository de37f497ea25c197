"""Convolution and transposed convolution of tensors, and both of their gradients, as ops of PyTorch.

All three are bilinear, and the gradient of each is made of the others, so that they can be differentiated any number of
times. A geometry comes as an op can take it: padding as what is before and after each axis in turn, output_padding as
zeros where nothing is transposed.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch

import fastconv.functional as ff
from fastconv.backends.torch import packing
from fastconv.backends.torch.arrays import LAYOUTS, Array, Size, Tensor, as_array, as_tensor, empty, gradient_like
from fastconv.backends.torch.calls import is_ordinary
from fastconv.backends.torch.operator import Operator

Geometry = Sequence[Any]

_GEOMETRY = (
    "SymInt[] stride, SymInt[] padding, SymInt[] dilation, bool transposed, SymInt[] output_padding, SymInt groups, "
    "str padding_mode, bool channels_last"
)
_NO_GRADIENTS = (None,) * 8  # for a geometry


@lru_cache(maxsize=1024)
def _options(
    stride: tuple[int, ...], padding: tuple[int, ...], dilation: tuple[int, ...], transposed: bool,
    output_padding: tuple[int, ...], groups: int, padding_mode: str, channels_last: bool,
) -> dict[str, Any]:  # fmt: skip
    before, after = padding[::2], padding[1::2]
    options = {
        "stride": stride,
        "padding": before if before == after else tuple(zip(before, after, strict=True)),
        "dilation": dilation,
        "groups": groups,
        "data_format": LAYOUTS[channels_last],
    }
    return options | ({"output_padding": output_padding} if transposed else {"padding_mode": padding_mode})


def options_of(geometry: Geometry) -> dict[str, Any]:
    """A geometry as the keyword arguments of fastconv's operators."""
    return _options(*(tuple(part) if isinstance(part, list) else part for part in geometry))


def operator_of(ndim: int, geometry: Geometry) -> str:
    """What fastconv calls a convolution of this geometry."""
    return f"conv_transpose{ndim}d" if geometry[3] else f"conv{ndim}d"


def output_shape(x_shape: Size, weight_shape: Size, geometry: Geometry) -> tuple[Any, ...]:
    """Shape (N, C_out, *size) of y, of sizes that PyTorch may know as symbols alone.

    Raises
    ------
    ValueError
        If the channels of x are not those that weight takes.
    """
    stride, padding, dilation, transposed, output_padding, groups, *_ = geometry
    channels = weight_shape[0] if transposed else weight_shape[1] * groups
    if x_shape[1] != channels:
        raise ValueError(f"x must have {channels} channels to go with weight, got x.shape={tuple(x_shape)}")
    size = []
    for axis, length in enumerate(x_shape[2:]):
        reach = dilation[axis] * (weight_shape[axis + 2] - 1) + 1
        pads = padding[2 * axis] + padding[2 * axis + 1]
        if transposed:
            size.append(stride[axis] * (length - 1) + reach - pads + output_padding[axis])
        else:
            size.append((length + pads - reach) // stride[axis] + 1)
    return x_shape[0], weight_shape[1] * groups if transposed else weight_shape[0], *size


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, constant: bool) -> Tensor:
    """y of tensors that have data. A constant weight is kept packed until it is written to."""
    channels_last, operator, options = geometry[-1], operator_of(x.ndim - 2, geometry), options_of(geometry)
    array = as_array(x, channels_last)
    if constant:
        return as_tensor(packing.plan(array.shape, weight, bias, operator, options)(array), channels_last)
    weights = as_array(weight, False), None if bias is None else bias.numpy(force=True)
    return as_tensor(getattr(ff, operator)(array, *weights, **options), channels_last)


def _forward(x: Tensor, weight: Tensor, bias: Tensor | None, *arguments: Any) -> Tensor:
    *geometry, constant = arguments
    return convolve(x, weight, bias, geometry, constant and packing.is_kept_up(weight) and packing.is_kept_up(bias))


def _forward_fake(x: Tensor, weight: Tensor, bias: Tensor | None, *geometry: Any) -> Tensor:
    return empty(output_shape(x.shape, weight.shape, geometry), x.dtype, x.device, geometry[-2])


def _forward_save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, _, *geometry, _ = inputs
    need_x, need_weight, *_ = ctx.needs_input_grad
    ctx.save_for_backward(x if need_weight else None, weight if need_x else None)
    ctx.geometry, ctx.x_shape, ctx.weight_shape = tuple(geometry), x.shape, weight.shape


def _forward_backward(ctx: Any, grad_y: Tensor) -> tuple[Any, ...]:
    x, weight = ctx.saved_tensors
    need_x, need_weight, need_bias = ctx.needs_input_grad[:3]
    grad_x = grad_weight = grad_bias = None
    if need_x and need_weight and not torch.is_grad_enabled() and is_ordinary(grad_y, x, weight):
        return *_both(grad_y, x, weight, ctx.geometry, need_bias), *_NO_GRADIENTS, None
    if need_x:
        grad_x = convolution_backward_input(grad_y, weight, ctx.x_shape, *ctx.geometry)
    if need_weight:
        grads = convolution_backward_weight(grad_y, x, ctx.weight_shape, *ctx.geometry, need_bias)
        grad_weight, grad_bias = grads[0], grads[1] if need_bias else None
    elif need_bias:
        grad_bias = grad_y.sum((0, *range(2, grad_y.ndim)))
    return grad_x, grad_weight, grad_bias, *_NO_GRADIENTS, None


def _both(
    grad_y: Tensor, x: Tensor, weight: Tensor, geometry: Geometry, need_bias: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """All gradients in one call, for nobody who wants to see ops or differentiate them."""
    arrays = as_array(x, geometry[-1]), as_array(weight, False)
    of_x, of_weight, of_bias = _gradients(grad_y, *arrays, geometry, (True, True, need_bias))
    grad_weight = gradient_like(weight, of_weight)
    return as_tensor(of_x, geometry[-1]), grad_weight, torch.from_numpy(of_bias) if need_bias else None


def _input(grad_y: Tensor, weight: Tensor, x_shape: Sequence[int], *geometry: Any) -> Tensor:
    x = _stand_in(x_shape, grad_y, geometry[-1])
    grad_x, _, _ = _gradients(grad_y, x, as_array(weight, False), geometry, (True, False, False))
    return as_tensor(grad_x, geometry[-1])


def _input_fake(grad_y: Tensor, weight: Tensor, x_shape: Sequence[int], *geometry: Any) -> Tensor:
    return empty(x_shape, grad_y.dtype, grad_y.device, geometry[-1])


def _input_save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    grad_y, weight, _, *geometry = inputs
    ctx.save_for_backward(grad_y, weight)
    ctx.geometry = tuple(geometry)


def _input_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    grad_y, weight = ctx.saved_tensors
    of_grad_y = of_weight = None
    if ctx.needs_input_grad[0]:
        of_grad_y = convolution(grad, weight, None, *ctx.geometry, False)
    if ctx.needs_input_grad[1]:
        of_weight, _ = convolution_backward_weight(grad_y, grad, weight.shape, *ctx.geometry, False)
    return of_grad_y, of_weight, None, *_NO_GRADIENTS


def _weight(grad_y: Tensor, x: Tensor, weight_shape: Sequence[int], *geometry_and_bias: Any) -> tuple[Tensor, Tensor]:
    *geometry, bias = geometry_and_bias
    weight = _stand_in(weight_shape, x, channels_last=False)
    grads = _gradients(grad_y, as_array(x, geometry[-1]), weight, geometry, (False, True, bias))
    return torch.from_numpy(grads[1]), torch.from_numpy(grads[2]) if bias else x.new_empty(0)


def _weight_fake(
    grad_y: Tensor, x: Tensor, weight_shape: Sequence[int], *geometry_and_bias: Any
) -> tuple[Tensor, Tensor]:
    return x.new_empty(weight_shape), x.new_empty(grad_y.shape[1] if geometry_and_bias[-1] else 0)


def _weight_save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    grad_y, x, _, *geometry, bias = inputs
    ctx.save_for_backward(grad_y, x)
    ctx.geometry, ctx.has_bias = tuple(geometry), bias


def _weight_backward(ctx: Any, grad: Tensor, grad_bias: Tensor) -> tuple[Any, ...]:
    grad_y, x = ctx.saved_tensors
    of_grad_y = of_x = None
    if ctx.needs_input_grad[0]:
        of_grad_y = convolution(x, grad, grad_bias if ctx.has_bias else None, *ctx.geometry, False)
    if ctx.needs_input_grad[1]:
        of_x = convolution_backward_input(grad_y, grad, x.shape, *ctx.geometry)
    return of_grad_y, of_x, None, *_NO_GRADIENTS, None


def _stand_in(shape: Sequence[int], like: Tensor, channels_last: bool) -> Array:
    """An array that takes no memory, for what a gradient needs nothing of but its shape (N, C, *size)."""
    batch, channels, *size = shape
    dtype = torch.empty(0, dtype=like.dtype).numpy().dtype
    return np.broadcast_to(np.empty((), dtype), (batch, *size, channels) if channels_last else (batch, channels, *size))


def _gradients(grad_y: Tensor, x: Array, weight: Array, geometry: Geometry, need: tuple[bool, bool, bool]) -> Any:
    backward = getattr(ff, f"{operator_of(grad_y.ndim - 2, geometry)}_backward")
    return backward(as_array(grad_y, geometry[-1]), x, weight, **options_of(geometry), need=need)


# Under vmap a batch of activations is one batch, and a batch of weights as many groups: of the first kind each sample
# has the same weight, of the second its own channels.


def _many(tensor: Tensor, dim: int | None, batch: int) -> Tensor:
    """The tensor with its batch of vmap, of which all are the same if dim is None, as the first axis."""
    return tensor.expand(batch, *tensor.shape) if dim is None else tensor.movedim(dim, 0)


def _as_batch(tensor: Tensor, dim: int) -> Tensor:
    return tensor.movedim(dim, 0).flatten(0, 1)


def as_channels(tensor: Tensor, dim: int | None, batch: int) -> Tensor:
    """The batch of vmap as so many times the channels."""
    return _many(tensor, dim, batch).movedim(0, 1).flatten(1, 2)


def as_groups(tensor: Tensor, dim: int | None, batch: int) -> Tensor:
    """The batch of vmap as so many times the first axis."""
    return _many(tensor, dim, batch).flatten(0, 1)


def split(tensor: Tensor, axis: int, batch: int) -> Tensor:
    """The batch of vmap as an axis of its own again."""
    return tensor.unflatten(axis, (batch, tensor.shape[axis] // batch))


def _grouped(geometry: Geometry, batch: int) -> tuple[Any, ...]:
    stride, padding, dilation, transposed, output_padding, groups, *rest = geometry
    return stride, padding, dilation, transposed, output_padding, groups * batch, *rest


def _forward_batch(info: Any, in_dims: Any, x: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any) -> Any:
    *geometry, _ = rest
    size, (of_x, of_weight, of_bias) = info.batch_size, in_dims[:3]
    if of_weight is None and of_bias is None:
        y = convolution(_as_batch(x, of_x), weight, bias, *geometry, False)
        return split(y, 0, size), 0
    biases = None if bias is None else as_groups(bias, of_bias, size)
    x, weight = as_channels(x, of_x, size), as_groups(weight, of_weight, size)
    return split(convolution(x, weight, biases, *_grouped(geometry, size), False), 1, size), 1


def _input_batch(info: Any, in_dims: Any, grad_y: Tensor, weight: Tensor, x_shape: Any, *geometry: Any) -> Any:
    size, (of_grad_y, of_weight), (batch, channels, *pixels) = info.batch_size, in_dims[:2], x_shape
    if of_weight is None:
        shape = (size * batch, channels, *pixels)
        grad_x = convolution_backward_input(_as_batch(grad_y, of_grad_y), weight, shape, *geometry)
        return split(grad_x, 0, size), 0
    grad_y, weight = as_channels(grad_y, of_grad_y, size), as_groups(weight, of_weight, size)
    shape = (batch, size * channels, *pixels)
    return split(convolution_backward_input(grad_y, weight, shape, *_grouped(geometry, size)), 1, size), 1


def _weight_batch(info: Any, in_dims: Any, grad_y: Tensor, x: Tensor, weight_shape: Any, *rest: Any) -> Any:
    *geometry, bias = rest
    size = info.batch_size
    grad_y, x = as_channels(grad_y, in_dims[0], size), as_channels(x, in_dims[1], size)
    shape = (size * weight_shape[0], *weight_shape[1:])
    grads = convolution_backward_weight(grad_y, x, shape, *_grouped(geometry, size), bias)
    return tuple(split(grad, 0, size) for grad in grads), (0, 0)


convolution = Operator(
    "convolution",
    f"(Tensor x, Tensor weight, Tensor? bias, {_GEOMETRY}, bool constant) -> Tensor",
    _forward, _forward_fake, _forward_save, _forward_backward, _forward_batch,
)  # fmt: skip
convolution_backward_input = Operator(
    "convolution_backward_input",
    f"(Tensor grad_y, Tensor weight, SymInt[] x_shape, {_GEOMETRY}) -> Tensor",
    _input, _input_fake, _input_save, _input_backward, _input_batch,
)  # fmt: skip
convolution_backward_weight = Operator(
    "convolution_backward_weight",
    f"(Tensor grad_y, Tensor x, SymInt[] weight_shape, {_GEOMETRY}, bool bias) -> (Tensor, Tensor)",
    _weight, _weight_fake, _weight_save, _weight_backward, _weight_batch,
)  # fmt: skip
