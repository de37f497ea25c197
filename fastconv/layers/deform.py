"""Deformable convolution, as a layer."""

from __future__ import annotations

from typing import Any

from fastconv.layers.activation import activation_backward
from fastconv.layers.base import Array
from fastconv.layers.conv import ConvNd


class DeformConv2d(ConvNd, ndim=2):
    """Convolution of which every tap of every output reads x at an offset of its own, given as a second input.

    x (N, C_in, H, W), offset (N, offset groups * 2 * KH * KW, H', W') and, for version 2, mask
    (N, offset groups * KH * KW, H', W') -> y (N, C_out, H', W'). Parameters and arguments as for `Conv2d`, but
    padding_mode can only be "zeros" and algorithm only "auto".

    Source: Dai et al., "Deformable Convolutional Networks", 2017; with mask Zhu et al., "Deformable ConvNets v2", 2019.
    """

    operator = "deform_conv{}d"
    padding_modes = ("zeros",)
    algorithms = ("auto",)
    packs = False

    def _window(self) -> dict[str, Any]:
        return {
            "stride": self.stride,
            "padding": self.padding,
            "dilation": self.dilation,
            "data_format": self.data_format,
        }

    def forward(  # type: ignore[override]  # it has three inputs, what else a convolution does it does too
        self, x: Array, offset: Array, mask: Array | None = None
    ) -> Array:
        y: Array = self.function(
            x, offset, self.weight, self.bias, **self._window(), mask=mask, activation=self.activation
        )
        self.save(x, y if self.activation else None, offset, mask)
        return y

    def _backward(self, grad_y: Array, need_x: bool) -> Any:
        """Return the gradients of x, offset and mask, the last one None if there was no mask."""
        x, y, offset, mask = self.restore()
        grad_x, grad_offset, grad_weight, grad_bias, grad_mask = self.function_backward(
            activation_backward(grad_y, y, self.activation), x, offset, self.weight, **self._window(), mask=mask,
            need=(need_x, True, True, self.bias is not None, mask is not None),
        )  # fmt: skip
        self.accumulate(weight=grad_weight, bias=grad_bias)
        return grad_x, grad_offset, grad_mask
