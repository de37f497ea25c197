from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]

class FoldPlan:
    def __init__(self, batch: int, channels: int, axes: Sequence[Sequence[int]], channels_last: bool) -> None: ...
    def __call__(self, image: Array, columns: Array, adds: bool) -> None: ...
