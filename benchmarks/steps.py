"""A network of fastconv's layers as a list of steps, from which each peer's form of it is made."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from fastconv.geometry import as_padding, as_tuple, conv_output_size, conv_transpose_output_size, pool_output_size
from fastconv.layers import (
    AdaptiveAvgPool2d,
    AvgPool2d,
    BatchNorm2d,
    Conv2d,
    ConvTranspose2d,
    Dropout,
    Flatten,
    GlobalAvgPool,
    Identity,
    Layer,
    Linear,
    MaxPool2d,
    Parallel,
    ReLU,
    ReLU6,
    Residual,
    Sequential,
)
from fastconv.models.mobilenet import InvertedResidual
from fastconv.models.resnet import Block
from fastconv.models.unet import UNet

from .layer import Size


class Step(NamedTuple):
    """What computes one value from values before it: x is number 0, the result of step i number i + 1."""

    operator: Layer | str
    """A layer of one operator, whose activation is a step of its own, or "add", "concatenate" or an activation."""
    inputs: tuple[int, ...]


def steps(network: Layer, size: Size) -> list[Step]:
    """What a channels_first network does in evaluation mode to pictures of this size; the last step gives y.

    Layers: Sequential, Residual, Parallel and the blocks of `fastconv.models`; of one operator Conv2d, ConvTranspose2d,
    BatchNorm2d, Linear, ReLU, ReLU6, MaxPool2d, AvgPool2d, AdaptiveAvgPool2d, GlobalAvgPool and Flatten. Dropout and
    Identity take none.

    Raises
    ------
    TypeError
        If it has other layers.
    ValueError
        If windows of an AdaptiveAvgPool2d differ in size.
    """
    walk = _Walk(size)
    walk.through(network, 0)
    return walk.steps


class _Walk:
    """The steps so far, and the spatial size of every value, () where it has none."""

    def __init__(self, size: Size) -> None:
        self.steps: list[Step] = []
        self._sizes = [size]

    def through(self, layer: Layer, x: int) -> int:
        """The number of what a layer makes of value number x."""
        match layer:
            case Sequential():
                return self._chain(layer, x)
            case Residual():
                return self._activate(layer.activation, self._sum(layer.body, layer.shortcut, x))
            case Block():
                shortcut = Identity() if layer.downsample is None else layer.downsample
                return self._activate("relu", self._sum(Sequential(*layer._body), shortcut, x))
            case InvertedResidual():
                return self._sum(layer.conv, Identity(), x) if layer.shortcut else self.through(layer.conv, x)
            case UNet():
                return self.through(layer.nested(), x)
            case Parallel():
                return self._step("concatenate", *(self.through(branch, x) for branch in layer._layers.values()))
            case Dropout() | Identity():
                return x
            case ReLU() | ReLU6():
                return self._activate("relu" if isinstance(layer, ReLU) else "relu6", x)
            case Conv2d() | ConvTranspose2d() | Linear() | BatchNorm2d():
                return self._activate(layer.activation, self._step(layer, x))
            case AdaptiveAvgPool2d():
                return self._average(layer, x)
            case MaxPool2d() | AvgPool2d() | GlobalAvgPool() | Flatten():
                return self._step(layer, x)
        raise TypeError(f"network must consist of layers that peers have, got {type(layer).__name__}")

    def _chain(self, layers: Iterable[Layer], x: int) -> int:
        for layer in layers:
            x = self.through(layer, x)
        return x

    def _sum(self, body: Layer, shortcut: Layer, x: int) -> int:
        return self._step("add", self.through(body, x), self.through(shortcut, x))

    def _activate(self, activation: str | None, x: int) -> int:
        return x if activation is None else self._step(activation, x)

    def _average(self, layer: AdaptiveAvgPool2d, x: int) -> int:
        """As a plain pool, of which a window of one element is none."""
        size = self._sizes[x]
        wanted = as_tuple(layer._options["output_size"], len(size), "output_size")
        if any(inner % outer for inner, outer in zip(size, wanted, strict=True)):
            raise ValueError(f"output_size must divide the size of its input, {size}, got output_size={wanted}")
        kernel = tuple(inner // outer for inner, outer in zip(size, wanted, strict=True))
        return x if {*kernel} == {1} else self._step(AvgPool2d(kernel), x)

    def _step(self, operator: Layer | str, *inputs: int) -> int:
        self.steps.append(Step(operator, inputs))
        self._sizes.append(_size_after(operator, self._sizes[inputs[0]]))
        return len(self.steps)


class Window(NamedTuple):
    """Of a convolution or pool."""

    kernel: Size
    stride: Size
    padding: tuple[tuple[int, int], ...]
    dilation: Size
    ceil_mode: bool = False


def window(layer: Layer) -> Window:
    """The window of a Conv2d, ConvTranspose2d, MaxPool2d or AvgPool2d."""
    if isinstance(layer, Conv2d | ConvTranspose2d):
        return Window(layer.kernel_size, layer.stride, layer.padding, layer.dilation)
    assert isinstance(layer, MaxPool2d | AvgPool2d)
    options: dict[str, Any] = {"dilation": 1} | layer._options
    kernel, stride, dilation = (as_tuple(options[name], 2, name) for name in ("kernel_size", "stride", "dilation"))
    return Window(kernel, stride, as_padding(options["padding"], kernel, stride, dilation), dilation,
                  options["ceil_mode"])  # fmt: skip


def _size_after(operator: Layer | str, size: Size) -> Size:
    match operator:
        case Conv2d():
            after = conv_output_size(size, *window(operator)[:4])
        case ConvTranspose2d():
            kernel, stride, padding, dilation, _ = window(operator)
            after = conv_transpose_output_size(size, kernel, stride, padding, operator.output_padding, dilation)
        case MaxPool2d() | AvgPool2d():
            after = pool_output_size(size, *window(operator))
        case GlobalAvgPool() | Flatten() | Linear():
            return ()
        case _:
            return size
    assert isinstance(after, tuple)
    return after
