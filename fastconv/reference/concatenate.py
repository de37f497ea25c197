"""Arrays joined along an axis, and one taken apart."""

from collections.abc import Sequence

import numpy as np

from fastconv.reference.windows import Array


def concatenate(arrays: Sequence[Array], axis: int = 1) -> Array:
    """The arrays, one behind the other along the axis."""
    return np.concatenate(arrays, axis)


def split(x: Array, sizes: Sequence[int], axis: int = 1) -> tuple[Array, ...]:
    """Parts of so many places along the axis."""
    return tuple(np.split(x, np.cumsum(sizes)[:-1], axis))
