"""Normalizations over a batch, over neighbouring channels, over the last axes of each sample."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fastconv import functional as F
from fastconv.backends.onnx.graph import Node, is_float
from fastconv.backends.onnx.kernels import Array, Constants, Kernel, floating, narrowed, operator, widened
from fastconv.backends.onnx.layout import as_first, as_lies, format_of, lies_last

BATCH = "batch norm"


def is_training(node: Node) -> bool:
    """Whether a BatchNormalization takes the statistics of its batch: since opset 14 an attribute says so, before that
    the outputs for them do.
    """
    if node.opset >= 14:
        return bool(node.get("training_mode", 0))
    return any(node.outputs[1:])


@operator("BatchNormalization")
def _batch_norm(node: Node, constants: Constants) -> Kernel:
    eps, momentum = node.get("epsilon", 1e-5), node.get("momentum", 0.9)

    def run(x: Array, scale: Array, shift: Array, mean: Array, var: Array) -> Any:
        if not is_float(x):
            raise TypeError(f"its dtype must be float16, bfloat16, float32 or float64, got {x.dtype}")
        dtype, x = x.dtype, widened(x)
        if not is_training(node):
            return narrowed(_normalized(x, scale, shift, mean, var, eps), dtype)
        axes = (0, *range(2, x.ndim))
        batch_mean, batch_var = (np.asarray(f(x, axis=axes, dtype=np.float64)) for f in (np.mean, np.var))
        y = narrowed(_normalized(x, scale, shift, batch_mean, batch_var, eps), dtype)
        running = ((old * momentum + new * (1 - momentum)) for old, new in ((mean, batch_mean), (var, batch_var)))
        means = tuple(np.asarray(value, mean.dtype) for value in running)
        if node.opset >= 14:
            return y, *means
        return y, *means, batch_mean.astype(mean.dtype), batch_var.astype(mean.dtype)

    return Kernel(run, BATCH)


def _normalized(x: Array, scale: Array, shift: Array, mean: Array, var: Array, eps: float) -> Array:
    """The parameters are one a channel, or, in the oldest opsets with spatial=0, one an element of a sample."""
    mean, var, scale, shift = (np.ascontiguousarray(widened(p), x.dtype) for p in (mean, var, scale, shift))
    parameters = (mean, var, scale, shift)
    if x.ndim >= 2 and all(p.shape == x.shape[1:2] for p in parameters):
        last = lies_last(x)
        y = F.batch_norm(as_lies(x, last), mean, var, scale, shift, eps=eps, data_format=format_of(last))
        return as_first(y, last)
    if any(p.shape != x.shape[1:] for p in parameters):
        raise ValueError(
            f"scale, B, mean and var must have shape {x.shape[1:2]}, the channels of x, got "
            f"{', '.join(str(p.shape) for p in (scale, shift, mean, var))}"
        )
    return (x - mean) / np.sqrt(var + x.dtype.type(eps)) * scale + shift


@operator("LRN")
def _lrn(node: Node, constants: Constants) -> Kernel:
    size = node.need("size")
    options = (size, node.get("alpha", 1e-4), node.get("beta", 0.75), node.get("bias", 1.0))

    @floating
    def run(x: Array) -> Array:
        last = lies_last(x)
        if size % 2:
            return as_first(F.local_response_norm(as_lies(x, last), *options, data_format=format_of(last)), last)
        # The larger half of an even window lies ahead in ONNX, behind in fastconv: so from the last channel on.
        return np.ascontiguousarray(F.local_response_norm(x[:, ::-1], *options)[:, ::-1])

    return Kernel(run, "response norm")


@operator("LayerNormalization")
def _layer_norm(node: Node, constants: Constants) -> Kernel:
    axis, eps, outputs = node.get("axis", -1), node.get("epsilon", 1e-5), max(1, len(node.outputs))

    @floating
    def run(x: Array, scale: Array | None = None, shift: Array | None = None) -> Any:
        axes = tuple(range(axis % x.ndim, x.ndim))
        shape = x.shape[axes[0] :]
        weight, bias = (
            None if p is None else np.broadcast_to(p, shape) for p in (scale, shift)
        )  # passes may take them
        y = F.layer_norm(x, shape, weight, bias, eps) if x.size else np.empty_like(x)
        if outputs == 1:
            return y
        mean, var = (np.asarray(f(x, axis=axes, keepdims=True)) for f in (np.mean, np.var))
        return (y, mean, np.asarray(1 / np.sqrt(var + x.dtype.type(eps))))[:outputs]

    return Kernel(run, "layer norm")


def _standard(x: Array, rows: tuple[int, ...], eps: float) -> Array:
    """x with mean 0 and variance 1 in each row, an element of its leading axes: channels of a batch of one image."""
    count = math.prod(rows)
    if x.size <= count:  # rows of one value
        return np.zeros(x.shape, x.dtype)
    return F.batch_norm(x.reshape(1, count, -1), None, None, training=True, eps=eps).reshape(x.shape)


@operator("InstanceNormalization")
def _instance_norm(node: Node, constants: Constants) -> Kernel:
    eps = node.get("epsilon", 1e-5)

    @floating
    def run(x: Array, scale: Array, shift: Array) -> Array:
        return _by_channel(_standard(x, x.shape[:2], eps), scale, shift)

    return Kernel(run, BATCH)


@operator("GroupNormalization")
def _group_norm(node: Node, constants: Constants) -> Kernel:
    groups, eps = node.need("num_groups"), node.get("epsilon", 1e-5)

    @floating
    def run(x: Array, scale: Array, shift: Array) -> Array:
        if x.shape[1] % groups:
            raise ValueError(f"attribute num_groups must divide the {x.shape[1]} channels of X, got {groups}")
        if node.opset < 21:  # one a group
            scale, shift = (np.repeat(p, x.shape[1] // groups) for p in (scale, shift))
        return _by_channel(_standard(x, (x.shape[0], groups), eps), scale, shift)

    return Kernel(run, BATCH)


def _by_channel(y: Array, scale: Array, shift: Array) -> Array:
    """scale * y + shift, written into y."""
    channels = (-1, *(1,) * (y.ndim - 2))
    y *= scale.reshape(channels)
    y += shift.reshape(channels)
    return y
