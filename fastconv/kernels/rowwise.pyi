from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]

RELU: int
LEAKY_RELU: int
ELU: int
SIGMOID: int
TANH: int

def activate(kind: int, alpha: float, x: Array, out: Array) -> None: ...
def activate_backward(kind: int, alpha: float, grad_y: Array, saved: Array, out: Array) -> None: ...
def softmax(logarithm: bool, scale: float, x: Array, out: Array) -> None: ...
def softmax_backward(logarithm: bool, grad_y: Array, y: Array, out: Array) -> None: ...
def cross_entropy(logits: Array, target: Array, out: Array) -> None: ...
