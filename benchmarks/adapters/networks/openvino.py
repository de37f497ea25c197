"""OpenVINO on the CPU in float32: the network's model, tuned for latency, x and y its arrays."""

from __future__ import annotations

from functools import partial

from fastconv.kernels.memory import empty

from ...layer import Array
from ...networks import Inference, built
from ...task import channels_last
from .. import Prepared
from ..openvino import bound
from .onnx_model import model


def prepare(inference: Inference, x: Array, data_format: str) -> Prepared:
    """Pictures in either layout."""
    last = "HW" if data_format == "channels_last" else None
    serialised = model(built(inference.network), inference.x_shape)
    y = empty(inference.y_shape, x.dtype)
    return Prepared(partial(bound, serialised, channels_last(x) if last else x, y, last), lambda y: (y,))
