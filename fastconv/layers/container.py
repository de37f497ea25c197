"""Layers made of layers: one after the other, around a shortcut, and side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from fastconv import functional as F
from fastconv.geometry import is_channels_last
from fastconv.layers.activation import activation_backward, check_activation
from fastconv.layers.base import Array, Layer
from fastconv.layers.fused import Fused, chain, residual_sum
from fastconv.layers.shape import Identity


class Sequential(Layer):
    """One layer after the other: Sequential(a, b) is y = b(a(x)).

    The layers' keys are "0", "1", ..., or, if they are given as a dictionary, their names there. They can be counted,
    iterated over and indexed; a slice is a Sequential of the same layers under the same keys.
    """

    def __init__(self, *layers: Layer | Mapping[str, Layer]) -> None:
        for name, layer in _named(layers):
            self.add_layer(name, layer)

    def forward(self, x: Array) -> Array:
        for layer in self._layers.values():
            x = layer(x)
        return x

    def backward(self, grad_y: Array) -> Array:
        for layer in reversed(self._layers.values()):
            grad_y = layer.backward(grad_y)
        return grad_y

    def backward_parameters(self, grad_y: Array) -> None:
        if self._layers:
            first, *others = self._layers.values()
            for layer in reversed(others):
                grad_y = layer.backward(grad_y)
            first.backward_parameters(grad_y)

    def for_inference(self) -> list[Layer]:
        return chain(self)

    def append(self, layer: Layer) -> Sequential:
        """Add a layer at the end, under the next number, and return self."""
        self.add_layer(str(len(self)), layer)
        return self

    def __len__(self) -> int:
        return len(self._layers)

    def __iter__(self) -> Iterator[Layer]:
        return iter(self._layers.values())

    def __getitem__(self, index: int | slice) -> Layer:
        if isinstance(index, slice):
            return Sequential(dict(list(self._layers.items())[index]))
        return list(self._layers.values())[index]


class Residual(Layer):
    """y = activation(body(x) + shortcut(x)).

    Parameters
    ----------
    body, shortcut
        Layers whose outputs have one shape; the shortcut is the identity by default.
    activation
        None (default), "relu", "relu6", "leaky_relu", "elu", "sigmoid" or "tanh".

    Source: He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", 2016, section 3.1.
    """

    def __init__(self, body: Layer, shortcut: Layer | None = None, activation: str | None = None) -> None:
        check_activation(activation)
        self.body = body
        self.shortcut = Identity() if shortcut is None else shortcut
        self.activation = activation

    def forward(self, x: Array) -> Array:
        # Not added in place: both terms may have been saved by the layers that made them.
        y = F.add(self.body(x), self.shortcut(x), activation=self.activation)
        self.save(y if self.activation else None)
        return y

    def backward(self, grad_y: Array) -> Array:
        (y,) = self.restore()
        grad_y = activation_backward(grad_y, y, self.activation)
        # In the reverse order of forward, for the sake of a layer that is part of both.
        grad_shortcut = self.shortcut.backward(grad_y)
        return F.add(self.body.backward(grad_y), grad_shortcut)

    def for_inference(self) -> list[Layer]:
        fused = residual_sum([self.body], [self.shortcut], self.activation)
        if fused is not None:
            return [fused]
        return [Residual(Fused(chain([self.body])), Fused(chain([self.shortcut])), self.activation)]

    def extra_repr(self) -> str:
        return f"activation={self.activation}" if self.activation else ""


class Parallel(Layer):
    """Branches side by side, y = their outputs joined along the channels.

    x (N, C, *L) -> y (N, sum of the branches' channels, *L'); keys as for `Sequential`. data_format says which axis the
    channels are on.

    Source: Szegedy et al., "Going Deeper with Convolutions", 2015, section 4.
    """

    def __init__(self, *branches: Layer | Mapping[str, Layer], data_format: str = "channels_first") -> None:
        self.axis = -1 if is_channels_last(data_format) else 1
        for name, branch in _named(branches):
            self.add_layer(name, branch)
        if not self._layers:
            raise ValueError("branches must be at least one layer, got none")

    def forward(self, x: Array) -> Array:
        outputs = [branch(x) for branch in self._layers.values()]
        try:
            y = F.concatenate(outputs, self.axis)
        except ValueError:
            shapes = ", ".join(f"{name}: {y.shape}" for name, y in zip(self._layers, outputs, strict=True))
            raise ValueError(f"branches must give outputs that differ in channels alone, got {shapes}") from None
        self.save([y.shape[self.axis] for y in outputs])
        return y

    def backward(self, grad_y: Array) -> Array:
        (sizes,) = self.restore()
        parts = F.split(grad_y, sizes, self.axis)
        pairs = list(zip(self._layers.values(), parts, strict=True))
        # In the reverse order of forward, for the sake of a layer that is part of two branches.
        grad_x, *others = [branch.backward(part) for branch, part in reversed(pairs)]
        for other in others:
            grad_x = F.add(grad_x, other)
        return grad_x

    def for_inference(self) -> list[Layer]:
        branches = {name: Fused(chain([branch])) for name, branch in self._layers.items()}
        return [Parallel(branches, data_format="channels_last" if self.axis == -1 else "channels_first")]


def _named(layers: tuple[Layer | Mapping[str, Layer], ...]) -> Iterator[tuple[str, Layer]]:
    if len(layers) == 1 and isinstance(layers[0], Mapping):
        yield from layers[0].items()
    else:
        for number, layer in enumerate(layers):
            if not isinstance(layer, Layer):
                raise TypeError(f"layers must be layers, or one dictionary of them, got {type(layer).__name__}")
            yield str(number), layer
