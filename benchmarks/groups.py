"""Which rows a run has: groups of tasks, and the families of layers that a summary tells apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from . import dropins, networks
from .dropins import OnnxModel, TorchModel, TorchTraining
from .layer import Layer
from .networks import Inference, Job, Training
from .shapes import find
from .task import KINDS, Task

DENSE = "all dense"
WIDE = "k > 1, stride 1, 32+ channels"
PLAIN = "1x1, strided, first layers"
NARROW = "k > 1, stride 1, fewer"
GROUPED = "depthwise, few a group"
TRANSPOSED, POOLS, FILTERS, DEFORMABLE = "transposed", "pools", "filters", "deformable"
NETWORKS = "all networks"

LARGE = "^(resnet50|mobilenetv2|convnext_tiny|segformer_b0|vgg19)/.*b8$"

FEW = 32  # channels in or out of a group, below which a vector or a tile is not filled
FIRST = 4  # channels in, as of pictures


@dataclass(frozen=True)
class Group:
    """Layers that are measured in the same way."""

    has: Callable[[Layer], bool]
    quick: str
    """Which of them stand for all in a quick run: a regular expression."""
    kinds: tuple[str, ...] = KINDS
    dtype: str | None = None
    """None for the one that is asked for."""
    passes: tuple[bool, ...] = (False,)
    """Whether backward, for each pass."""

    def tasks(self, kind: str, dtype: str, pattern: str | None, quick: bool) -> tuple[Job, ...]:
        """Those whose name or operator a regular expression is found in."""
        layers = [layer for layer in find(pattern) if self.has(layer)]
        if quick:
            layers = find(self.quick, layers)
        return tuple(Task(layer, self.dtype or dtype, kind, backward) for layer in layers for backward in self.passes)


@dataclass(frozen=True)
class Networks:
    """Whole networks, or models that people have, in float32."""

    quick: str
    """As of a `Group`."""
    find: Callable[..., list[Any]] = networks.find
    kinds: tuple[str, ...] = (Inference.kind,)

    def tasks(self, kind: str, dtype: str, pattern: str | None, quick: bool) -> tuple[Job, ...]:
        """Those whose name a regular expression is found in."""
        found = self.find(pattern)
        return tuple(self.find(self.quick, found) if quick else found)


def _convolves(layer: Layer) -> bool:
    return layer.operator == "conv" and not layer.filters_images


GROUPS: dict[str, Group | Networks] = {
    "forward": Group(
        _convolves,
        r"^(alexnet/conv[12]|vgg16/conv[135]_[12]|resnet50/(conv1|conv4_1[abc])|resnext50/conv3_2b|mobilenetv2/block4_"
        r"|convnext_tiny/stage2_|deeplabv3/aspp_d12|wavenet/gate_d64|m5/conv[14]|c3d/conv4b)",
    ),
    "transposed": Group(lambda layer: layer.operator == "conv_transpose", r"^(dcgan/conv2|unet/up3|fcn8s/upscore2)"),
    "pool": Group(lambda layer: layer.pools, r"^(vgg16/pool1|resnet50/pool1|googlenet/3a_pool)", kinds=("layer",)),
    "filters": Group(lambda layer: layer.filters_images, "^filters/(3x3|5x5|15x15)_1024"),
    "float64": Group(_convolves, r"^(vgg16/conv3_2/b1|resnet50/conv4_1[bc]/b8)", dtype="float64"),
    "backward": Group(
        lambda layer: not (layer.filters_images or layer.deforms),
        r"^(alexnet/conv1/b8|vgg16/(conv[35]_1|pool1)/b4|(resnet50/conv4_1c|resnext50/conv3_2b)/b8"
        r"|mobilenetv2/block4_depthwise/b8|dcgan/conv2/b16|m5/conv1/b8)",
        kinds=("functional",),
        passes=(True,),
    ),
    "deformable": Group(lambda layer: layer.deforms, "/b8$", kinds=("functional",), passes=(False, True)),
    "networks": Networks("/b1$"),
    "training": Networks("^(lenet5|resnet50)/", networks.find_trained, (Training.kind,)),
    "torch-models": Networks(LARGE, dropins.find_models, (TorchModel.kind,)),
    "torch-training": Networks(LARGE, dropins.find_trained, (TorchTraining.kind,)),
    "onnx-models": Networks(LARGE, dropins.find_onnx, (OnnxModel.kind,)),
}
DROPINS = ("torch-models", "torch-training", "onnx-models")  # what --networks means; they take other packages


@dataclass(frozen=True)
class Section:
    """Tasks of one group and kind: those that the same engines run."""

    group: str
    kind: str
    tasks: tuple[Job, ...]

    @property
    def title(self) -> str:
        return f"{self.group}, {self.kind} rows, {self.tasks[0].dtype}"


def sections(
    groups: Sequence[str], kinds: Sequence[str], dtype: str, pattern: str | None, quick: bool
) -> list[Section]:
    """What a run has to measure, a section after the other; empty ones are left out."""
    found = []
    for name in groups:
        group = GROUPS[name]
        for kind in group.kinds:
            tasks = group.tasks(kind, dtype, pattern, quick) if kind in kinds else ()
            if tasks:
                found.append(Section(name, kind, tasks))
    return found


def families(job: Job) -> tuple[str, ...]:
    """The families whose lines of the summary count a layer or network."""
    return _families_of_layer(job.layer) if isinstance(job, Task) else (NETWORKS, job.network)


def _families_of_layer(layer: Layer) -> tuple[str, ...]:
    if layer.pools:
        return (POOLS,)
    if layer.operator == "conv_transpose":
        return (TRANSPOSED,)
    if layer.filters_images:
        return (FILTERS,)
    if layer.deforms:
        return (DEFORMABLE,)
    channels = min(layer.in_channels, layer.out_channels) // layer.groups
    if layer.groups > 1 and channels < FEW:
        return (GROUPED,)
    if {*layer.kernel} == {1} or {*layer.stride} != {1} or layer.in_channels <= FIRST:
        return (DENSE, PLAIN)
    return (DENSE, WIDE if channels >= FEW else NARROW)
