"""Transposed convolution: the adjoint of a convolution, as an operator of its own."""

from typing import Any

from fastconv.reference.activation import activate
from fastconv.reference.conv import (
    add_bias,
    bias_gradient,
    correlate,
    correlate_adjoint_w,
    correlate_adjoint_x,
    merge,
    split,
    split_weight,
)
from fastconv.reference.padding import pad_axes, pad_axes_adjoint
from fastconv.reference.windows import FIRST, Array, Gradients, Layout, as_pairs, each, ranks


def _conv_transpose(
    ndim: int, x: Array, weight: Array, bias: Array | None = None, stride: Any = 1, padding: Any = 0,
    output_padding: Any = 0, groups: int = 1, dilation: Any = 1, *, activation: str | None = None,
    data_format: str = FIRST,
) -> Array:  # fmt: skip
    """y = activation(bias + the adjoint of `_conv` applied to x), output_padding longer at the end."""
    layout, kernel = Layout(x, ndim, data_format), weight.shape[2:]
    stride, dilation, extra = each(stride, ndim), each(dilation, ndim), each(output_padding, ndim)
    x = layout.enter(x)
    full = tuple((i - 1) * s + d * (k - 1) + 1 + e
                 for i, k, s, d, e in zip(x.shape[2:], kernel, stride, dilation, extra, strict=True))  # fmt: skip
    y = merge(correlate_adjoint_x(split(x, groups), split_weight(weight, groups), full, stride, dilation))
    y = pad_axes_adjoint(y, as_pairs(padding, kernel, stride, dilation))
    return layout.leave(activate(add_bias(y, bias), activation))


def _conv_transpose_backward(
    ndim: int, grad_y: Array, x: Array, weight: Array, *, stride: Any = 1, padding: Any = 0, output_padding: Any = 0,
    groups: int = 1, dilation: Any = 1, need: tuple[bool, bool, bool] = (True, True, True), data_format: str = FIRST,
) -> Gradients:  # fmt: skip
    """Gradients of `_conv_transpose` by x, weight and bias; output_padding is implied by grad_y's size."""
    layout, kernel = Layout(x, ndim, data_format), weight.shape[2:]
    stride, dilation = each(stride, ndim), each(dilation, ndim)
    x, grad_y = layout.enter(x), layout.enter(grad_y)
    padded = split(pad_axes(grad_y, as_pairs(padding, kernel, stride, dilation)), groups)
    grad_x = grad_weight = None
    if need[0]:
        grad_x = layout.leave(merge(correlate(padded, split_weight(weight, groups), x.shape[2:], stride, dilation)))
    if need[1]:
        grad_weight = correlate_adjoint_w(split(x, groups), padded, kernel, stride, dilation).reshape(weight.shape)
    return grad_x, grad_weight, bias_gradient(grad_y) if need[2] else None


conv_transpose1d, conv_transpose2d, conv_transpose3d = ranks(_conv_transpose)
conv_transpose1d_backward, conv_transpose2d_backward, conv_transpose3d_backward = ranks(_conv_transpose_backward)
