"""Pools of tensors, and their gradients, as ops of PyTorch.

A mean is linear, and so is the gradient of a maximum for given winners: their gradients are each other's, or a gather.
An Lp pool's gradient is differentiated as the chain of means and powers that it is. Windows come as one number an axis;
`indices` that nobody asked for are an empty tensor.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from math import prod
from typing import Any

import torch

import fastconv.functional as ff
from fastconv.backends.torch.arrays import LAYOUTS, Size, Tensor, as_array, as_tensor, empty
from fastconv.backends.torch.operator import Operator

Window = Sequence[Any]
Shape = tuple[Any, ...]

# What an op calls the arguments of a pool, in fastconv's words, before `channels_last`.
WINDOWS = {
    "max_pool": ("kernel_size", "stride", "padding", "dilation", "ceil_mode"),
    "avg_pool": ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override"),
    "lp_pool": ("norm_type", "kernel_size", "stride", "ceil_mode"),
    "adaptive_max_pool": ("output_size",),
    "adaptive_avg_pool": ("output_size",),
}
_TYPES = {
    "ceil_mode": "bool",
    "count_include_pad": "bool",
    "divisor_override": "SymInt?",
    "norm_type": "float",
}


def _schema(kind: str) -> str:
    return ", ".join(f"{_TYPES.get(name, 'SymInt[]')} {name}" for name in WINDOWS[kind]) + ", bool channels_last"


def _call(kind: str, suffix: str, window: Window, ndim: int, *arrays: Any, **options: Any) -> Any:
    """fastconv's operator of this kind and rank, or its gradient."""
    values = (tuple(value) if isinstance(value, list) else value for value in window[:-1])
    named = dict(zip(WINDOWS[kind], values, strict=True)) | {"data_format": LAYOUTS[window[-1]]}
    return getattr(ff, f"{kind}{ndim}d{suffix}")(*arrays, **named, **options)


def output_shape(kind: str, x_shape: Size, window: Window) -> Shape:
    """Shape (N, C, *size) of y, of sizes that PyTorch may know as symbols alone."""
    named = dict(zip(WINDOWS[kind], window, strict=False))
    if "output_size" in named:
        return *x_shape[:2], *named["output_size"]
    kernel, ones = named["kernel_size"], [1] * len(named["kernel_size"])
    padding, dilation = named.get("padding", [0] * len(ones)), named.get("dilation", ones)
    sizes = []
    for length, k, s, p, d in zip(x_shape[2:], kernel, named["stride"], padding, dilation, strict=True):
        spare = length + 2 * p - d * (k - 1) - 1
        if named["ceil_mode"]:
            count = (spare + s - 1) // s + 1
            sizes.append(count - 1 if (count - 1) * s >= length + p else count)
        else:
            sizes.append(spare // s + 1)
    return *x_shape[:2], *sizes


def _like(x: Tensor, shape: Size, channels_last: bool, dtype: torch.dtype | None = None) -> Tensor:
    return empty(shape, dtype or x.dtype, x.device, channels_last)


# Under vmap a batch of anything is one batch.


def _as_batch(info: Any, tensor: Tensor, dim: int | None) -> Tensor:
    many = tensor.expand(info.batch_size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
    return many.flatten(0, 1)


def _from_batch(info: Any, tensor: Tensor) -> Tensor:
    return tensor.unflatten(0, (info.batch_size, len(tensor) // info.batch_size))


class _Pool(ABC):
    """The ops of a kind of pool: `pool`, and `backward`, its gradient."""

    pool_schema = "(Tensor x, {}) -> Tensor"
    backward_schema = "(Tensor grad_y, Tensor x, {}) -> Tensor"

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.pool = Operator(
            kind, self.pool_schema.format(_schema(kind)),
            self._forward, self._fake, self._save, self._backward, self._batch,
        )  # fmt: skip
        self.backward = Operator(
            f"{kind}_backward", self.backward_schema.format(_schema(kind)),
            self._input, self._input_fake, self._input_save, self._input_backward, self._input_batch,
        )  # fmt: skip

    def _forward(self, x: Tensor, *window: Any) -> Any:
        return as_tensor(_call(self.kind, "", window, x.ndim - 2, as_array(x, window[-1])), window[-1])

    def _fake(self, x: Tensor, *window: Any) -> Any:
        return _like(x, output_shape(self.kind, x.shape, window), window[-1])

    def _save(self, ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(inputs[0])
        ctx.window = tuple(inputs[1:])

    def _backward(self, ctx: Any, *grads: Any) -> tuple[Any, ...]:
        return self.backward(grads[0], *ctx.saved_tensors, *ctx.window), *[None] * len(ctx.window)

    def _batch(self, info: Any, in_dims: Any, x: Tensor, *window: Any) -> Any:
        return _from_batch(info, self.pool(_as_batch(info, x, in_dims[0]), *window)), 0

    def _input(self, grad_y: Tensor, x: Any, *window: Any) -> Tensor:
        arrays = as_array(grad_y, window[-1]), as_array(x, window[-1])
        return as_tensor(_call(self.kind, "_backward", window, x.ndim - 2, *arrays), window[-1])

    def _input_fake(self, grad_y: Tensor, x: Any, *window: Any) -> Tensor:
        return _like(x, x.shape, window[-1])

    def _input_save(self, ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])
        ctx.window = tuple(inputs[2:])

    @abstractmethod
    def _input_backward(self, ctx: Any, grad: Tensor) -> tuple[Any, ...]: ...

    def _input_batch(self, info: Any, in_dims: Any, grad_y: Tensor, x: Any, *window: Any) -> tuple[Tensor, int]:
        folded = (_as_batch(info, t, dim) for t, dim in zip((grad_y, x), in_dims[:2], strict=True))
        return _from_batch(info, self.backward(*folded, *window)), 0


class MeanPool(_Pool):
    """A linear pool, which needs the shape of x alone: either op is the gradient of the other."""

    backward_schema = "(Tensor grad_y, SymInt[] x_shape, {}) -> Tensor"

    def _save(self, ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.x_shape, ctx.window = inputs[0].shape, tuple(inputs[1:])

    def _backward(self, ctx: Any, *grads: Any) -> tuple[Any, ...]:
        return self.backward(grads[0], ctx.x_shape, *ctx.window), *[None] * len(ctx.window)

    def _input(self, grad_y: Tensor, x: Any, *window: Any) -> Tensor:
        batch, channels, *size = x
        shape = (batch, *size, channels) if window[-1] else (batch, channels, *size)
        grad_x = _call(self.kind, "_backward", window, len(size), as_array(grad_y, window[-1]), shape)
        return as_tensor(grad_x, window[-1])

    def _input_fake(self, grad_y: Tensor, x: Any, *window: Any) -> Tensor:
        return _like(grad_y, x, window[-1])

    def _input_save(self, ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.window = tuple(inputs[2:])

    def _input_backward(self, ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        return self.pool(grad, *ctx.window), None, *[None] * len(ctx.window)

    def _input_batch(self, info: Any, in_dims: Any, grad_y: Tensor, x: Any, *window: Any) -> tuple[Tensor, int]:
        shape = (info.batch_size * x[0], *x[1:])
        return _from_batch(info, self.backward(_as_batch(info, grad_y, in_dims[0]), shape, *window)), 0


class MaxPool(_Pool):
    """A maximum: `pool` returns (y, indices), and `backward` takes the indices, or finds empty ones again."""

    pool_schema = "(Tensor x, {}, bool return_indices) -> (Tensor, Tensor)"
    backward_schema = "(Tensor grad_y, Tensor x, Tensor indices, {}) -> Tensor"

    def _forward(self, x: Tensor, *arguments: Any) -> Any:
        *window, return_indices = arguments
        array, last = as_array(x, window[-1]), window[-1]
        if not return_indices:
            return as_tensor(_call(self.kind, "", window, x.ndim - 2, array), last), x.new_empty(0, dtype=torch.int64)
        y, indices = _call(self.kind, "", window, x.ndim - 2, array, return_indices=True)
        return as_tensor(y, last), as_tensor(indices, last)

    def _fake(self, x: Tensor, *arguments: Any) -> Any:
        *window, return_indices = arguments
        shape = output_shape(self.kind, x.shape, window)
        y = _like(x, shape, window[-1])
        return y, _like(x, shape, window[-1], torch.int64) if return_indices else x.new_empty(0, dtype=torch.int64)

    def _save(self, ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(inputs[0], output[1])
        ctx.mark_non_differentiable(output[1])
        ctx.window = tuple(inputs[1:-1])

    def _backward(self, ctx: Any, *grads: Any) -> tuple[Any, ...]:
        return *super()._backward(ctx, *grads), None

    def _batch(self, info: Any, in_dims: Any, x: Tensor, *window: Any) -> Any:
        y, indices = self.pool(_as_batch(info, x, in_dims[0]), *window)
        return (_from_batch(info, y), _from_batch(info, indices)), (0, 0)

    def _input(self, grad_y: Tensor, x: Any, *rest: Any) -> Tensor:
        indices, *window = rest
        last = window[-1]
        arrays = as_array(grad_y, last), as_array(x, last), as_array(indices, last) if indices.numel() else None
        return as_tensor(_call(self.kind, "_backward", window, x.ndim - 2, *arrays), last)

    def _input_save(self, ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[1:3])
        ctx.window = tuple(inputs[3:])

    def _input_backward(self, ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        x, indices = ctx.saved_tensors
        if not indices.numel():
            _, indices = self.pool(x, *ctx.window, True)
        of_grad_y = grad.flatten(2).gather(2, indices.flatten(2)).reshape(indices.shape)
        return of_grad_y, None, None, *[None] * len(ctx.window)

    def _input_batch(self, info: Any, in_dims: Any, grad_y: Tensor, x: Any, *rest: Any) -> tuple[Tensor, int]:
        folded = (_as_batch(info, t, dim) for t, dim in zip((grad_y, x, rest[0]), in_dims[:3], strict=True))
        return _from_batch(info, self.backward(*folded, *rest[1:])), 0


class LpPool(_Pool):
    """An Lp pool, y = (sum of x ** p) ** (1 / p)."""

    def _input_backward(self, ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        """Of ``grad_x = x ** (p - 1) * spread(grad_y * y ** (1 - p))``, where y depends on x, too."""
        grad_y, x = ctx.saved_tensors
        power, kernel, stride, ceil_mode, last = ctx.window
        whole, window = prod(kernel), (kernel, stride, [0] * len(kernel), ceil_mode, True, None, last)
        y = self.pool(x, *ctx.window)
        slope = torch.where(y == 0, 0, y ** (1 - power))
        summed = whole * avg_pool.pool(x ** (power - 1) * grad, *window)
        through_y = torch.where(y == 0, 0, (1 - power) * grad_y * summed / y**power)
        of_x = self.backward(through_y, x, *ctx.window)
        if power != 1:
            spread = whole * avg_pool.backward(grad_y * slope, x.shape, *window)
            of_x = of_x + (power - 1) * x ** (power - 2) * spread * grad
        return slope * summed, of_x, *[None] * len(ctx.window)


max_pool, adaptive_max_pool = MaxPool("max_pool"), MaxPool("adaptive_max_pool")
avg_pool, adaptive_avg_pool = MeanPool("avg_pool"), MeanPool("adaptive_avg_pool")
lp_pool = LpPool("lp_pool")
