"""GoogLeNet, of modules with four branches side by side."""

from __future__ import annotations

from typing import Any

from fastconv.layers import Parallel, Sequential
from fastconv.models.kit import Kit


def googlenet(kit: Kit, in_channels: int, num_classes: int) -> Sequential:
    """GoogLeNet as torchvision has it, under its keys, for x (N, 3, 224, 224); 6,624,904 parameters.

    That is the paper's network with batch normalization, with 3x3 kernels in the branch that the paper gives 5x5, and
    without the two auxiliary classifiers.

    Source: Szegedy et al., "Going Deeper with Convolutions", 2015, table 1.
    """
    return Sequential(
        {
            "conv1": _conv(kit, in_channels, 64, 7, stride=2, padding=3),
            "maxpool1": kit.max_pool(3, stride=2, ceil_mode=True),
            "conv2": _conv(kit, 64, 64, 1),
            "conv3": _conv(kit, 64, 192, 3, padding=1),
            "maxpool2": kit.max_pool(3, stride=2, ceil_mode=True),
            "inception3a": _inception(kit, 192, 64, (96, 128), (16, 32), 32),
            "inception3b": _inception(kit, 256, 128, (128, 192), (32, 96), 64),
            "maxpool3": kit.max_pool(3, stride=2, ceil_mode=True),
            "inception4a": _inception(kit, 480, 192, (96, 208), (16, 48), 64),
            "inception4b": _inception(kit, 512, 160, (112, 224), (24, 64), 64),
            "inception4c": _inception(kit, 512, 128, (128, 256), (24, 64), 64),
            "inception4d": _inception(kit, 512, 112, (144, 288), (32, 64), 64),
            "inception4e": _inception(kit, 528, 256, (160, 320), (32, 128), 128),
            "maxpool4": kit.max_pool(2, stride=2, ceil_mode=True),
            "inception5a": _inception(kit, 832, 256, (160, 320), (32, 128), 128),
            "inception5b": _inception(kit, 832, 384, (192, 384), (48, 128), 128),
            "avgpool": kit.global_avg_pool(),
            "dropout": kit.dropout(0.2),
            "fc": kit.linear(1024, num_classes),
        }
    )


def _inception(
    kit: Kit, channels: int, single: int, wide: tuple[int, int], wider: tuple[int, int], pooled: int
) -> Parallel:
    return kit.parallel(
        {
            "branch1": _conv(kit, channels, single, 1),
            "branch2": Sequential(_conv(kit, channels, wide[0], 1), _conv(kit, *wide, 3, padding=1)),
            "branch3": Sequential(_conv(kit, channels, wider[0], 1), _conv(kit, *wider, 3, padding=1)),
            "branch4": Sequential(
                kit.max_pool(3, stride=1, padding=1, ceil_mode=True), _conv(kit, channels, pooled, 1)
            ),
        }
    )


def _conv(kit: Kit, in_channels: int, out_channels: int, kernel_size: int, **options: Any) -> Sequential:
    return Sequential(
        {
            "conv": kit.conv(in_channels, out_channels, kernel_size, bias=False, **options),
            "bn": kit.batch_norm(out_channels, eps=0.001, activation="relu"),
        }
    )
