"""Losses over a batch, each with its backward."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastconv.functional._output import check_like, contiguous, output_array
from fastconv.geometry import check_array, check_choice, check_same_dtype
from fastconv.kernels import rowwise

__all__ = ["cross_entropy", "cross_entropy_backward", "mse_loss", "mse_loss_backward"]

Array = NDArray[Any]
REDUCTIONS = ("mean", "sum", "none")


def cross_entropy(logits: Array, target: Array, reduction: str = "mean") -> Any:
    """Softmax cross entropy of class indices.

    ``loss_n = log sum_c exp(logits_nc - m_n) - (logits_n,target_n - m_n)``, ``m_n = max_c logits_nc``

    A logit of -inf is a class of probability 0: its loss is +inf, that of the other classes stays finite.

    Parameters
    ----------
    logits : array (N, C) or (N, C, *spatial), float32 or float64
    target : integer array (N,) or (N, *spatial)
        Class indices, each in 0 .. C - 1.
    reduction : "mean", "sum" or "none", default "mean"

    Returns
    -------
    scalar of logits' dtype, or for "none" an array like target
        The mean over an empty batch is NaN, as in PyTorch.

    Raises
    ------
    TypeError
        logits is not float32 or float64, or target is not an integer array.
    ValueError
        The shapes do not fit, a class index is out of range, or reduction is unknown.
    """
    _check_classes(logits, target, reduction)
    loss = np.empty(target.shape)
    rowwise.cross_entropy(_rows(logits), _class_indices(target), loss)
    return _reduce(loss, reduction, logits.dtype)


def cross_entropy_backward(
    logits: Array,
    target: Array,
    reduction: str = "mean",
    grad_loss: float | Array = 1.0,
    *,
    out: Array | None = None,
) -> Array:
    """Gradient of `cross_entropy` for logits.

    ``grad_logits_nc = (softmax(logits_n)_c - [c = target_n]) * grad_loss``, over the number of targets for "mean"

    Parameters
    ----------
    logits, target, reduction
        As for `cross_entropy`.
    grad_loss : float, or for "none" an array like target, default 1.0
    out : array like logits, default None

    Returns
    -------
    array like logits

    Raises
    ------
    TypeError, ValueError
        As `cross_entropy`, grad_loss does not have the loss's shape, or out does not fit.
    """
    _check_classes(logits, target, reduction)
    scale = _loss_scale(grad_loss, logits.dtype, target.shape, reduction)
    out = output_array(out, logits.shape, logits.dtype, logits, target)
    rows = _rows(logits)
    grad = out if logits.ndim == 2 else np.empty(rows.shape, rows.dtype)
    rowwise.cross_entropy_backward(rows, _class_indices(target), 1.0 if scale.ndim else float(scale), grad)
    if scale.ndim:
        np.multiply(grad, scale.reshape(-1, 1), out=grad)
    if logits.ndim > 2:
        out[...] = np.moveaxis(grad.reshape(*target.shape, logits.shape[1]), -1, 1)
    return out


def mse_loss(x: Array, target: Array, reduction: str = "mean") -> Any:
    """Squared error.

    ``loss = (x - target)^2``, reduced

    Parameters
    ----------
    x, target : arrays of one shape and dtype, float32 or float64
    reduction : "mean", "sum" or "none", default "mean"

    Returns
    -------
    scalar of x's dtype, or for "none" an array like x
        The mean over no elements is NaN, as in PyTorch.

    Raises
    ------
    TypeError, ValueError
        The arrays differ in shape or dtype, or reduction is unknown.
    """
    _check_pair(x, target, reduction)
    difference = np.subtract(x, target, out=np.empty(x.shape, x.dtype))
    return _reduce(np.square(difference, out=difference), reduction, x.dtype)


def mse_loss_backward(
    x: Array,
    target: Array,
    reduction: str = "mean",
    grad_loss: float | Array = 1.0,
    *,
    out: Array | None = None,
) -> Array:
    """Gradient of `mse_loss` for x; that for target is its negative.

    ``grad_x = 2 * (x - target) * grad_loss``, over the number of elements for "mean"

    Parameters
    ----------
    x, target, reduction
        As for `mse_loss`.
    grad_loss : float, or for "none" an array like x, default 1.0
    out : array like x, default None

    Returns
    -------
    array like x

    Raises
    ------
    TypeError, ValueError
        As `mse_loss`, grad_loss does not have the loss's shape, or out does not fit.
    """
    _check_pair(x, target, reduction)
    scale = _loss_scale(grad_loss, x.dtype, x.shape, reduction)
    out = output_array(out, x.shape, x.dtype, x, target)
    np.subtract(x, target, out=out)
    return np.multiply(out, 2 * scale, out=out)


def _rows(logits: Array) -> Array:
    """[targets][C]: a view of a contiguous (N, C), else a copy."""
    moved = logits if logits.ndim == 2 else np.moveaxis(logits, 1, -1)
    return contiguous(moved).reshape(-1, logits.shape[1])


def _class_indices(target: Array) -> Array:
    return contiguous(target.astype(np.intp, copy=False)).reshape(-1)


def _reduce(loss: Array, reduction: str, dtype: np.dtype[Any]) -> Any:
    if reduction == "none":
        return loss.astype(dtype, copy=False)
    if loss.size == 0 and reduction == "mean":
        return dtype.type(np.nan)
    total = loss.sum()
    return dtype.type(total if reduction == "sum" else total / loss.size)


def _loss_scale(grad_loss: float | Array, dtype: np.dtype[Any], shape: tuple[int, ...], reduction: str) -> Array:
    """What every element's gradient is multiplied by: a 0-d array, or one like the unreduced loss."""
    scale = np.asarray(grad_loss, dtype=dtype)
    if scale.ndim and (reduction != "none" or scale.shape != shape):
        expected = f"a number or an array of shape {shape}" if reduction == "none" else "a number"
        raise ValueError(f"grad_loss must be {expected} for reduction={reduction!r}, got shape {scale.shape}")
    size = int(np.prod(shape))
    return np.asarray(scale / dtype.type(size)) if reduction == "mean" and size else scale


def _check_pair(x: Array, target: Array, reduction: str) -> None:
    check_choice(reduction, "reduction", REDUCTIONS)
    check_array(x, "x")
    check_array(target, "target")
    check_same_dtype(x=x, target=target)
    check_like(target, "target", x.shape, "x")


def _check_classes(logits: Array, target: Array, reduction: str) -> None:
    check_choice(reduction, "reduction", REDUCTIONS)
    check_array(logits, "logits")
    if logits.ndim < 2 or 0 in logits.shape[1:]:
        raise ValueError(f"logits must have shape (N, C, ...) with C >= 1, got logits.shape={logits.shape}")
    if not isinstance(target, np.ndarray) or target.dtype.kind not in "iu":
        kind = f"dtype {target.dtype}" if isinstance(target, np.ndarray) else type(target).__name__
        raise TypeError(f"target must be an integer array of class indices, got {kind}")
    check_like(target, "target", (logits.shape[0], *logits.shape[2:]), "logits")
    last = logits.shape[1] - 1
    if target.size and not (target.min() >= 0 and target.max() <= last):
        raise ValueError(f"target must hold class indices from 0 to {last}, got {target.min()} to {target.max()}")
