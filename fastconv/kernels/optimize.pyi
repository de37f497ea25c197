from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]

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
