from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]

RELU: int
RELU6: int
LEAKY_RELU: int
ELU: int
SIGMOID: int
TANH: int
GELU: int
GELU_TANH: int
SILU: int
HARDSWISH: int

def activate(kind: int, alpha: float, x: Array, out: Array) -> None: ...
def activate_backward(kind: int, alpha: float, grad_y: Array, saved: Array, out: Array) -> None: ...
def add(kind: int, alpha: float, x: Array, residual: Array, out: Array) -> None: ...
def masked(scale: float, x: Array, mask: Array, out: Array) -> None: ...
def softmax(logarithm: bool, scale: float, x: Array, out: Array) -> None: ...
def softmax_backward(logarithm: bool, grad_y: Array, y: Array, out: Array) -> None: ...
def cross_entropy(logits: Array, target: Array, out: Array) -> None: ...
def cross_entropy_backward(logits: Array, target: Array, scale: float, out: Array) -> None: ...
def sgd(
    lr: float,
    momentum: float,
    gain: float,
    weight_decay: float,
    nesterov: bool,
    weight: Array,
    gradient: Array,
    velocity: Array | None,
) -> None: ...
def adam(
    rate: float,
    beta1: float,
    beta2: float,
    correction: float,
    eps: float,
    weight_decay: float,
    weight: Array,
    gradient: Array,
    mean: Array,
    square: Array,
) -> None: ...
