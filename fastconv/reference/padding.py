"""Padding in any mode, and its adjoint."""

from typing import Any

import numpy as np

from fastconv.reference.windows import FIRST, Array, Layout, Pairs

_NUMPY_MODE = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def pad_axes(x: Array, pads: Pairs, mode: str = "zeros", value: float = 0.0) -> Array:
    """Pad the last len(pads) axes."""
    widths = ((0, 0),) * (x.ndim - len(pads)) + pads
    constant = {"constant_values": value} if mode == "zeros" else {}
    return np.pad(x, widths, mode=_NUMPY_MODE[mode], **constant)  # type: ignore[call-overload]


def pad_axes_adjoint(grad_y: Array, pads: Pairs, mode: str = "zeros") -> Array:
    """Every padded element gives its gradient to the element it was copied from, or to none."""
    for axis, pair in enumerate(pads, start=grad_y.ndim - len(pads)):
        length = grad_y.shape[axis] - sum(pair)
        source = pad_axes(np.arange(length), (pair,), mode, value=length)
        grad_x = np.zeros((length + 1, *np.moveaxis(grad_y, axis, 0).shape[1:]), grad_y.dtype)  # last row: zeros' share
        np.add.at(grad_x, source, np.moveaxis(grad_y, axis, 0))
        grad_y = np.moveaxis(grad_x[:-1], 0, axis)
    return grad_y


def pad(x: Array, pads: Any, mode: str = "zeros", *, data_format: str = FIRST) -> Array:
    """Pad the spatial axes by ((before, after), ...); mode is zeros, reflect, replicate or circular."""
    layout = Layout(x, len(pads), data_format)
    return layout.leave(pad_axes(layout.enter(x), tuple(pads), mode))


def pad_backward(grad_y: Array, pads: Any, mode: str = "zeros", *, data_format: str = FIRST) -> Array:
    """Gradient of `pad` by x."""
    layout = Layout(grad_y, len(pads), data_format)
    return layout.leave(pad_axes_adjoint(layout.enter(grad_y), tuple(pads), mode))
