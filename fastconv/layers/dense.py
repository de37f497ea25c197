"""The fully connected layer.

In evaluation mode it is a convolution of one tap on packed weights: BLAS's threads, which spin for a while after every
product, would take the CPUs from those of the layers around it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from fastconv import functional as F
from fastconv import init
from fastconv.functional import planned
from fastconv.functional.planned import PlansByShape
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
    _packed: PlansByShape | None = None  # what runs forward in evaluation mode, with the weight packed

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
        if self._packed and _has_rows(x, self.weight):
            return self._convolve(x, self._packed)
        y = activate(F.linear(x, self.weight, self.bias), self.activation)
        self.save(x, y if self.activation else None)
        return y

    def _convolve(self, x: Array, packed: PlansByShape) -> Array:
        """Rows of x as pixels of one line."""
        y = packed(
            x.reshape(1, -1, self.in_features), self.weight[..., None], self.bias, data_format="channels_last",
            activation=self.activation, algorithm=None,
        )  # fmt: skip
        return y.reshape(*x.shape[:-1], self.out_features)

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

    def _unlock(self, writeable: bool) -> None:
        super()._unlock(writeable)
        self._packed = PlansByShape(planned.plan_conv1d) if self._pack and not writeable else None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_packed": None}  # packs are neither copied nor pickled but made anew

    def extra_repr(self) -> str:
        shown = f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
        return shown + (f", activation={self.activation}" if self.activation else "")


def _has_rows(x: Any, weight: Array) -> bool:
    """Whether x is an array of one row or more that weight can be multiplied with; errors are left to `linear`."""
    fits = isinstance(x, np.ndarray) and x.dtype == weight.dtype and x.shape[-1:] == weight.shape[-1:]
    return fits and x.size > 0
