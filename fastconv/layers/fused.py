"""What fused networks are made of: fewer layers, each doing what several did, and no backward.

A layer says how it is fused by five methods, whose defaults in `Layer` leave it as it is:

    for_inference  which layers do the same in evaluation mode, one after the other
    followed_by    one layer that does what this one and the next one do
    as_affine      y = scale * x + shift, channel by channel: what a convolution takes into its weight and bias
    as_activation  the name of an activation that a convolution may end with
    with_residual  a layer that adds a residual before an activation
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NoReturn

from fastconv.layers.base import Array, Layer


def chain(layers: Iterable[Layer]) -> list[Layer]:
    """What does the same as these layers one after the other, each joined with the one before where that can be."""
    fused: list[Layer] = []
    for layer in layers:
        for stage in layer.for_inference():
            joined = fused[-1].followed_by(stage) if fused else None
            if joined is None:
                fused.append(stage)
            else:
                fused[-1] = joined
    return fused


def residual_sum(body: Iterable[Layer], shortcut: Iterable[Layer], activation: str | None) -> FusedSum | None:
    """The layer activation(body(x) + shortcut(x)), or None unless the body ends with one that adds a residual."""
    stages = chain(body)
    last = stages[-1].with_residual(activation) if stages else None
    return None if last is None else FusedSum(Fused(stages[:-1]), last, Fused(chain(shortcut)))


class InferenceLayer(Layer):
    """What takes a layer's place in a fused network."""

    def backward(self, *grad_y: Any, **options: Any) -> NoReturn:
        self._refuse()

    def _enter(self, training: bool, pack: bool) -> None:
        if training:
            self._refuse()
        super()._enter(training, pack)

    def _refuse(self) -> NoReturn:
        raise RuntimeError("a fused network is for inference alone: train the network that it was made of")


class Fused(InferenceLayer):
    """Layers one after the other, under the keys "0", "1", ...; the first may have several inputs."""

    def __init__(self, layers: Iterable[Layer]) -> None:
        for number, layer in enumerate(layers):
            self.add_layer(str(number), layer)

    def forward(self, *inputs: Any, **options: Any) -> Any:
        for layer in self._layers.values():
            inputs, options = (layer(*inputs, **options),), {}
        (y,) = inputs
        return y

    def __iter__(self) -> Iterator[Layer]:
        return iter(self._layers.values())


class FusedSum(InferenceLayer):
    """y = last(body(x), residual=shortcut(x))."""

    body: Fused
    last: Layer

    def __init__(self, body: Fused, last: Layer, shortcut: Layer) -> None:
        self.body, self.last, self.shortcut = body, last, shortcut

    def forward(self, x: Array) -> Array:
        residual = self.shortcut(x)
        return self.last(self.body(x), residual=residual)

    def followed_by(self, layer: Layer) -> Layer | None:
        activation = layer.as_activation()
        last = None if activation is None else self.last.with_residual(activation)
        return None if last is None else FusedSum(self.body, last, self.shortcut)
