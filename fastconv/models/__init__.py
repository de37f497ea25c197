"""Networks, built of layers and made by name: ``model = models.create("lenet5", rng=0)``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from fastconv import init
from fastconv.geometry import is_channels_last
from fastconv.layers import Layer
from fastconv.models.alexnet import alexnet, alexnet_2012
from fastconv.models.cifar import cifar_maxpool, cifar_stride
from fastconv.models.fashion import fashion_1x1, fashion_7x7, fashion_maxpool, fashion_stride
from fastconv.models.googlenet import googlenet
from fastconv.models.kit import Kit
from fastconv.models.lenet import lenet5
from fastconv.models.mobilenet import mobilenet_v2
from fastconv.models.resnet import resnet18, resnet50
from fastconv.models.unet import UNet
from fastconv.models.vgg import vgg16

__all__ = ["NETWORKS", "Network", "create"]


class Network(NamedTuple):
    """A function that builds a network, the picture that it is made for, and its number of classes."""

    build: Callable[..., Layer]
    in_channels: int
    size: int
    classes: int
    segments: bool = False
    """Whether it has logits for every pixel and not for the picture as a whole."""


NETWORKS: dict[str, Network] = {
    "lenet5": Network(lenet5, 1, 32, 10),
    "fashion-7x7": Network(fashion_7x7, 1, 28, 10),
    "fashion-maxpool": Network(fashion_maxpool, 1, 28, 10),
    "fashion-stride": Network(fashion_stride, 1, 28, 10),
    "fashion-1x1": Network(fashion_1x1, 1, 28, 10),
    "cifar-maxpool": Network(cifar_maxpool, 3, 32, 10),
    "cifar-stride": Network(cifar_stride, 3, 32, 10),
    "alexnet": Network(alexnet, 3, 224, 1000),
    "alexnet-2012": Network(alexnet_2012, 3, 224, 1000),
    "vgg16": Network(vgg16, 3, 224, 1000),
    "resnet18": Network(resnet18, 3, 224, 1000),
    "resnet50": Network(resnet50, 3, 224, 1000),
    "googlenet": Network(googlenet, 3, 224, 1000),
    "mobilenet-v2": Network(mobilenet_v2, 3, 224, 1000),
    "unet": Network(UNet, 1, 512, 2, segments=True),
}


def create(
    name: str,
    *,
    in_channels: int | None = None,
    num_classes: int | None = None,
    data_format: str = "channels_first",
    dtype: DTypeLike = np.float32,
    rng: init.Rng = None,
    initializer: init.Initializer | None = init.kaiming_normal,
    **options: Any,
) -> Layer:
    """Make a network, in training mode: x (N, C, H, W) or (N, H, W, C) -> logits (N, classes).

    Of one that segments the logits are (N, classes, H, W) or (N, H, W, classes).

    Parameters
    ----------
    name
        A key of `NETWORKS`.
    in_channels, num_classes
        C and classes; those of the network's entry in `NETWORKS` by default.
    data_format
        "channels_first" (default) or "channels_last"; the parameters are the same in both.
    dtype
        float32 (default) or float64.
    rng
        A NumPy generator or a seed, for the initial weights and for dropout: one seed gives one network.
    initializer
        Draws the weights, by default Kaiming's for layers of ReLU. `init.zeros` costs nothing where a checkpoint will
        be loaded.
    options
        What else the network's own function takes, such as pooling and activation of "lenet5" or widths of "unet".

    Raises
    ------
    ValueError
        If there is no such network; the error lists those there are.
    """
    if name not in NETWORKS:
        raise ValueError(f"there is no network {name!r}, only {', '.join(NETWORKS)}")
    is_channels_last(data_format)
    network = NETWORKS[name]
    kit = Kit(data_format, dtype, np.random.default_rng(rng), initializer)
    channels = network.in_channels if in_channels is None else in_channels
    return network.build(kit, channels, network.classes if num_classes is None else num_classes, **options)
