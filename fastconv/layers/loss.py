"""Losses, as layers of two inputs: forward(x, target) -> loss, backward() -> the gradient of x."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from fastconv import functional as F
from fastconv.geometry import check_choice
from fastconv.layers.base import Array, Layer


class _Loss(Layer):
    function: ClassVar[Callable[..., Any]]
    function_backward: ClassVar[Callable[..., Any]]

    def __init__(self, *, reduction: str = "mean") -> None:
        check_choice(reduction, "reduction", ("mean", "sum", "none"))
        self.reduction = reduction

    def forward(self, x: Array, target: Array) -> Any:
        self.save(x, target)
        return self.function(x, target, self.reduction)

    def backward(self, grad_loss: float | Array = 1.0) -> Array:
        x, target = self.restore()
        return self.function_backward(x, target, self.reduction, grad_loss)

    def extra_repr(self) -> str:
        return "" if self.reduction == "mean" else f"reduction={self.reduction}"


class CrossEntropyLoss(_Loss):
    """-log softmax(logits)[target]: logits (N, classes) or (N, classes, *L), target the class numbers (N,) or (N, *L).

    reduction "mean" (default) or "sum" makes the loss one number, "none" keeps one a sample.
    """

    function = staticmethod(F.cross_entropy)
    function_backward = staticmethod(F.cross_entropy_backward)


class MSELoss(_Loss):
    """(x - target)^2, x and target of one shape; reduction as for `CrossEntropyLoss`."""

    function = staticmethod(F.mse_loss)
    function_backward = staticmethod(F.mse_loss_backward)
