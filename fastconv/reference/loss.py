"""Losses and their gradients by the prediction."""

from typing import Any

import numpy as np

from fastconv.reference.activation import log_softmax, softmax
from fastconv.reference.windows import Array


def _reduce(losses: Array, reduction: str) -> Any:
    return losses if reduction == "none" else losses.sum() if reduction == "sum" else losses.mean()


def cross_entropy(logits: Array, target: Array, reduction: str = "mean") -> Any:
    """-log_softmax(logits)[n, target[n]], classes on axis 1."""
    return _reduce(-np.take_along_axis(log_softmax(logits, 1), target[:, None], 1)[:, 0], reduction)


def cross_entropy_backward(logits: Array, target: Array, reduction: str = "mean", grad_loss: Any = 1.0) -> Array:
    """Gradient of `cross_entropy` by logits: (softmax(logits) - onehot(target)) * grad_loss, / targets for mean."""
    classes = np.arange(logits.shape[1]).reshape(-1, *(1,) * (logits.ndim - 2))
    grad = softmax(logits, 1) - (classes == target[:, None])
    scale = np.asarray(grad_loss, logits.dtype) / (target.size if reduction == "mean" else 1)
    return grad * (scale[:, None] if reduction == "none" and scale.ndim else scale)


def mse_loss(x: Array, target: Array, reduction: str = "mean") -> Any:
    """(x - target) ** 2."""
    return _reduce((x - target) ** 2, reduction)


def mse_loss_backward(x: Array, target: Array, reduction: str = "mean", grad_loss: Any = 1.0) -> Array:
    """Gradient of `mse_loss` by x: 2 (x - target) * grad_loss, / elements for mean."""
    return 2 * (x - target) * np.asarray(grad_loss, x.dtype) / (x.size if reduction == "mean" else 1)
