"""Flat indices within a plane, which max-pooling returns and unpooling takes."""

import math

import numpy as np

from fastconv.reference.windows import Array, Size


def plane_numbers(size: Size) -> Array:
    """The flat index of every element of a plane."""
    return np.arange(math.prod(size)).reshape(size)


def plane_index(a: Array) -> tuple[Array, Array, Array]:
    """Flat plane indices a[N, C, *out], as an index into (N, C, pixels)."""
    n, c = np.ogrid[: a.shape[0], : a.shape[1]]
    return n[..., None], c[..., None], a.reshape(*a.shape[:2], math.prod(a.shape[2:]))


def gather_planes(x: Array, indices: Array) -> Array:
    """The elements of x[N, C, *spatial] at flat plane indices."""
    planes = x.reshape(*x.shape[:2], math.prod(x.shape[2:]))
    return planes[plane_index(indices)].reshape(indices.shape)


def scatter_planes(values: Array, indices: Array, shape: Size) -> Array:
    """Zeros of shape (N, C, *spatial), with values added at flat plane indices; index -1 is nowhere."""
    planes = np.zeros((*shape[:2], math.prod(shape[2:]) + 1), values.dtype)
    at = plane_index(indices)
    np.add.at(planes, at, values.reshape(at[2].shape))
    return planes[..., :-1].reshape(shape)
