"""The oracle's changes of layout."""

import numpy as np

from fastconv.reference.windows import Array


def to_channels_last(x: Array) -> Array:
    """The second axis behind all others."""
    return np.ascontiguousarray(np.moveaxis(x, 1, -1))


def to_channels_first(x: Array) -> Array:
    """The last axis behind the first."""
    return np.ascontiguousarray(np.moveaxis(x, -1, 1))
