"""Models that people have, through our drop-ins and through what these drop into: which, and what is asked of engines.

Of transformers only the architectures are taken, by their configs and with random weights; of the onnx package the
networks whose weights it leaves out, with random ones in their place. Nothing is downloaded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from .layer import Array, Size


@dataclass(frozen=True)
class Recipe:
    """A model of transformers: `<family>For<head>` of a `<family>Config(**options)`, which must not drop anything out,
    since each engine draws random numbers for itself."""

    family: str
    head: str = "ImageClassification"
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    classes: int = 1000
    size: int = 224
    """Of a picture, and of the labels of its pixels where the head gives each of them one."""

    packages: ClassVar[tuple[str, ...]] = ("torch", "transformers")

    @property
    def per_pixel(self) -> bool:
        return self.head == "SemanticSegmentation"


@dataclass(frozen=True)
class Light:
    """A network that lies in the onnx package, by the name of its file."""

    name: str
    size: int = 224

    packages: ClassVar[tuple[str, ...]] = ("onnx",)


# The defaults of these configs are ResNet-50, MobileNetV2 1.0, ConvNeXt-T and SegFormer-B0.
RECIPES = {
    "resnet50": Recipe("ResNet"),
    "mobilenetv2": Recipe("MobileNetV2", options={"classifier_dropout_prob": 0.0}),
    "convnext_tiny": Recipe("ConvNext"),
    "segformer_b0": Recipe(
        "Segformer", "SemanticSegmentation", {"classifier_dropout_prob": 0.0, "drop_path_rate": 0.0}, classes=150
    ),
}
LIGHT = {
    "vgg19": Light("vgg19"),
    "densenet121": Light("densenet121"),
    "inception_v2": Light("inception_v2"),
    "shufflenet": Light("shufflenet"),
    "squeezenet": Light("squeezenet"),
}
BATCHES = (1, 8)
TRAINED = (8,)


@dataclass(frozen=True)
class Made:
    """What is known of a model once it has been made."""

    multiply_adds: int
    """Of one forward pass, taps in the padding counted."""
    parameters: int
    y_shape: Size
    path: str = ""
    """Of its ONNX file."""
    expected: str = ""
    """Of a .npy file with the result of PyTorch, where the ONNX file was exported from it."""


@dataclass(frozen=True)
class Model:
    """A model at one batch size, float32, running. `made` is None until it is about to be measured."""

    network: str
    batch: int
    source: Recipe | Light = field(hash=False)
    made: Made | None = field(default=None, hash=False)

    dtype: ClassVar[str] = "float32"
    kind: ClassVar[str] = "layer"
    pools: ClassVar[bool] = False
    peers: ClassVar[tuple[str, ...]] = ()
    """Engines that it is for, beside ours."""
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
    def packages(self) -> tuple[str, ...]:
        """What is needed to make and to run it, beside the peers."""
        return self.source.packages

    @property
    def facts(self) -> Made:
        """What is known of it.

        Raises
        ------
        ValueError
            If it has not been made.
        """
        if self.made is None:
            raise ValueError(f"{self.name} must be made before it is run")
        return self.made

    @property
    def x_shape(self) -> Size:
        """Channels first."""
        return (self.batch, 3, self.source.size, self.source.size)

    @property
    def multiply_adds(self) -> int:
        """Products that convolutions and matrix products need."""
        return self.facts.multiply_adds

    @property
    def compulsory_bytes(self) -> int:
        """Pictures and parameters read and the result written once."""
        return np.dtype(self.dtype).itemsize * (prod(self.x_shape) + self.facts.parameters + prod(self.facts.y_shape))

    def limit(self, result: int) -> float:
        """The relative L2 distance at which two engines' results of this number agree."""
        return self.tolerance * float(np.finfo(self.dtype).eps)

    def expected(self) -> tuple[Array, ...] | None:
        """What PyTorch makes of it, if it is not among the peers."""
        return (np.load(self.facts.expected),) if self.facts.expected else None


@dataclass(frozen=True)
class TorchModel(Model):
    """A PyTorch model, optimized by us and as it is."""

    peers: ClassVar[tuple[str, ...]] = ("torch", "torch.compile")


@dataclass(frozen=True)
class TorchTraining(TorchModel):
    """A step of training a PyTorch model by momentum. The results are its loss and every 61st element of gradients."""

    kind: ClassVar[str] = "functional"
    lr: ClassVar[float] = 1e-3
    momentum: ClassVar[float] = 0.9
    weight_decay: ClassVar[float] = 1e-4
    sampled: ClassVar[int] = 61
    depth: ClassVar[int] = 50
    """Layers in a row that end with a ReLU, of ResNet-50 and MobileNetV2."""

    @property
    def label(self) -> str:
        """As `resnet50/train/b8`."""
        return f"{self.network}/train/b{self.batch}"

    @property
    def labels(self) -> Array:
        """The classes that the pictures, or their pixels, are said to be of."""
        assert isinstance(self.source, Recipe)
        shape = (self.batch, self.source.size, self.source.size) if self.source.per_pixel else (self.batch,)
        return np.random.default_rng(self.batch).integers(0, self.source.classes, shape)

    @property
    def multiply_adds(self) -> int:
        """Those of y, of the gradient of x and of that of the weights."""
        return 3 * super().multiply_adds

    @property
    def compulsory_bytes(self) -> int:
        """Pictures read, and parameters and momentum read and written once."""
        return np.dtype(self.dtype).itemsize * (prod(self.x_shape) + 4 * self.facts.parameters)

    def limit(self, result: int) -> float:
        """Gradients jump where a ReLU's argument changes its sign: if values are a share e apart, so are about as many
        signs, each with its whole product, so that each layer adds the square root of e in relative L2 distance."""
        apart = super().limit(result)
        return float((self.depth * apart) ** 0.5) if result else apart


@dataclass(frozen=True)
class OnnxModel(Model):
    """An ONNX file, in our session and in others."""

    peers: ClassVar[tuple[str, ...]] = ("onnxruntime", "openvino")

    @property
    def packages(self) -> tuple[str, ...]:
        """Our session needs onnx, too."""
        return tuple(dict.fromkeys(("onnx", *self.source.packages)))


def find_models(pattern: str | None, rows: Sequence[Any] | None = None) -> list[Any]:
    """PyTorch models, each at all batches, whose label a regular expression is found in."""
    return _found(pattern, [TorchModel(*row) for row in _rows(RECIPES, BATCHES)] if rows is None else rows)


def find_trained(pattern: str | None, rows: Sequence[Any] | None = None) -> list[Any]:
    """The same of those in training."""
    return _found(pattern, [TorchTraining(*row) for row in _rows(RECIPES, TRAINED)] if rows is None else rows)


def find_onnx(pattern: str | None, rows: Sequence[Any] | None = None) -> list[Any]:
    """The same of ONNX files."""
    everything = {**RECIPES, **LIGHT}
    return _found(pattern, [OnnxModel(*row) for row in _rows(everything, BATCHES)] if rows is None else rows)


def _rows(sources: Mapping[str, Any], batches: Sequence[int]) -> list[tuple[str, int, Any]]:
    return [(name, batch, source) for name, source in sources.items() for batch in batches]


def _found(pattern: str | None, rows: Sequence[Any]) -> list[Any]:
    return [row for row in rows if pattern is None or re.search(pattern, row.label)]


def made(model: Model, **facts: Any) -> Model:
    """The same model, now that it is made."""
    return replace(model, made=Made(**facts))


def files(folder: str) -> tuple[Path, Path]:
    """Where in a folder the ONNX file and the expected result of a model go."""
    return Path(folder) / "model.onnx", Path(folder) / "expected.npy"
