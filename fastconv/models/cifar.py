"""Two networks for 32x32 colour pictures, that differ in how they halve the picture."""

from __future__ import annotations

from fastconv.layers import Layer, Sequential
from fastconv.models.kit import Kit

_WIDTHS = (32, 64, 128)


def cifar_maxpool(kit: Kit, in_channels: int, num_classes: int) -> Sequential:
    """Three times two 3x3 convolutions and a max pool, 32 -> 16 -> 8 -> 4; 307,498 parameters.

    Source: the pattern of Simonyan, Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition",
    2015, section 2.1.
    """
    stages: list[Layer] = []
    for width in _WIDTHS:
        stages += [
            kit.conv(in_channels, width, 3, padding="same", activation="relu"),
            kit.conv(width, width, 3, padding="same", activation="relu"),
            kit.max_pool(2),
        ]
        in_channels = width
    return Sequential(*stages, kit.flatten(), kit.dropout(0.5), kit.linear(in_channels * 4 * 4, num_classes))


def cifar_stride(kit: Kit, in_channels: int, num_classes: int) -> Sequential:
    """As `cifar_maxpool`, with the second convolution of each stage at stride 2 in place of the pool.

    Source: Springenberg et al., "Striving for Simplicity: The All Convolutional Net", 2015, section 2.
    """
    stages: list[Layer] = []
    for width in _WIDTHS:
        stages += [
            kit.conv(in_channels, width, 3, padding=1, activation="relu"),
            kit.conv(width, width, 3, stride=2, padding=1, activation="relu"),
        ]
        in_channels = width
    return Sequential(*stages, kit.flatten(), kit.dropout(0.5), kit.linear(in_channels * 4 * 4, num_classes))
