"""Windows as columns, and columns summed back."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from fastconv.reference.padding import pad_axes, pad_axes_adjoint
from fastconv.reference.windows import FIRST, Array, Layout, Size, as_pairs, each, pool_window, taps


def _rank(sizes: Any, otherwise: int) -> int:
    return len(sizes) if isinstance(sizes, Sequence) else otherwise


def _unfold_windows(size: Size, kernel_size: Any, dilation: Any, padding: Any, stride: Any) -> tuple[Any, ...]:
    """The output size, the padding, and for every tap the part of the padded input that it meets."""
    kernel, dilation, stride = (each(v, len(size)) for v in (kernel_size, dilation, stride))
    pads = as_pairs(padding, kernel, stride, dilation)
    out, _ = pool_window(size, kernel, stride, pads, dilation, False)
    return out, pads, [at for _, at in taps(kernel, out, stride, dilation)]


def unfold(
    x: Array, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1, *, data_format: str = FIRST
) -> Array:
    """y[n,c * taps + t,o] = pad(x)[n,c,o * stride + t * dilation], with o and t counted in row order.

    A tuple kernel_size says by its length how many spatial axes there are; with an int they are x.ndim - 2.
    """
    layout = Layout(x, _rank(kernel_size, x.ndim - 2), data_format)
    x = layout.enter(x)
    out, pads, windows = _unfold_windows(x.shape[2:], kernel_size, dilation, padding, stride)
    padded = pad_axes(x, pads)
    columns = np.stack([padded[at] for at in windows], axis=2)
    return layout.leave(columns.reshape(x.shape[0], x.shape[1] * len(windows), math.prod(out)))


def fold(
    x: Array, output_size: Any, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1, *,
    data_format: str = FIRST,
) -> Array:  # fmt: skip
    """The adjoint of `unfold`: columns (N, C * taps, windows) summed into (N, C, *output_size).

    A tuple output_size or kernel_size says by its length how many spatial axes there are; with ints they are 2.
    """
    layout, ndim = Layout(x, 1, data_format), _rank(output_size, _rank(kernel_size, 2))
    size, x = each(output_size, ndim), layout.enter(x)
    out, pads, windows = _unfold_windows(size, kernel_size, dilation, padding, stride)
    x = x.reshape(x.shape[0], x.shape[1] // len(windows), len(windows), *out)
    padded = np.zeros(
        (*x.shape[:2], *(i + before + after for i, (before, after) in zip(size, pads, strict=True))), x.dtype
    )
    for tap, at in enumerate(windows):
        padded[at] += x[:, :, tap]
    return layout.leave(pad_axes_adjoint(padded, pads))


def unfold_backward(
    grad_y: Array, x_shape: Iterable[int], kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1, *,
    data_format: str = FIRST,
) -> Array:  # fmt: skip
    """Gradient of `unfold` by x."""
    size = Layout(grad_y, 1, data_format).enter_shape(x_shape)[2:]
    return fold(grad_y, size, kernel_size, dilation, padding, stride, data_format=data_format)


def fold_backward(
    grad_y: Array, x_shape: Iterable[int], output_size: Any, kernel_size: Any, dilation: Any = 1, padding: Any = 0,
    stride: Any = 1, *, data_format: str = FIRST,
) -> Array:  # fmt: skip
    """Gradient of `fold` by x (whose shape is implied by the other arguments)."""
    kernel = each(kernel_size, grad_y.ndim - (2 if len(tuple(x_shape)) == 3 else 1))
    return unfold(grad_y, kernel, dilation, padding, stride, data_format=data_format)
