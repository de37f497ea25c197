"""The fully connected layer."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from fastconv import functional as F
from fastconv import init
from fastconv.geometry import as_int
from fastconv.layers.activation import activate, activation_backward, check_activation
from fastconv.layers.base import Array, Layer
from fastconv.layers.weights import add_weights


class Linear(Layer):
    """y = x weight^T + bias: x (..., C_in) -> y (..., C_out); weight (C_out, C_in), bias (C_out,).

    Parameters
    ----------
    in_features, out_features
        C_in and C_out.
    bias
        Whether there is one. Default True.
    activation, initializer, dtype, rng
        As for `Conv2d`.
    """

    weight: Array
    bias: Array | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        activation: str | None = None,
        initializer: init.Initializer | None = None,
        dtype: DTypeLike = np.float32,
        rng: init.Rng = None,
    ) -> None:
        check_activation(activation)
        self.in_features = as_int(in_features, "in_features", minimum=1)
        self.out_features = as_int(out_features, "out_features", minimum=1)
        self.activation = activation
        shape = (self.out_features, self.in_features)
        add_weights(self, shape, self.out_features if bias else None, initializer, dtype, rng)

    def forward(self, x: Array) -> Array:
        y = activate(F.linear(x, self.weight, self.bias), self.activation)
        self.save(x, y if self.activation else None)
        return y

    def backward(self, grad_y: Array) -> Array:
        return self._backward(grad_y, need_x=True)

    def backward_parameters(self, grad_y: Array) -> None:
        self._backward(grad_y, need_x=False)

    def _backward(self, grad_y: Array, need_x: bool) -> Any:
        x, y = self.restore()
        grad_y = activation_backward(grad_y, y, self.activation)
        need = (need_x, True, self.bias is not None)
        grad_x, grad_weight, grad_bias = F.linear_backward(grad_y, x, self.weight, need=need)
        self.accumulate(weight=grad_weight, bias=grad_bias)
        return grad_x

    def extra_repr(self) -> str:
        shown = f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
        return shown + (f", activation={self.activation}" if self.activation else "")
