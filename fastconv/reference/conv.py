"""Convolution: the trilinear form sum(y * correlate(x, w)), and the ways to leave one factor out."""

import math
from typing import Any

import numpy as np

from fastconv.reference.activation import activate
from fastconv.reference.padding import pad_axes, pad_axes_adjoint
from fastconv.reference.windows import FIRST, Array, Gradients, Layout, Size, as_pairs, each, ranks, taps


def split(a: Array, groups: int) -> Array:
    """(N, C, *spatial) -> (N, groups, C / groups, *spatial)."""
    return a.reshape(a.shape[0], groups, a.shape[1] // groups, *a.shape[2:])


def merge(a: Array) -> Array:
    """(N, groups, C / groups, *spatial) -> (N, C, *spatial)."""
    return a.reshape(a.shape[0], a.shape[1] * a.shape[2], *a.shape[3:])


def columns(a: Array) -> Array:
    """(N, groups, C, *spatial) -> (N, groups, C, pixels)."""
    return a.reshape(*a.shape[:3], math.prod(a.shape[3:]))


def split_weight(weight: Array, groups: int, flip: bool = False) -> Array:
    """(groups * F, C, *kernel) -> (groups, F, C, *kernel); flipped along the kernel axes if asked."""
    weight = np.flip(weight, tuple(range(2, weight.ndim))) if flip else weight
    return weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])


def at_tap(w: Array, tap: Any) -> Array:
    """The matrices w[g][f][c] of one tap; contiguous, since matmul does without BLAS on strided ones."""
    return np.ascontiguousarray(w[tap])


def correlate(x: Array, w: Array, out: Size, stride: Size, dilation: Size) -> Array:
    """y[n,g,f,o] = sum over c, t of w[g,f,c,t] x[n,g,c,o * stride + t * dilation]."""
    y = np.zeros((*x.shape[:2], w.shape[1], *out), np.result_type(x, w))
    for tap, at in taps(w.shape[3:], out, stride, dilation):
        y += (at_tap(w, tap) @ columns(x[at])).reshape(y.shape)
    return y


def correlate_adjoint_x(y: Array, w: Array, size: Size, stride: Size, dilation: Size) -> Array:
    """x[n,g,c,i] = sum over f, t, o with i = o * stride + t * dilation of w[g,f,c,t] y[n,g,f,o]."""
    x = np.zeros((*y.shape[:2], w.shape[2], *size), np.result_type(y, w))
    for tap, at in taps(w.shape[3:], y.shape[3:], stride, dilation):
        x[at] += (at_tap(w, tap).swapaxes(1, 2) @ columns(y)).reshape(x[at].shape)
    return x


def correlate_adjoint_w(y: Array, x: Array, kernel: Size, stride: Size, dilation: Size) -> Array:
    """w[g,f,c,t] = sum over n, o of y[n,g,f,o] x[n,g,c,o * stride + t * dilation]."""
    w = np.zeros((*y.shape[1:3], x.shape[2], *kernel), np.result_type(y, x))
    for tap, at in taps(kernel, y.shape[3:], stride, dilation):
        w[tap] = (columns(y) @ columns(x[at]).swapaxes(2, 3)).sum(0)
    return w


def add_bias(y: Array, bias: Array | None) -> Array:
    return y if bias is None else y + bias.reshape(-1, *(1,) * (y.ndim - 2))


def bias_gradient(grad_y: Array) -> Array:
    return grad_y.sum((0, *range(2, grad_y.ndim)))


def _conv(
    ndim: int, x: Array, weight: Array, bias: Array | None = None, stride: Any = 1, padding: Any = 0,
    dilation: Any = 1, groups: int = 1, *, padding_mode: str = "zeros", flip_kernel: bool = False,
    activation: str | None = None, residual: Array | None = None, data_format: str = FIRST,
) -> Array:  # fmt: skip
    """y[n,f,o] = activation(bias[f] + residual[n,f,o]
    + sum over c, t of weight[f,c,t] pad(x)[n,c,o * stride + t * dilation])."""
    layout, kernel = Layout(x, ndim, data_format), weight.shape[2:]
    stride, dilation = each(stride, ndim), each(dilation, ndim)
    padded = pad_axes(layout.enter(x), as_pairs(padding, kernel, stride, dilation), padding_mode)
    out = tuple((i - d * (k - 1) - 1) // s + 1
                for i, k, s, d in zip(padded.shape[2:], kernel, stride, dilation, strict=True))  # fmt: skip
    y = correlate(split(padded, groups), split_weight(weight, groups, flip_kernel), out, stride, dilation)
    y = add_bias(merge(y), bias)
    return layout.leave(activate(y if residual is None else y + layout.enter(residual), activation))


def _conv_backward(
    ndim: int, grad_y: Array, x: Array, weight: Array, *, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
    groups: int = 1, need: tuple[bool, bool, bool] = (True, True, True), padding_mode: str = "zeros",
    flip_kernel: bool = False, data_format: str = FIRST,
) -> Gradients:  # fmt: skip
    """Gradients of `_conv` (without activation) by x, weight and bias."""
    layout, kernel = Layout(x, ndim, data_format), weight.shape[2:]
    stride, dilation = each(stride, ndim), each(dilation, ndim)
    pads = as_pairs(padding, kernel, stride, dilation)
    padded, grad_y = pad_axes(layout.enter(x), pads, padding_mode), layout.enter(grad_y)
    grad_x = grad_weight = None
    if need[0]:
        w = split_weight(weight, groups, flip_kernel)
        grad_padded = correlate_adjoint_x(split(grad_y, groups), w, padded.shape[2:], stride, dilation)
        grad_x = layout.leave(pad_axes_adjoint(merge(grad_padded), pads, padding_mode))
    if need[1]:
        grad_weight = correlate_adjoint_w(split(grad_y, groups), split(padded, groups), kernel, stride, dilation)
        grad_weight = split_weight(grad_weight.reshape(weight.shape), 1, flip_kernel)[0]
    return grad_x, grad_weight, bias_gradient(grad_y) if need[2] else None


conv1d, conv2d, conv3d = ranks(_conv)
conv1d_backward, conv2d_backward, conv3d_backward = ranks(_conv_backward)
