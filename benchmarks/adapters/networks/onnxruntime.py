"""ONNX Runtime on the CPU: the network's model, all graph optimisations, x and y bound to arrays."""

from __future__ import annotations

from functools import partial

from fastconv.kernels.memory import empty

from ...layer import Array
from ...networks import Inference, built
from .. import Prepared
from ..onnxruntime import bound
from .onnx_model import model


def prepare(inference: Inference, x: Array, data_format: str) -> Prepared:
    """Channels first."""
    serialised = model(built(inference.network), inference.x_shape)
    return Prepared(partial(bound, serialised, x, empty(inference.y_shape, x.dtype)), lambda y: (y,))
