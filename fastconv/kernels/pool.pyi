from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]

class PoolPlan:
    def __init__(
        self,
        dtype: int,
        planes: int,
        channels: int,
        axes: Sequence[Any],
        kind: str,
        power: float = 1,
        whole: float = 1,
        apart: bool = False,
        cover: bool = False,
    ) -> None: ...
    def __call__(
        self,
        x: Array,
        y: Array,
        indices: Array | None = None,
        slope: Array | None = None,
        factor: Array | None = None,
        power: float = 0,
    ) -> None: ...
    def route(self, grad_y: Array, grad_x: Array, x: Array, indices: Array | None = None) -> bool: ...

def indices_within(indices: Array, pixels: int) -> bool: ...
def place(x: Array, indices: Array, y: Array, planes: int, channels: int) -> None: ...
def fetch(x: Array, indices: Array, y: Array, planes: int, channels: int) -> None: ...
