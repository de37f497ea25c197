"""ONNX models on fastconv's kernels: a session in ONNX Runtime's spelling and the `onnx.backend` interface.

    session.py     Session: run a model file, or profile it
    backend.py     Backend: prepare, run_model, run_node, supports_device, as `onnx.backend.base` has them
    model.py       files, bytes and protos -> graphs
    graph.py       what passes work on: nodes, constants, who uses what
    passes.py      constants folded, nodes that do nothing left out, convolutions fused with what follows
    program.py     nodes in order, each value freed after its last use
    kernels.py     what runs a node, and the table of operators
    layout.py      where channels lie in memory: kernels take values as they lie
    windows.py     ONNX's windows: pads a side, auto_pad, ceil_mode, dilations
    convolutions.py, pools.py, linear.py, normalizations.py, pointwise.py, shapes.py, resize.py
                   the operators, a family each
    fallback.py    every other operator, by onnx's reference evaluator
    command.py     `python -m fastconv run`

Operators follow the specification of the opset that the model names; float16 and bfloat16 are computed in float32 and
rounded once an operator.
"""

from fastconv.backends.errors import ModelError
from fastconv.extras import require

require("onnx", extra="onnx")

from fastconv.backends.onnx.backend import (  # noqa: E402
    Backend,
    PreparedModel,
    is_compatible,
    prepare,
    run_model,
    run_node,
    supports_device,
)
from fastconv.backends.onnx.session import Profile, Session, Timing, Value  # noqa: E402

__all__ = [
    "Backend",
    "ModelError",
    "PreparedModel",
    "Profile",
    "Session",
    "Timing",
    "Value",
    "is_compatible",
    "prepare",
    "run_model",
    "run_node",
    "supports_device",
]
