"""The affine map of the last axis."""

import math

from fastconv.reference.windows import Array, Gradients


def linear(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """y = x @ weight.T + bias over the last axis of x."""
    return x @ weight.T + (0 if bias is None else bias)


def linear_backward(
    grad_y: Array, x: Array, weight: Array, need: tuple[bool, bool, bool] = (True, True, True)
) -> Gradients:
    """Gradients of `linear` by x, weight and bias."""
    rows_y, rows_x = (a.reshape(math.prod(a.shape[:-1]), a.shape[-1]) for a in (grad_y, x))
    return (
        grad_y @ weight if need[0] else None,
        rows_y.T @ rows_x if need[1] else None,
        rows_y.sum(0) if need[2] else None,
    )
