"""OpenVINO on the CPU in float32: the file, tuned for latency, x and y its arrays."""

from __future__ import annotations

from functools import partial

from fastconv.kernels.memory import empty

from ...dropins import Model
from ...layer import Array
from ...task import channels_first, channels_last
from .. import Prepared
from ..openvino import bound


def prepare(model: Model, x: Array, data_format: str) -> Prepared:
    """Pictures in either layout, and so is what it makes of them if it has pixels."""
    y = empty(model.facts.y_shape, x.dtype)
    if data_format == "channels_first":
        return Prepared(partial(bound, model.facts.path, x, y, None), lambda y: (y,))
    pixels = y.ndim == x.ndim
    build = partial(bound, model.facts.path, channels_last(x), channels_last(y) if pixels else y, "HW")
    return Prepared(build, lambda y: (channels_first(y) if pixels else y,))
