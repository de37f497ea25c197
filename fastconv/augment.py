"""Variations of training pictures, so that a small training set shows more ways of writing the same thing."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def distort(
    images: Array,
    rng: np.random.Generator,
    *,
    rotation: float = 0.2,
    scale: float = 0.15,
    shear: float = 0.2,
    shift: float = 0.1,
) -> Array:
    """Rotate, scale, shear and shift every picture by amounts of its own, uniformly drawn; what comes in is black.

    y[n, :, p] = x[n, :, A_n p + t_n], bilinear, p from the picture's centre, A_n = diag(exp(s)) R(angle) + shear.

    Parameters
    ----------
    images
        Square pictures (N, C, S, S), of any dtype.
    rng
        Draws 6 numbers a picture.
    rotation
        Largest angle, in radians. Default 0.2.
    scale
        Largest change of size along an axis, as a logarithm. Default 0.15.
    shear
        Largest shift of a row for one row further down. Default 0.2.
    shift
        Largest displacement along an axis, as a part of S. Default 0.1.

    Returns
    -------
    float32 (N, C, S, S)
    """
    count, _, size, _ = images.shape
    draw = rng.random((6, count), np.float32) * 2 - 1
    angle, slant = rotation * draw[0], shear * draw[1]
    (scale_y, scale_x), (shift_y, shift_x) = np.exp(scale * draw[2:4]), shift * size * draw[4:6]
    centre = np.float32((size - 1) / 2)
    y = (np.arange(size, dtype=np.float32) - centre)[:, None]
    x = y.T
    cos, sin, slant = (v[:, None, None] for v in (np.cos(angle), np.sin(angle), slant))
    scale_y, scale_x, shift_y, shift_x = (v[:, None, None] for v in (scale_y, scale_x, shift_y, shift_x))
    from_y = scale_y * (cos * y - sin * x) + (shift_y + centre)
    from_x = scale_x * (sin * y + cos * x) + slant * y + (shift_x + centre)
    return _sample(images, from_y, from_x)


def _sample(images: Array, from_y: Array, from_x: Array) -> Array:
    """y[n, c, i, j] = x[n, c, from_y[n, i, j], from_x[n, i, j]], bilinear, 0 outside."""
    count, channels, size, _ = images.shape
    width = size + 2  # a border of zeros, on which everything outside is laid
    padded = np.zeros((count, channels, width, width), np.float32)
    padded[:, :, 1:-1, 1:-1] = images
    top, down = _split(from_y + 1, size)
    left, right = _split(from_x + 1, size)
    corner = np.arange(count)[:, None, None] * (channels * width * width) + top * width + left
    flat = padded.reshape(-1)
    y = np.empty((count, channels, size, size), np.float32)
    for channel in range(channels):
        upper = flat[corner] * (1 - right) + flat[corner + 1] * right
        lower = flat[corner + width] * (1 - right) + flat[corner + (width + 1)] * right
        y[:, channel] = upper * (1 - down) + lower * down
        corner += width * width
    return y


def _split(position: Array, size: int) -> tuple[Array, Array]:
    """Whole part, at most size, and the rest, of positions clipped to the padded picture 0 .. size + 1."""
    position = np.clip(position, 0, size + 1)
    whole = np.minimum(position.astype(np.intp), size)
    return whole, position - whole.astype(np.float32)
