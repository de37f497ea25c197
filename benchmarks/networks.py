"""Whole networks, running and in training: what engines are asked to do with one, its weights and pictures for it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from math import prod
from typing import ClassVar

import numpy as np

import fastconv
from fastconv import init, models
from fastconv.layers import BatchNorm2d, Layer, Linear

from . import shapes
from .dropins import Model
from .layer import Array, Size
from .task import Task, on_cache_lines

# Names as in shapes.py, and in `fastconv.models`.
MODELS = {
    "resnet50": "resnet50", "vgg16": "vgg16", "mobilenetv2": "mobilenet-v2", "lenet5": "lenet5", "unet": "unet"
}  # fmt: skip
RUNNING = ("resnet50", "vgg16", "mobilenetv2")
BATCHES = (1, 8)
TRAINED = {"lenet5": 64, "resnet50": 8, "vgg16": 8, "mobilenetv2": 8, "unet": 2}  # and their batches
SIZES = {"unet": 128}  # of pictures, where not the network's own: a step shall take less than a second
SETTLING = 4, 96  # how many pictures of which size batch normalizations have the statistics of
SPREAD = 0.1  # of biases, and of the weights of batch normalizations around 1


@dataclass(frozen=True)
class Inference:
    """The forward pass of a network, float32, its weights packed ahead as far as an engine can."""

    network: str
    batch: int

    dtype: ClassVar[str] = "float32"
    kind: ClassVar[str] = "layer"
    tolerance: ClassVar[float] = 1000.0
    """Roundings that results may be apart: dozens of layers add up what one has."""

    @property
    def label(self) -> str:
        """What tables and filters call it, as `resnet50/b8`."""
        return f"{self.network}/b{self.batch}"

    @property
    def name(self) -> str:
        return f"{self.label}, {self.dtype}"

    @property
    def model(self) -> models.Network:
        return models.NETWORKS[MODELS[self.network]]

    @property
    def size(self) -> int:
        """Of a picture's sides."""
        return SIZES.get(self.network, self.model.size)

    @property
    def x_shape(self) -> Size:
        """Channels first."""
        return (self.batch, self.model.in_channels, self.size, self.size)

    @property
    def y_shape(self) -> Size:
        return (self.batch, self.model.classes)

    @property
    def pools(self) -> bool:
        return False

    @property
    def multiply_adds(self) -> int:
        """Products that convolutions and linear layers need, taps in the padding left out."""
        layers = shapes.unet(self.size, padding=1) if self.network == "unet" else shapes.NETWORKS[self.network]
        rows = [row for row in layers if not row.pools]
        return self.batch * (sum(row.times * shapes.multiply_adds(row) for row in rows) + _sizes(self.network)[0])

    def limit(self, result: int) -> float:
        """The relative L2 distance at which two engines' results of this number agree."""
        return self.tolerance * float(np.finfo(self.dtype).eps)

    @property
    def compulsory_bytes(self) -> int:
        """Pictures and parameters read and logits written once."""
        itemsize = np.dtype(self.dtype).itemsize
        return itemsize * (prod(self.x_shape) + _sizes(self.network)[1] + prod(self.y_shape))


@dataclass(frozen=True)
class Training(Inference):
    """A step of training: loss, gradients of all parameters and their update by momentum, without dropout, whose
    random numbers each engine draws for itself. The result is the loss, which falls from step to step."""

    kind: ClassVar[str] = "functional"
    lr: ClassVar[float] = 1e-3
    momentum: ClassVar[float] = 0.9
    weight_decay: ClassVar[float] = 1e-4

    @property
    def label(self) -> str:
        """As `resnet50/train/b8`."""
        return f"{self.network}/train/b{self.batch}"

    @property
    def y_shape(self) -> Size:
        return (1,)

    @property
    def labels(self) -> Array:
        """The classes that the pictures, or their pixels, are said to be of."""
        shape = (self.batch, self.size, self.size) if self.model.segments else (self.batch,)
        return np.random.default_rng(self.batch).integers(0, self.model.classes, shape)

    @property
    def multiply_adds(self) -> int:
        """Those of y, of the gradient of x and of that of the weights: every layer's but the first one's x."""
        return 3 * super().multiply_adds

    @property
    def compulsory_bytes(self) -> int:
        """Pictures read, and parameters and momentum read and written once."""
        itemsize = np.dtype(self.dtype).itemsize
        return itemsize * (prod(self.x_shape) + 4 * _sizes(self.network)[1])


Job = Task | Inference | Model


@cache
def _sizes(network: str) -> tuple[int, int]:
    """Parameters of the linear layers but for biases, and of all layers."""
    model = models.create(MODELS[network], initializer=init.zeros)
    linear = sum(layer.weight.size for _, layer in model.named_layers() if isinstance(layer, Linear))
    return linear, model.parameter_count()


def find(pattern: str | None, rows: Sequence[Inference] | None = None) -> list[Inference]:
    """The networks, each at both batches, whose label a regular expression is found in."""
    rows = [Inference(*row) for row in product(RUNNING, BATCHES)] if rows is None else rows
    return [row for row in rows if pattern is None or re.search(pattern, row.label)]


def find_trained(pattern: str | None, rows: Sequence[Inference] | None = None) -> list[Inference]:
    """The same of those in training."""
    return find(pattern, [Training(*row) for row in TRAINED.items()] if rows is None else rows)


def built(network: str, data_format: str = "channels_first") -> Layer:
    """A network in evaluation mode, with the same weights and statistics in every process and layout."""
    first = models.create(MODELS[network], rng=0)
    count, size = SETTLING
    settle(first, (count, models.NETWORKS[MODELS[network]].in_channels, size, size))
    if data_format == "channels_first":
        return first.eval()
    last = models.create(MODELS[network], data_format=data_format, initializer=init.zeros)
    last.load_state_dict(first.state_dict())
    return last.eval()


def settle(network: Layer, shape: Size) -> None:
    """Draw what begins as zeros or ones, and give batch normalizations the statistics of a few pictures."""
    rng = np.random.default_rng(0)
    for _, parameter in network.named_parameters():
        if parameter.ndim == 1:
            parameter += SPREAD * rng.standard_normal(parameter.shape, np.float32)
    normalizations = [layer for _, layer in network.named_layers() if isinstance(layer, BatchNorm2d)]
    if not normalizations:
        return
    for normalization in normalizations:
        normalization.momentum = None  # the mean of all batches, which is one
    threads = fastconv.get_num_threads()
    fastconv.set_num_threads(1)  # threads of ours would disturb a peer in whose process this is
    network(rng.standard_normal(shape, np.float32))
    fastconv.set_num_threads(threads)


def pictures(inference: Inference | Model) -> Array:
    """Those of a task, channels first: the same in every process."""
    rng = np.random.default_rng([len(inference.network), *inference.x_shape])
    return on_cache_lines(rng.standard_normal(inference.x_shape, np.float32))
