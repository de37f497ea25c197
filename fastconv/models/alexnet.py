"""AlexNet: the paper's, and the narrower one that torchvision has."""

from __future__ import annotations

from fastconv.layers import Sequential
from fastconv.models.kit import Kit


def alexnet(kit: Kit, in_channels: int, num_classes: int) -> Sequential:
    """AlexNet in one column, under torchvision's keys, for x (N, 3, 224, 224); 61,100,840 parameters.

    Source: Krizhevsky, "One weird trick for parallelizing convolutional neural networks", 2014.
    """
    # The numbers left out are torchvision's separate ReLU layers.
    features = Sequential(
        {
            "0": kit.conv(in_channels, 64, 11, stride=4, padding=2, activation="relu"),
            "2": kit.max_pool(3, stride=2),
            "3": kit.conv(64, 192, 5, padding=2, activation="relu"),
            "5": kit.max_pool(3, stride=2),
            "6": kit.conv(192, 384, 3, padding=1, activation="relu"),
            "8": kit.conv(384, 256, 3, padding=1, activation="relu"),
            "10": kit.conv(256, 256, 3, padding=1, activation="relu"),
            "12": kit.max_pool(3, stride=2),
        }
    )
    return Sequential(
        {
            "features": features,
            "avgpool": kit.adaptive_avg_pool(6),
            "flatten": kit.flatten(),
            "classifier": _classifier(kit, num_classes),
        }
    )


def alexnet_2012(kit: Kit, in_channels: int, num_classes: int) -> Sequential:
    """The paper's AlexNet: two columns as groups, local response normalization; 60,965,224 parameters.

    The first layer's 96 filters of 11x11x3 are 34,944 of them. x (N, 3, 224, 224) or (N, 3, 227, 227).

    Source: Krizhevsky, Sutskever, Hinton, "ImageNet Classification with Deep Convolutional Neural Networks", 2012,
    section 3.5; its alpha of 1e-4 is not divided by the 5 channels of the window, PyTorch's is.
    """
    features = Sequential(
        kit.conv(in_channels, 96, 11, stride=4, padding=2, activation="relu"),
        kit.local_response_norm(5, alpha=5e-4, beta=0.75, k=2.0),
        kit.max_pool(3, stride=2),
        kit.conv(96, 256, 5, padding=2, groups=2, activation="relu"),
        kit.local_response_norm(5, alpha=5e-4, beta=0.75, k=2.0),
        kit.max_pool(3, stride=2),
        kit.conv(256, 384, 3, padding=1, activation="relu"),
        kit.conv(384, 384, 3, padding=1, groups=2, activation="relu"),
        kit.conv(384, 256, 3, padding=1, groups=2, activation="relu"),
        kit.max_pool(3, stride=2),
    )
    return Sequential({"features": features, "flatten": kit.flatten(), "classifier": _classifier(kit, num_classes)})


def _classifier(kit: Kit, num_classes: int) -> Sequential:
    return Sequential(
        {
            "0": kit.dropout(0.5),
            "1": kit.linear(256 * 6 * 6, 4096, activation="relu"),
            "3": kit.dropout(0.5),
            "4": kit.linear(4096, 4096, activation="relu"),
            "6": kit.linear(4096, num_classes),
        }
    )
