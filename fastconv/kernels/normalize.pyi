from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]

def batch_norm(
    x: Array,
    per_row: bool,
    running_mean: Array | None,
    running_var: Array | None,
    weight: Array | None,
    bias: Array | None,
    training: bool,
    momentum: float,
    eps: float,
    activation: int,
    alpha: float,
    residual: Array | None,
    statistics: Array | None,
    out: Array,
) -> None: ...
def batch_norm_backward(
    grad_y: Array,
    x: Array,
    per_row: bool,
    running_mean: Array | None,
    running_var: Array | None,
    weight: Array | None,
    bias: Array | None,
    training: bool,
    eps: float,
    activation: int,
    alpha: float,
    statistics: Array | None,
    y: Array | None,
    grad_x: Array,
    grad_weight: Array | None,
    grad_bias: Array | None,
    grad_residual: Array | None,
) -> None: ...
