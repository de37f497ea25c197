"""fastconv itself: a network of `fastconv.models`, its layers fused, or in training."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from fastconv import functional as ff
from fastconv import layers
from fastconv.layers import Dropout, Layer
from fastconv.optim import SGD

from ...layer import Array
from ...networks import Inference, Training, built
from ...task import channels_last
from .. import Prepared


def prepare(inference: Inference, x: Array, data_format: str) -> Prepared:
    """Either layout, natively."""
    last = data_format == "channels_last"
    x = channels_last(x) if last else x
    if isinstance(inference, Training):
        step = trained(built(inference.network, data_format), x, inference, last)
        return Prepared(lambda: step, lambda loss: (np.array([loss]),))
    return Prepared(partial(_ready, built(inference.network, data_format), x), lambda y: (y,))


def trained(network: Layer, x: Array, training: Training, last: bool) -> Callable[[], float]:
    """A step, which returns the loss before it; with channels last, pixels' logits are rows like pictures'."""
    network.train()
    for _, layer in network.named_layers():
        if isinstance(layer, Dropout):
            layer.p = 0.0
    optimizer = SGD(network.parameters(), training.lr, training.momentum, weight_decay=training.weight_decay)
    labels = training.labels.reshape(-1) if last else training.labels

    def step() -> float:
        network.zero_grad()
        y = network(x)
        logits = y.reshape(-1, y.shape[-1]) if last else y
        loss = ff.cross_entropy(logits, labels)
        network.backward_parameters(ff.cross_entropy_backward(logits, labels).reshape(y.shape))
        optimizer.step(network.gradients())
        return float(loss)

    return step


def _ready(network: Layer, x: Array) -> Callable[[], Array]:
    fused = layers.fuse(network)
    return lambda: fused(x)
