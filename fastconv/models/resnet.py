"""ResNet-18 and ResNet-50."""

from __future__ import annotations

from collections.abc import Callable

from fastconv import functional as F
from fastconv.layers import Conv2d, Layer, Sequential
from fastconv.layers.base import Array
from fastconv.layers.fused import residual_sum
from fastconv.models.kit import Kit


def resnet18(kit: Kit, in_channels: int, num_classes: int) -> Sequential:
    """ResNet-18 under torchvision's keys, for x (N, 3, 224, 224); 11,689,512 parameters.

    Source: He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", 2016, table 1.
    """
    return residual_network(kit, in_channels, num_classes, basic, (2, 2, 2, 2), expansion=1)


def resnet50(kit: Kit, in_channels: int, num_classes: int) -> Sequential:
    """ResNet-50 under torchvision's keys, for x (N, 3, 224, 224); 25,557,032 parameters; source as `resnet18`.

    As in torchvision the stride is that of a block's 3x3 convolution, not of the 1x1 before it.
    """
    return residual_network(kit, in_channels, num_classes, bottleneck, (3, 4, 6, 3), expansion=4)


class Block(Layer):
    """y = relu(bn(conv(... relu(bn(conv(x))))) + downsample(x)), x (N, C, H, W) -> y (N, C', H', W').

    Keys: conv1, bn1, conv2, bn2, ... and downsample.0, downsample.1 (a 1x1 convolution and its normalization) if there
    is one; without it the shortcut is x itself.
    """

    def __init__(self, kit: Kit, convolutions: list[Conv2d], downsample: Sequential | None) -> None:
        self.downsample = downsample
        self._body: list[Layer] = []
        for number, convolution in enumerate(convolutions, start=1):
            # The last activation comes after the sum.
            activation = "relu" if number < len(convolutions) else None
            normalization = kit.batch_norm(convolution.out_channels, activation=activation)
            self.add_layer(f"conv{number}", convolution)
            self.add_layer(f"bn{number}", normalization)
            self._body += [convolution, normalization]

    def forward(self, x: Array) -> Array:
        y, (*body, last) = x, self._body
        for layer in body:
            y = layer(y)
        residual = x if self.downsample is None else self.downsample(x)
        return last(y, residual=residual, activation="relu")

    def backward(self, grad_y: Array) -> Array:
        *body, last = self._body
        grad_y, grad_residual = last.backward(grad_y)
        grad_shortcut = grad_residual if self.downsample is None else self.downsample.backward(grad_residual)
        for layer in reversed(body):
            grad_y = layer.backward(grad_y)
        return F.add(grad_y, grad_shortcut)

    def for_inference(self) -> list[Layer]:
        fused = residual_sum(self._body, [] if self.downsample is None else [self.downsample], "relu")
        return super().for_inference() if fused is None else [fused]


def basic(kit: Kit, in_channels: int, width: int, stride: int) -> list[Conv2d]:
    """Two 3x3 convolutions, x (N, C, H, W) -> (N, width, H / stride, W / stride)."""
    return [
        kit.conv(in_channels, width, 3, stride=stride, padding=1, bias=False),
        kit.conv(width, width, 3, padding=1, bias=False),
    ]


def bottleneck(kit: Kit, in_channels: int, width: int, stride: int) -> list[Conv2d]:
    """1x1 to fewer channels, 3x3, 1x1 to more, x (N, C, H, W) -> (N, 4 * width, H / stride, W / stride)."""
    return [
        kit.conv(in_channels, width, 1, bias=False),
        kit.conv(width, width, 3, stride=stride, padding=1, bias=False),
        kit.conv(width, 4 * width, 1, bias=False),
    ]


def residual_network(
    kit: Kit,
    in_channels: int,
    num_classes: int,
    convolutions: Callable[[Kit, int, int, int], list[Conv2d]],
    depths: tuple[int, ...],
    expansion: int,
) -> Sequential:
    """A stem, then stages of `depths` blocks each, every stage but the first halving the picture, and a dense layer.

    `convolutions` makes those of one block, whose output has `expansion` times the stage's width of 64, 128, 256, 512.
    """
    network: dict[str, Layer] = {
        "conv1": kit.conv(in_channels, 64, 7, stride=2, padding=3, bias=False),
        "bn1": kit.batch_norm(64, activation="relu"),
        "maxpool": kit.max_pool(3, stride=2, padding=1),
    }
    channels = 64
    for stage, depth in enumerate(depths, start=1):
        width, blocks = 32 * 2**stage, []
        for number in range(depth):
            stride = 2 if number == 0 and stage > 1 else 1
            downsample = None
            if stride != 1 or channels != expansion * width:
                shortcut = kit.conv(channels, expansion * width, 1, stride=stride, bias=False)
                downsample = Sequential(shortcut, kit.batch_norm(expansion * width))
            blocks.append(Block(kit, convolutions(kit, channels, width, stride), downsample))
            channels = expansion * width
        network[f"layer{stage}"] = Sequential(*blocks)
    return Sequential(network | {"avgpool": kit.global_avg_pool(), "fc": kit.linear(channels, num_classes)})
