"""Four ways through 28x28 pictures of clothes, with the same four widths: 32, 64, 128 and 256 channels."""

from __future__ import annotations

from fastconv.layers import Sequential
from fastconv.models.kit import Kit


def fashion_7x7(kit: Kit, in_channels: int, num_classes: int) -> Sequential:
    """Large kernels and nothing else: each unpadded 7x7 convolution takes 6 pixels off, 28 -> 22 -> 16 -> 10 -> 4.

    2,150,410 parameters with 1 channel and 10 classes, of which three quarters are in the last convolution.
    """
    return Sequential(
        kit.conv(in_channels, 32, 7, activation="relu"),
        kit.conv(32, 64, 7, activation="relu"),
        kit.conv(64, 128, 7, activation="relu"),
        kit.conv(128, 256, 7, activation="relu"),
        kit.flatten(),
        kit.linear(256 * 4 * 4, num_classes),
    )


def fashion_maxpool(kit: Kit, in_channels: int, num_classes: int) -> Sequential:
    """3x3 convolutions with a max pool after each of the first three, 28 -> 14 -> 7 -> 3; 410,890 parameters."""
    return Sequential(
        kit.conv(in_channels, 32, 3, padding="same", activation="relu"),
        kit.max_pool(2),
        kit.conv(32, 64, 3, padding="same", activation="relu"),
        kit.max_pool(2),
        kit.conv(64, 128, 3, padding="same", activation="relu"),
        kit.max_pool(2),
        kit.conv(128, 256, 3, padding="same", activation="relu"),
        kit.flatten(),
        kit.linear(256 * 3 * 3, num_classes),
    )


def fashion_stride(kit: Kit, in_channels: int, num_classes: int) -> Sequential:
    """3x3 convolutions, the first three of stride 2 in place of pools, 28 -> 14 -> 7 -> 4; 428,810 parameters."""
    return Sequential(
        kit.conv(in_channels, 32, 3, stride=2, padding=1, activation="relu"),
        kit.conv(32, 64, 3, stride=2, padding=1, activation="relu"),
        kit.conv(64, 128, 3, stride=2, padding=1, activation="relu"),
        kit.conv(128, 256, 3, padding=1, activation="relu"),
        kit.flatten(),
        kit.linear(256 * 4 * 4, num_classes),
    )


def fashion_1x1(kit: Kit, in_channels: int, num_classes: int) -> Sequential:
    """As `fashion_maxpool`, with half the channels, by 1x1 convolutions, before every 3x3 one.

    A last 1x1 convolution scores the classes at every pixel and a global mean takes the place of the dense layer:
    207,738 parameters.

    Source: Lin, Chen, Yan, "Network In Network", 2014, sections 3.1 and 3.2.
    """
    return Sequential(
        kit.conv(in_channels, 32, 3, padding="same", activation="relu"),
        kit.max_pool(2),
        kit.conv(32, 16, 1, activation="relu"),
        kit.conv(16, 64, 3, padding="same", activation="relu"),
        kit.max_pool(2),
        kit.conv(64, 32, 1, activation="relu"),
        kit.conv(32, 128, 3, padding="same", activation="relu"),
        kit.max_pool(2),
        kit.conv(128, 64, 1, activation="relu"),
        kit.conv(64, 256, 3, padding="same", activation="relu"),
        kit.conv(256, num_classes, 1),
        kit.global_avg_pool(),
    )
