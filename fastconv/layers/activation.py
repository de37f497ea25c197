"""Activations as layers, and the table of those that a convolution or a linear layer may end with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from fastconv import functional as F
from fastconv.geometry import check_choice
from fastconv.layers.base import Array, Layer


def _elu_backward(grad_y: Array, y: Array) -> Array:
    # Where x < 0, y = exp(x) - 1, so that the slope exp(x) is y + 1.
    return grad_y * (np.minimum(y, 0) + 1)


# name -> (y from x, gradient of x from grad_y and y): only y is at hand after a fused activation.
_FROM_OUTPUT: dict[str, tuple[Callable[[Array], Array], Callable[[Array, Array], Array]]] = {
    "relu": (F.relu, F.relu_backward),
    "relu6": (F.relu6, F.relu6_backward),
    "leaky_relu": (F.leaky_relu, F.leaky_relu_backward),  # y has the sign of x
    "elu": (F.elu, _elu_backward),
    "sigmoid": (F.sigmoid, F.sigmoid_backward),
    "tanh": (F.tanh, F.tanh_backward),
}


def check_activation(activation: str | None) -> None:
    """Raise unless activation is None or the name of one that can be fused."""
    if activation is not None:
        check_choice(activation, "activation", tuple(_FROM_OUTPUT))


def activate(x: Array, activation: str | None) -> Array:
    """Return the activation of x, by name."""
    return x if activation is None else _FROM_OUTPUT[activation][0](x)


def activation_backward(grad_y: Array, y: Array, activation: str | None) -> Array:
    """Return the gradient by an activation's x from its y."""
    return grad_y if activation is None else _FROM_OUTPUT[activation][1](grad_y, y)


class ReLU(Layer):
    """y = max(x, 0), of any shape. `inplace` is accepted for PyTorch's signature; y is always a new array."""

    def __init__(self, inplace: bool = False) -> None:
        pass

    def forward(self, x: Array) -> Array:
        y = F.relu(x)
        self.save(y)
        return y

    def backward(self, grad_y: Array) -> Array:
        (y,) = self.restore()
        return F.relu_backward(grad_y, y)

    def as_activation(self) -> str | None:
        return "relu"


class ReLU6(Layer):
    """y = min(max(x, 0), 6), of any shape. `inplace` as in `ReLU`."""

    def __init__(self, inplace: bool = False) -> None:
        pass

    def forward(self, x: Array) -> Array:
        y = F.relu6(x)
        self.save(y)
        return y

    def backward(self, grad_y: Array) -> Array:
        (y,) = self.restore()
        return F.relu6_backward(grad_y, y)

    def as_activation(self) -> str | None:
        return "relu6"


class LeakyReLU(Layer):
    """y = x where x > 0, else negative_slope * x (default 0.01). `inplace` as in `ReLU`."""

    def __init__(self, negative_slope: float = 0.01, inplace: bool = False) -> None:
        self.negative_slope = negative_slope

    def forward(self, x: Array) -> Array:
        self.save(x)
        return F.leaky_relu(x, self.negative_slope)

    def backward(self, grad_y: Array) -> Array:
        (x,) = self.restore()
        return F.leaky_relu_backward(grad_y, x, self.negative_slope)

    def as_activation(self) -> str | None:
        return "leaky_relu" if self.negative_slope == 0.01 else None

    def extra_repr(self) -> str:
        return f"negative_slope={self.negative_slope}"


class ELU(Layer):
    """y = x where x > 0, else alpha * (exp(x) - 1) (alpha 1 by default). `inplace` as in `ReLU`."""

    def __init__(self, alpha: float = 1.0, inplace: bool = False) -> None:
        self.alpha = alpha

    def forward(self, x: Array) -> Array:
        self.save(x)
        return F.elu(x, self.alpha)

    def backward(self, grad_y: Array) -> Array:
        (x,) = self.restore()
        return F.elu_backward(grad_y, x, self.alpha)

    def as_activation(self) -> str | None:
        return "elu" if self.alpha == 1 else None

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}"


class Sigmoid(Layer):
    """y = 1 / (1 + exp(-x)), of any shape."""

    def forward(self, x: Array) -> Array:
        y = F.sigmoid(x)
        self.save(y)
        return y

    def backward(self, grad_y: Array) -> Array:
        (y,) = self.restore()
        return F.sigmoid_backward(grad_y, y)

    def as_activation(self) -> str | None:
        return "sigmoid"


class Tanh(Layer):
    """y = tanh(x), of any shape."""

    def forward(self, x: Array) -> Array:
        y = F.tanh(x)
        self.save(y)
        return y

    def backward(self, grad_y: Array) -> Array:
        (y,) = self.restore()
        return F.tanh_backward(grad_y, y)

    def as_activation(self) -> str | None:
        return "tanh"


class _Gated(Layer):
    """An activation that weighs x by a gate of x."""

    _name: ClassVar[str]

    def __init__(self, inplace: bool = False) -> None:
        pass

    def forward(self, x: Array) -> Array:
        self.save(x)
        y: Array = getattr(F, self._name)(x)
        return y

    def backward(self, grad_y: Array) -> Array:
        (x,) = self.restore()
        grad_x: Array = getattr(F, f"{self._name}_backward")(grad_y, x)
        return grad_x

    def as_activation(self) -> str | None:
        return self._name


class SiLU(_Gated):
    """y = x / (1 + exp(-x)), of any shape. `inplace` as in `ReLU`."""

    _name = "silu"


class Hardswish(_Gated):
    """y = x * min(max(x + 3, 0), 6) / 6, of any shape. `inplace` as in `ReLU`."""

    _name = "hardswish"


class GELU(Layer):
    """y = x * (1 + erf(x / sqrt(2))) / 2, of any shape, or `approximate` "tanh" for its approximation by tanh."""

    def __init__(self, approximate: str = "none") -> None:
        check_choice(approximate, "approximate", ("none", "tanh"))
        self.approximate = approximate

    def forward(self, x: Array) -> Array:
        self.save(x)
        return F.gelu(x, self.approximate)

    def backward(self, grad_y: Array) -> Array:
        (x,) = self.restore()
        return F.gelu_backward(grad_y, x, self.approximate)

    def as_activation(self) -> str | None:
        return "gelu" if self.approximate == "none" else "gelu_tanh"

    def extra_repr(self) -> str:
        return f"approximate={self.approximate}"


def activation_layer(activation: str) -> Layer:
    """Return the layer of an activation, by name."""
    return _LAYERS[activation]()


_LAYERS: dict[str, Callable[[], Layer]] = {
    "relu": ReLU,
    "relu6": ReLU6,
    "leaky_relu": LeakyReLU,
    "elu": ELU,
    "sigmoid": Sigmoid,
    "tanh": Tanh,
}


class _AlongAxis(Layer):
    """An activation that couples the values along one axis, `dim` as PyTorch calls it (default: the last)."""

    _forward: Callable[..., Any]
    _backward: Callable[..., Any]

    def __init__(self, dim: int = -1) -> None:
        self.dim = dim

    def forward(self, x: Array) -> Array:
        y = self._forward(x, self.dim)
        self.save(y)
        return y

    def backward(self, grad_y: Array) -> Array:
        (y,) = self.restore()
        return self._backward(grad_y, y, self.dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


class Softmax(_AlongAxis):
    """y = exp(x) / sum of exp(x) along the axis dim."""

    _forward = staticmethod(F.softmax)
    _backward = staticmethod(F.softmax_backward)


class LogSoftmax(_AlongAxis):
    """y = x - log of the sum of exp(x) along the axis dim."""

    _forward = staticmethod(F.log_softmax)
    _backward = staticmethod(F.log_softmax_backward)
