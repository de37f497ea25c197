from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]

def response_norm(
    grad_y: Array | None,
    x: Array,
    images: int,
    channels: int,
    channels_last: bool,
    size: int,
    alpha: float,
    beta: float,
    k: float,
    out: Array,
) -> None: ...
