"""Batch and local response normalization, dropout."""

from typing import Any

import numpy as np

from fastconv.reference.activation import BY_NAME, activate, activate_backward
from fastconv.reference.windows import FIRST, Array, Gradients, Layout


def _channelwise(a: Array | None, x: Array, default: float) -> Any:
    """One value a channel, shaped to meet (N, C, *spatial)."""
    return default if a is None else a.reshape(-1, *(1,) * (x.ndim - 2))


def batch_norm(
    x: Array, running_mean: Array | None, running_var: Array | None, weight: Array | None = None,
    bias: Array | None = None, training: bool = False, momentum: float = 0.1, eps: float = 1e-5, *,
    activation: str | None = None, residual: Array | None = None, data_format: str = FIRST,
) -> Array:  # fmt: skip
    """y = activation((x - mean) / sqrt(var + eps) * weight + bias + residual).

    mean and var are the running ones or, in training, the batch's.

    In training running = (1 - momentum) * running + momentum * batch, in place, with the unbiased variance.
    """
    layout = Layout(x, x.ndim - 2, data_format)
    x = layout.enter(x)
    mean, var = running_mean, running_var
    if training:
        axes, count = (0, *range(2, x.ndim)), x.size // x.shape[1]
        if count == 1:
            raise ValueError(f"x must have more than one value a channel in training, got shape {x.shape}")
        mean, var = x.mean(axes), x.var(axes)
        for running, batch in ((running_mean, mean), (running_var, var * count / (count - 1))):
            if running is not None:
                running[:] = (1 - momentum) * running + momentum * batch
    normal = (x - _channelwise(mean, x, 0)) / np.sqrt(_channelwise(var, x, 1) + eps)
    y = layout.leave(normal * _channelwise(weight, x, 1) + _channelwise(bias, x, 0))
    return activate(y if residual is None else y + residual, activation)


def batch_norm_backward(
    grad_y: Array, x: Array, weight: Array | None, bias: Array | None, *, running_mean: Array | None,
    running_var: Array | None, training: bool, eps: float = 1e-5, activation: str | None = None,
    y: Array | None = None, data_format: str = FIRST,
) -> Gradients:  # fmt: skip
    """Gradients of `batch_norm` by x, weight and bias; None for a weight or bias that is None.

    With y, the result after a residual, which tells the activation's derivative, also by the residual.
    """
    if y is not None:
        of_sum = grad_y if activation is None else BY_NAME[activation][1](grad_y, y)
        gradients = batch_norm_backward(
            of_sum, x, weight, bias, running_mean=running_mean, running_var=running_var, training=training, eps=eps,
            data_format=data_format,
        )  # fmt: skip
        return *gradients, of_sum
    statistics = (None, None) if training else (running_mean, running_var)
    normal = batch_norm(x, *statistics, weight, bias, training, eps=eps, data_format=data_format)
    grad_y = activate_backward(grad_y, normal, activation)
    layout = Layout(x, x.ndim - 2, data_format)
    x, grad_y = layout.enter(x), layout.enter(grad_y)
    axes = (0, *range(2, x.ndim))
    mean, var = (x.mean(axes), x.var(axes)) if training else (running_mean, running_var)
    scale = 1 / np.sqrt(_channelwise(var, x, 1) + eps)
    normal = (x - _channelwise(mean, x, 0)) * scale
    grad_x = grad_y
    if training:
        grad_x = grad_y - grad_y.mean(axes, keepdims=True) - normal * (grad_y * normal).mean(axes, keepdims=True)
    grad_x = layout.leave(grad_x * scale * _channelwise(weight, x, 1))
    return grad_x, None if weight is None else (grad_y * normal).sum(axes), None if bias is None else grad_y.sum(axes)


def _channel_sum(a: Array, before: int, after: int) -> Array:
    """Sum over channels c - before .. c + after, those that exist."""
    padded = np.pad(a, ((0, 0), (before, after), *((0, 0),) * (a.ndim - 2)))
    return np.asarray(sum(padded[:, j : j + a.shape[1]] for j in range(before + after + 1)))


def layer_norm(
    x: Array, normalized_shape: int | tuple[int, ...], weight: Array | None = None, bias: Array | None = None,
    eps: float = 1e-5,
) -> Array:  # fmt: skip
    """y = (x - mean) / sqrt(var + eps) * weight + bias over the last axes, of normalized_shape."""
    axes = tuple(range(-np.size(normalized_shape), 0))
    normal = (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + eps)
    return normal * (1 if weight is None else weight) + (0 if bias is None else bias)


def layer_norm_backward(
    grad_y: Array, x: Array, normalized_shape: int | tuple[int, ...], weight: Array | None = None,
    bias: Array | None = None, eps: float = 1e-5,
) -> Gradients:  # fmt: skip
    """Gradients of `layer_norm` by x, weight and bias; None for a weight or bias that is None."""
    axes = tuple(range(-np.size(normalized_shape), 0))
    others = tuple(range(x.ndim - len(axes)))
    scale = 1 / np.sqrt(x.var(axes, keepdims=True) + eps)
    normal = (x - x.mean(axes, keepdims=True)) * scale
    g = grad_y if weight is None else grad_y * weight
    grad_x = scale * (g - g.mean(axes, keepdims=True) - normal * (g * normal).mean(axes, keepdims=True))
    grad_weight = None if weight is None else (grad_y * normal).sum(others)
    return grad_x, grad_weight, None if bias is None else grad_y.sum(others)


def local_response_norm(
    x: Array, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0, *, data_format: str = FIRST
) -> Array:
    """y = x * s ** -beta, s = k + alpha / size * sum of x ** 2 over channels c - size // 2 .. c + (size - 1) // 2."""
    layout = Layout(x, x.ndim - 2, data_format)
    x = layout.enter(x)
    s = k + alpha / size * _channel_sum(x**2, size // 2, (size - 1) // 2)
    return layout.leave(x * s**-beta)


def local_response_norm_backward(
    grad_y: Array, x: Array, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0, *,
    data_format: str = FIRST,
) -> Array:  # fmt: skip
    """Gradient of `local_response_norm` by x, directly and by way of every s whose window holds the channel."""
    layout = Layout(x, x.ndim - 2, data_format)
    x, grad_y = layout.enter(x), layout.enter(grad_y)
    s = k + alpha / size * _channel_sum(x**2, size // 2, (size - 1) // 2)
    grad_s = _channel_sum(grad_y * x * -beta * s ** (-beta - 1), (size - 1) // 2, size // 2)
    return layout.leave(grad_y * s**-beta + grad_s * alpha / size * 2 * x)


def dropout(x: Array, mask: Array, p: float = 0.5) -> Array:
    """y = x / (1 - p) where the given mask is True, else 0."""
    return np.where(mask, x / (1 - p) if p < 1 else 0, 0)


def dropout_backward(grad_y: Array, mask: Array, p: float = 0.5) -> Array:
    """Gradient of `dropout` by x."""
    return dropout(grad_y, mask, p)
