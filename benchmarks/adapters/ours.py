"""fastconv itself: the functional API, and a plan with packed weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import fastconv
from benchmarks.layer import Array, Layer, padding_argument, plain
from benchmarks.shapes import geometry_of
from fastconv.geometry import ConvGeometry
from fastconv.planner import ConvPlan

Call = Callable[[], Array]


def start(threads: int) -> dict[str, str]:
    """Use so many threads; FASTCONV_ISA has been read."""
    fastconv.set_num_threads(threads)
    return {"fastconv": fastconv.__version__, "numpy": np.__version__, **fastconv.runtime.info()}


def supports(layer: Layer, data_format: str) -> bool:
    """Every operator in either layout."""
    return True


def prepare(
    layer: Layer, arrays: tuple[Any, Any, Any], data_format: str, kind: str
) -> tuple[Call, Callable[[Array], Array]]:
    """The call that is timed, and how to read its result."""
    x, weight, bias = arrays
    if data_format == "channels_last":
        x = np.ascontiguousarray(np.moveaxis(x, 1, -1))
    call = functional(layer, x, weight, bias, data_format)
    if kind == "layer" and not layer.pools:
        call = packed(layer, x, weight, bias, data_format)
    return call, lambda y: np.moveaxis(y, -1, 1) if data_format == "channels_last" else y


def functional(layer: Layer, x: Array, weight: Any, bias: Any, data_format: str) -> Call:
    """As a user of fastconv.functional writes it."""
    operator = getattr(fastconv, f"{layer.operator}{layer.ndim}d")
    stride, padding, dilation = plain(layer.stride), padding_argument(layer), plain(layer.dilation)
    groups, extra = layer.groups, plain(layer.output_padding)
    if layer.operator == "max_pool":
        kernel, ceil = plain(layer.kernel), layer.ceil_mode
        return lambda: operator(x, kernel, stride, padding, dilation, ceil, data_format=data_format)
    if layer.operator == "avg_pool":
        kernel = plain(layer.kernel)
        return lambda: operator(x, kernel, stride, padding, layer.ceil_mode, data_format=data_format)
    if layer.operator == "conv":
        return lambda: operator(x, weight, bias, stride, padding, dilation, groups, data_format=data_format)
    return lambda: operator(x, weight, bias, stride, padding, extra, groups, dilation, data_format=data_format)


def packed(layer: Layer, x: Array, weight: Any, bias: Any, data_format: str) -> Call:
    """A plan whose output is there already and whose weights are packed ahead, where the kernel reads packed ones."""
    geometry = geometry_of(layer, data_format)
    assert isinstance(geometry, ConvGeometry)
    plan = ConvPlan(geometry, x.dtype)
    transposed = layer.operator == "conv_transpose"
    run, shape = (plan.prepared_backward_input, plan.x_shape) if transposed else (plan.prepared_forward, plan.y_shape)
    y = np.empty(shape, x.dtype)
    ready = {"packed": run.pack(weight)} if hasattr(run, "pack") else {}

    def call() -> Array:
        run(x, weight, bias, y, **ready)
        return y

    return call
