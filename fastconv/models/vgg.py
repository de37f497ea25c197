"""VGG-16."""

from __future__ import annotations

from fastconv.layers import Layer, Sequential
from fastconv.models.kit import Kit

# Convolutions of each stage; a max pool follows every stage.
_STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))


def vgg16(kit: Kit, in_channels: int, num_classes: int) -> Sequential:
    """VGG-16, configuration D, under torchvision's keys, for x (N, 3, 224, 224); 138,357,544 parameters.

    Source: Simonyan, Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", 2015, table 1.
    """
    features: dict[str, Layer] = {}
    number = 0
    for width, depth in _STAGES:
        for _ in range(depth):
            features[str(number)] = kit.conv(in_channels, width, 3, padding=1, activation="relu")
            in_channels = width
            number += 2  # torchvision counts the ReLU, which is fused here
        features[str(number)] = kit.max_pool(2)
        number += 1
    classifier = Sequential(
        {
            "0": kit.linear(512 * 7 * 7, 4096, activation="relu"),
            "2": kit.dropout(0.5),
            "3": kit.linear(4096, 4096, activation="relu"),
            "5": kit.dropout(0.5),
            "6": kit.linear(4096, num_classes),
        }
    )
    return Sequential(
        {
            "features": Sequential(features),
            "avgpool": kit.adaptive_avg_pool(7),
            "flatten": kit.flatten(),
            "classifier": classifier,
        }
    )
