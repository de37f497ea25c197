"""MobileNetV2."""

from __future__ import annotations

from typing import Any

from fastconv import functional as F
from fastconv.layers import Layer, Sequential
from fastconv.layers.base import Array
from fastconv.layers.fused import chain, residual_sum
from fastconv.models.kit import Kit

# Table 2: expansion, output channels, blocks of a stage and the stride of its first one.
_STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


def mobilenet_v2(kit: Kit, in_channels: int, num_classes: int) -> Sequential:
    """MobileNetV2 of width 1 under torchvision's keys, for x (N, 3, 224, 224); 3,504,872 parameters.

    Source: Sandler, Howard, Zhu, Zhmoginov, Chen, "MobileNetV2: Inverted Residuals and Linear Bottlenecks", 2018,
    table 2.
    """
    features: list[Layer] = [_conv(kit, in_channels, 32, 3, stride=2, padding=1)]
    channels = 32
    for expansion, width, depth, stride in _STAGES:
        for number in range(depth):
            features.append(InvertedResidual(kit, channels, width, stride if number == 0 else 1, expansion))
            channels = width
    features.append(_conv(kit, channels, 1280, 1))
    return Sequential(
        {
            "features": Sequential(*features),
            "avgpool": kit.global_avg_pool(),
            "classifier": Sequential(kit.dropout(0.2), kit.linear(1280, num_classes)),
        }
    )


class InvertedResidual(Layer):
    """1x1 to `expansion` times the channels, 3x3 depthwise, 1x1 to fewer; plus x where y has its shape.

    x (N, C, H, W) -> y (N, C', H / stride, W / stride). Each convolution is normalized, and all but the last, the
    linear bottleneck, are followed by ReLU6. Without expansion the first one is left out.

    Source: Sandler et al., 2018, section 3.3.
    """

    def __init__(self, kit: Kit, in_channels: int, out_channels: int, stride: int, expansion: int) -> None:
        wide = expansion * in_channels
        body: list[Layer] = [] if expansion == 1 else [_conv(kit, in_channels, wide, 1)]
        body += [
            _conv(kit, wide, wide, 3, stride=stride, padding=1, groups=wide),
            kit.conv(wide, out_channels, 1, bias=False),
            kit.batch_norm(out_channels),
        ]
        self.conv = Sequential(*body)
        self.shortcut = stride == 1 and in_channels == out_channels

    def forward(self, x: Array) -> Array:
        y, (*body, last) = x, self.conv
        for layer in body:
            y = layer(y)
        return last(y, residual=x if self.shortcut else None)

    def backward(self, grad_y: Array) -> Array:
        if not self.shortcut:
            return self.conv.backward(grad_y)
        *body, last = self.conv
        grad_x, grad_residual = last.backward(grad_y)
        for layer in reversed(body):
            grad_x = layer.backward(grad_x)
        return F.add(grad_x, grad_residual)

    def for_inference(self) -> list[Layer]:
        if not self.shortcut:
            return chain([self.conv])
        fused = residual_sum([self.conv], [], None)
        return super().for_inference() if fused is None else [fused]


def _conv(kit: Kit, in_channels: int, out_channels: int, kernel_size: int, **options: Any) -> Sequential:
    convolution = kit.conv(in_channels, out_channels, kernel_size, bias=False, **options)
    return Sequential(convolution, kit.batch_norm(out_channels, activation="relu6"))
