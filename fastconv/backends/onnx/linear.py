"""Matrix products. One with a constant matrix is a convolution of one tap on packed weights, as in `layers.Linear`:
BLAS's threads, which spin for a while after every product, would take the CPUs from those of the layers around it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastconv import functional as F
from fastconv.backends.onnx.convolutions import PackedWeight, constant, describe, is_packable
from fastconv.backends.onnx.graph import Node, is_float
from fastconv.backends.onnx.kernels import Array, Constants, Kernel, floating, narrowed, operator, widened
from fastconv.backends.onnx.pointwise import activate
from fastconv.functional.planned import PlannedConv
from fastconv.geometry.arrays import DTYPES


@operator("Linear")
def _linear(node: Node, constants: Constants) -> Kernel:
    """Made by passes: x (..., K) times a constant (N, K), transposed, plus bias and residual, activated."""
    assert is_packable(node, constants)
    weight, bias, activation = constant(node, 1, constants), constant(node, 2, constants), node.get("activation", None)
    assert weight is not None
    packed = PackedWeight("conv1d", weight[..., None], bias)

    def rows(x: Array) -> Array:
        """As pixels of one line."""
        return x.reshape(1, -1, x.shape[-1])

    def plan(x: Array) -> PlannedConv:
        return packed.plan(rows(x), True, lambda: {"activation": activation})

    @floating
    def run(x: Array, weight_: None, bias_: None = None, residual: Array | None = None) -> Array:
        if x.ndim < 1 or x.shape[-1] != weight.shape[1]:
            raise ValueError(f"its input must have shape (..., {weight.shape[1]}), got {x.shape}")
        y_shape = (*x.shape[:-1], weight.shape[0])
        if x.size and (residual is None or residual.shape == y_shape):
            return plan(x)(rows(x), residual=None if residual is None else rows(residual)).reshape(y_shape)
        y = x @ weight.T + (0 if bias is None else bias)
        return activate(y if residual is None else y + residual, activation)

    def how(x: Array, *others: Any) -> str:
        return describe(plan(x)) if x.size else "NumPy"

    return Kernel(run, how, bound=(1, 2))


@operator("MatMul")
def _matmul(node: Node, constants: Constants) -> Kernel:
    def run(a: Array, b: Array) -> Array:
        if a.dtype != b.dtype:
            raise TypeError(f"A and B must have one dtype, got {a.dtype} and {b.dtype}")
        y = _product(widened(a), widened(b))
        return narrowed(y, a.dtype) if is_float(a) else y

    return Kernel(run, lambda a, b: "direct" if _is_grouped(widened(a), widened(b)) else "BLAS")


def _is_grouped(a: Array, b: Array) -> bool:
    """Whether it is one product or a stack of them, each of two matrices of its own."""
    fits = a.ndim >= 2 and a.shape[:-2] == b.shape[:-2] and a.shape[-1:] == b.shape[-2:-1]
    return fits and a.dtype in DTYPES and a.size > 0 and b.size > 0


def _product(a: Array, b: Array) -> Array:
    """a @ b: the rows of each b are the channels of a group, its columns their pixels, and a is the weight."""
    if not _is_grouped(a, b):
        return np.asarray(np.matmul(a, b))
    rows, terms = a.shape[-2:]
    y = F.conv1d(b.reshape(1, -1, b.shape[-1]), a.reshape(-1, terms, 1), groups=a.size // (rows * terms))
    return y.reshape(*a.shape[:-1], b.shape[-1])


@operator("Gemm")
def _gemm(node: Node, constants: Constants) -> Kernel:
    alpha, beta = node.get("alpha", 1.0), node.get("beta", 1.0)

    def run(a: Array, b: Array, c: Array | None = None) -> Array:
        if a.ndim != 2 or b.ndim != 2:
            raise ValueError(f"A and B must be matrices, got shapes {a.shape} and {b.shape}")
        left, right = (widened(m).T if node.get(t, 0) else widened(m) for m, t in ((a, "transA"), (b, "transB")))
        if not is_float(a):
            y = np.asarray(alpha * (left @ right) + (0 if c is None else beta * c))
            return y.astype(a.dtype)
        y = left @ right
        if alpha != 1:
            y *= y.dtype.type(alpha)
        if c is not None:
            y += widened(c) if beta == 1 else y.dtype.type(beta) * widened(c)
        return narrowed(y, a.dtype)

    return Kernel(run, "BLAS")
