from typing import Any

import numpy as np
from numpy.typing import NDArray

def is_pooled(bytes: int) -> bool: ...
def empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]: ...
def fits(
    out: object, shape: tuple[int, ...], dtype: np.dtype[Any], inputs: tuple[NDArray[Any] | None, ...]
) -> bool: ...
