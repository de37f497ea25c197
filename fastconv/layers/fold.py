"""Unfolding into windows and folding back, as layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastconv import functional as F
from fastconv.geometry import is_channels_last
from fastconv.layers.base import Array, Layer


class _Windows(Layer):
    """An operator of windows, whose gradient needs of x its shape alone."""

    _forward: Callable[..., Array]
    _backward: Callable[..., Array]

    def __init__(self, **options: Any) -> None:
        is_channels_last(options["data_format"])
        self._options = options

    def forward(self, x: Array) -> Array:
        self.save(x.shape)
        return self._forward(x, **self._options)

    def backward(self, grad_y: Array) -> Array:
        (x_shape,) = self.restore()
        return self._backward(grad_y, x_shape, **self._options)

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in self._options.items() if name != "data_format")


class Unfold(_Windows):
    """The windows of x as columns, x (N, C, *L) -> y (N, C * taps, windows).

    kernel_size, dilation, padding and stride are integers or one an axis.
    """

    _forward = staticmethod(F.unfold)
    _backward = staticmethod(F.unfold_backward)

    def __init__(
        self,
        kernel_size: Any,
        dilation: Any = 1,
        padding: Any = 0,
        stride: Any = 1,
        *,
        data_format: str = "channels_first",
    ) -> None:
        super().__init__(
            kernel_size=kernel_size, dilation=dilation, padding=padding, stride=stride, data_format=data_format
        )


class Fold(_Windows):
    """The adjoint of `Unfold`: columns added up where their windows lie, x (N, C * taps, windows) -> y (N, C, *L).

    output_size is L; kernel_size, dilation, padding and stride as for `Unfold`.
    """

    _forward = staticmethod(F.fold)
    _backward = staticmethod(F.fold_backward)

    def __init__(
        self,
        output_size: Any,
        kernel_size: Any,
        dilation: Any = 1,
        padding: Any = 0,
        stride: Any = 1,
        *,
        data_format: str = "channels_first",
    ) -> None:
        super().__init__(
            output_size=output_size,
            kernel_size=kernel_size,
            dilation=dilation,
            padding=padding,
            stride=stride,
            data_format=data_format,
        )
