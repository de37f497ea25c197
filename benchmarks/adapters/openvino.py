"""OpenVINO on the CPU in float32: one request whose input and output are arrays, tuned for latency."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import openvino as ov

from fastconv.kernels.memory import empty

from ..layer import Array
from ..shapes import out_shape
from ..task import Operands, Task, channels_first, channels_last
from . import Prepared, Unsupported
from .models import model

SPATIAL = {1: "W", 2: "HW", 3: "DHW"}
_core = ov.Core()
_settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}


def start(threads: int) -> dict[str, str]:
    """Use so many threads."""
    _settings["INFERENCE_NUM_THREADS"] = threads
    return {"openvino": ov.__version__}


def prepare(task: Task, operands: Operands, data_format: str) -> Prepared:
    """Both layouts, forward, float32: it would compute float64 in single precision."""
    if task.dtype != "float32":
        raise Unsupported(task.dtype)
    layer, last = task.layer, data_format == "channels_last"
    serialised = model(task, operands)
    x, y = operands.x, empty(out_shape(layer), np.dtype(np.float32))
    if last:
        x, y = channels_last(x), channels_last(y)

    build = partial(bound, serialised, x, y, SPATIAL[layer.ndim] if last else None)
    return Prepared(build, lambda y: (channels_first(y) if last else y,))


def bound(model: bytes | str, x: Array, y: Array, last: str | None) -> Callable[[], Array]:
    """The call of a model x -> y, or of its file, on these very arrays; `last` names the spatial axes of those that
    have channels last."""
    graph = _core.read_model(model)
    if last:
        graph = _laid_out_last(graph, last)
    request = _core.compile_model(graph, "CPU", _settings).create_infer_request()
    request.set_input_tensor(ov.Tensor(x, shared_memory=True))
    request.set_output_tensor(ov.Tensor(y, shared_memory=True))

    def call() -> Array:
        request.infer(share_outputs=True)  # else it copies y
        return y

    return call


def _laid_out_last(graph: Any, spatial: str) -> Any:
    """The same model for x, and a y that has these axes, with channels last; convolutions take them as they are."""
    layouts = ov.preprocess.PrePostProcessor(graph)
    ends = [layouts.input()]
    if graph.output().partial_shape.rank == graph.input().partial_shape.rank:
        ends.append(layouts.output())
    for end in ends:
        end.tensor().set_layout(ov.Layout(f"N{spatial}C"))
        end.model().set_layout(ov.Layout(f"NC{spatial}"))
    return layouts.build()
