"""Unfolding into windows and folding back, as layers."""

from __future__ import annotations

from typing import Any

from fastconv import functional as F
from fastconv.geometry import is_channels_last
from fastconv.layers.base import Array, Layer


class Unfold(Layer):
    """The windows of x as columns, x (N, C, *L) -> y (N, C * taps, windows).

    kernel_size, dilation, padding and stride are integers or one an axis.
    """

    def __init__(
        self,
        kernel_size: Any,
        dilation: Any = 1,
        padding: Any = 0,
        stride: Any = 1,
        *,
        data_format: str = "channels_first",
    ) -> None:
        is_channels_last(data_format)
        self._options = {
            "kernel_size": kernel_size,
            "dilation": dilation,
            "padding": padding,
            "stride": stride,
            "data_format": data_format,
        }

    def forward(self, x: Array) -> Array:
        self.save(x.shape)
        return F.unfold(x, **self._options)

    def backward(self, grad_y: Array) -> Array:
        (x_shape,) = self.restore()
        return F.unfold_backward(grad_y, x_shape, **self._options)

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in self._options.items() if name != "data_format")


class Fold(Layer):
    """The adjoint of `Unfold`: columns added up where their windows lie, x (N, C * taps, windows) -> y (N, C, *L).

    output_size is L; kernel_size, dilation, padding and stride as for `Unfold`.
    """

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
        is_channels_last(data_format)
        self._options = {
            "output_size": output_size,
            "kernel_size": kernel_size,
            "dilation": dilation,
            "padding": padding,
            "stride": stride,
            "data_format": data_format,
        }

    def forward(self, x: Array) -> Array:
        self.save(x.shape)
        return F.fold(x, **self._options)

    def backward(self, grad_y: Array) -> Array:
        (x_shape,) = self.restore()
        return F.fold_backward(grad_y, x_shape, **self._options)

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in self._options.items() if name != "data_format")
