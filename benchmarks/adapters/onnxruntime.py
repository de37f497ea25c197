"""ONNX Runtime on the CPU: a model of one node, all graph optimisations, its input and output bound to arrays."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import onnxruntime as ort

from fastconv.kernels.memory import empty

from ..layer import Array
from ..shapes import out_shape
from ..task import Operands, Task
from . import Prepared, Unsupported
from .models import model

_options = ort.SessionOptions()


def start(threads: int) -> dict[str, str]:
    """Use so many threads; they spin between calls, as they do by default."""
    _options.intra_op_num_threads = threads
    _options.inter_op_num_threads = 1
    _options.log_severity_level = 3
    return {"onnxruntime": ort.__version__}


def prepare(task: Task, operands: Operands, data_format: str) -> Prepared:
    """Channels first, forward; which dtypes an operator has is known when the session is made."""
    x, serialised = operands.x, model(task, operands)
    y = empty(out_shape(task.layer), x.dtype)

    return Prepared(partial(bound, serialised, x, y), lambda y: (y,))


def bound(model: bytes | str, x: Array, y: Array) -> Callable[[], Array]:
    """The call of a model x -> y, or of its file, on these very arrays."""
    try:
        session = ort.InferenceSession(model, _options, providers=["CPUExecutionProvider"])
    except ort.capi.onnxruntime_pybind11_state.NotImplemented as error:
        raise Unsupported(str(error)) from None
    binding = session.io_binding()
    binding.bind_input("x", "cpu", 0, x.dtype, x.shape, x.ctypes.data)
    binding.bind_output("y", "cpu", 0, y.dtype, y.shape, y.ctypes.data)

    def call() -> Array:
        session.run_with_iobinding(binding)
        return y

    return call
