"""fastconv itself: a network of `fastconv.models`, its layers fused."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from fastconv import layers
from fastconv.layers import Layer

from ...layer import Array
from ...networks import Inference, built
from ...task import channels_last
from .. import Prepared


def prepare(inference: Inference, x: Array, data_format: str) -> Prepared:
    """Either layout, natively."""
    x = channels_last(x) if data_format == "channels_last" else x
    return Prepared(partial(_ready, built(inference.network, data_format), x), lambda y: (y,))


def _ready(network: Layer, x: Array) -> Callable[[], Array]:
    fused = layers.fuse(network)
    return lambda: fused(x)
