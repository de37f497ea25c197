from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]

def layer_norm(x: Array, n: int, weight: Array | None, bias: Array | None, eps: float, out: Array) -> None: ...
def layer_norm_backward(
    grad_y: Array,
    x: Array,
    n: int,
    weight: Array | None,
    eps: float,
    grad_x: Array,
    grad_weight: Array | None,
    grad_bias: Array | None,
) -> None: ...
