"""The convolution, transposed and pooling layers of real networks, as the papers' tables have them.

`NETWORKS` holds each network's layers from input to output, at batch 1; `LAYERS` every geometry of them all once, at
batch 1 and at a training batch; `find` picks from those by name. Layers that a network repeats are one row that says
how often. Checked against the networks' published parameter counts by tests/test_shapes.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from math import prod
from typing import Any

from fastconv.geometry import (
    ConvGeometry,
    PoolGeometry,
    as_padding,
    as_tuple,
    conv_geometry,
    conv_transpose_geometry,
    parameter_count,
    pool_geometry,
)

from .layer import Layer, Size, padding_argument


def _layer(
    operator: str, name: str, channels: tuple[int, int], size: int | Size, kernel: Any, stride: Any = 1,
    padding: Any = 0, dilation: Any = 1, output_padding: Any = 0, **options: Any,
) -> Layer:  # fmt: skip
    """A row at batch 1 of a network yet to be named; an int for size is a square."""
    size = (size, size) if isinstance(size, int) else size
    kernel, stride, dilation, output_padding = (
        as_tuple(value, len(size), "value") for value in (kernel, stride, dilation, output_padding)
    )
    pairs = as_padding(padding, kernel, stride, dilation)
    return Layer("", name, operator, 1, *channels, size, kernel, stride, pairs, dilation, output_padding, **options)


def conv(name: str, c_in: int, c_out: int, size: int | Size, kernel: Any, stride: Any = 1, padding: Any = 0,
         dilation: Any = 1, **options: Any) -> Layer:  # fmt: skip
    """A convolution; options: groups, bias, times."""
    return _layer("conv", name, (c_in, c_out), size, kernel, stride, padding, dilation, **options)


def transposed(name: str, c_in: int, c_out: int, size: int | Size, kernel: Any, stride: Any = 1, padding: Any = 0,
               output_padding: Any = 0, **options: Any) -> Layer:  # fmt: skip
    """A transposed convolution; options: groups, bias, times."""
    return _layer(
        "conv_transpose", name, (c_in, c_out), size, kernel, stride, padding, output_padding=output_padding, **options
    )


def deformable(name: str, c_in: int, c_out: int, size: int | Size, kernel: Any, stride: Any = 1, padding: Any = 0,
               dilation: Any = 1, **options: Any) -> Layer:  # fmt: skip
    """A deformable convolution, one group of offsets; options: masked, groups, bias, times."""
    return _layer("deform_conv", name, (c_in, c_out), size, kernel, stride, padding, dilation, **options)


def max_pool(name: str, channels: int, size: int | Size, kernel: Any, stride: Any = None, padding: Any = 0,
             **options: Any) -> Layer:  # fmt: skip
    """A max pool; options: ceil_mode, times."""
    stride = kernel if stride is None else stride
    return _layer("max_pool", name, (channels, channels), size, kernel, stride, padding, **options)


def avg_pool(name: str, channels: int, size: int | Size, kernel: Any, stride: Any = None, **options: Any) -> Layer:
    """An average pool; options: times."""
    stride = kernel if stride is None else stride
    return _layer("avg_pool", name, (channels, channels), size, kernel, stride, **options)


def lenet5() -> list[Layer]:
    """LeCun et al. (1998), Gradient-based learning applied to document recognition, figure 2; C3 fully connected."""
    return [
        conv("c1", 1, 6, 32, 5),
        avg_pool("s2", 6, 28, 2),
        conv("c3", 6, 16, 14, 5),
        avg_pool("s4", 16, 10, 2),
        conv("c5", 16, 120, 5, 5),
    ]


def alexnet() -> list[Layer]:
    """Krizhevsky et al. (2012), section 3.5, with its two groups; 227 pixels make the sizes come out."""
    return [
        conv("conv1", 3, 96, 227, 11, stride=4),
        max_pool("pool1", 96, 55, 3, 2),
        conv("conv2", 96, 256, 27, 5, padding=2, groups=2),
        max_pool("pool2", 256, 27, 3, 2),
        conv("conv3", 256, 384, 13, 3, padding=1),
        conv("conv4", 384, 384, 13, 3, padding=1, groups=2),
        conv("conv5", 384, 256, 13, 3, padding=1, groups=2),
        max_pool("pool5", 256, 13, 3, 2),
    ]


def vgg16() -> list[Layer]:
    """Simonyan and Zisserman (2014), table 1, column D."""
    rows = []
    for stage, (size, c_in, c_out, repeats) in enumerate(
        [(224, 3, 64, 1), (112, 64, 128, 1), (56, 128, 256, 2), (28, 256, 512, 2), (14, 512, 512, 2)], start=1
    ):
        rows += [
            conv(f"conv{stage}_1", c_in, c_out, size, 3, padding=1),
            conv(f"conv{stage}_2", c_out, c_out, size, 3, padding=1, times=repeats),
            max_pool(f"pool{stage}", c_out, size, 2),
        ]
    return rows


def googlenet() -> list[Layer]:
    """Szegedy et al. (2014), Going deeper with convolutions, table 1."""
    rows = [
        conv("conv1", 3, 64, 224, 7, stride=2, padding=3),
        max_pool("pool1", 64, 112, 3, 2, ceil_mode=True),
        conv("conv2_reduce", 64, 64, 56, 1),
        conv("conv2", 64, 192, 56, 3, padding=1),
        max_pool("pool2", 192, 56, 3, 2, ceil_mode=True),
    ]
    # name, size, C_in, #1x1, #3x3 reduce, #3x3, #5x5 reduce, #5x5, pool proj
    for name, size, c_in, one, reduce3, three, reduce5, five, projected in [
        ("3a", 28, 192, 64, 96, 128, 16, 32, 32),
        ("3b", 28, 256, 128, 128, 192, 32, 96, 64),
        ("4a", 14, 480, 192, 96, 208, 16, 48, 64),
        ("4b", 14, 512, 160, 112, 224, 24, 64, 64),
        ("4c", 14, 512, 128, 128, 256, 24, 64, 64),
        ("4d", 14, 512, 112, 144, 288, 32, 64, 64),
        ("4e", 14, 528, 256, 160, 320, 32, 128, 128),
        ("5a", 7, 832, 256, 160, 320, 32, 128, 128),
        ("5b", 7, 832, 384, 192, 384, 48, 128, 128),
    ]:
        if name in ("4a", "5a"):
            rows.append(max_pool(f"pool{int(name[0]) - 1}", c_in, 2 * size, 3, 2, ceil_mode=True))
        rows += [
            conv(f"{name}_1x1", c_in, one, size, 1),
            conv(f"{name}_3x3_reduce", c_in, reduce3, size, 1),
            conv(f"{name}_3x3", reduce3, three, size, 3, padding=1),
            conv(f"{name}_5x5_reduce", c_in, reduce5, size, 1),
            conv(f"{name}_5x5", reduce5, five, size, 5, padding=2),
            max_pool(f"{name}_pool", c_in, size, 3, 1, 1),
            conv(f"{name}_pool_proj", c_in, projected, size, 1),
        ]
    return [*rows, avg_pool("pool5", 1024, 7, 7)]


def _residual_50(widths: Sequence[int], groups: int) -> list[Layer]:
    """A 50-layer residual network of bottlenecks whose 3x3 convolutions carry the stride, as torchvision builds it."""
    rows = [
        conv("conv1", 3, 64, 224, 7, stride=2, padding=3, bias=False),
        max_pool("pool1", 64, 112, 3, 2, 1),
    ]
    c_in, size = 64, 56
    for stage, (width, blocks) in enumerate(zip(widths, (3, 4, 6, 3), strict=True), start=2):
        c_out, stride = 128 << (stage - 1), 1 if stage == 2 else 2
        after = size // stride
        three = {"padding": 1, "groups": groups, "bias": False}
        rows += [
            conv(f"conv{stage}_1a", c_in, width, size, 1, bias=False),
            conv(f"conv{stage}_1b", width, width, size, 3, stride, **three),
            conv(f"conv{stage}_1c", width, c_out, after, 1, bias=False, times=blocks),
            conv(f"conv{stage}_1_shortcut", c_in, c_out, size, 1, stride, bias=False),
            conv(f"conv{stage}_2a", c_out, width, after, 1, bias=False, times=blocks - 1),
            conv(f"conv{stage}_2b", width, width, after, 3, **three, times=blocks - 1),
        ]
        c_in, size = c_out, after
    return [*rows, avg_pool("pool5", 2048, 7, 7)]


def resnet50() -> list[Layer]:
    """He et al. (2015), Deep residual learning for image recognition, table 1."""
    return _residual_50((64, 128, 256, 512), groups=1)


def resnext50() -> list[Layer]:
    """Xie et al. (2016), Aggregated residual transformations, table 1: 32 groups of 4 channels and more."""
    return _residual_50((128, 256, 512, 1024), groups=32)


def mobilenetv2() -> list[Layer]:
    """Sandler et al. (2018), table 2: expand, depthwise, project."""
    rows = [conv("conv1", 3, 32, 224, 3, stride=2, padding=1, bias=False)]
    c_in, size, block = 32, 112, 0
    for expansion, c_out, repeats, first_stride in [
        (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)
    ]:  # fmt: skip
        for repeat in range(repeats):
            block, stride, wide = block + 1, first_stride if repeat == 0 else 1, c_in * expansion
            if expansion > 1:
                rows.append(conv(f"block{block}_expand", c_in, wide, size, 1, bias=False))
            rows.append(conv(f"block{block}_depthwise", wide, wide, size, 3, stride, 1, groups=wide, bias=False))
            size //= stride
            rows.append(conv(f"block{block}_project", wide, c_out, size, 1, bias=False))
            c_in = c_out
    return [*rows, conv("conv_last", 320, 1280, 7, 1, bias=False), avg_pool("pool", 1280, 7, 7)]


def convnext_tiny() -> list[Layer]:
    """Liu et al. (2022), A ConvNet for the 2020s, table 9; the linear layers over channels as 1x1 convolutions."""
    rows, c_in, size = [conv("stem", 3, 96, 224, 4, stride=4)], 96, 56
    for stage, (c, blocks) in enumerate([(96, 3), (192, 3), (384, 9), (768, 3)], start=1):
        if c != c_in:
            rows.append(conv(f"downsample{stage}", c_in, c, size, 2, stride=2))
            size //= 2
        rows += [
            conv(f"stage{stage}_depthwise", c, c, size, 7, padding=3, groups=c, times=blocks),
            conv(f"stage{stage}_expand", c, 4 * c, size, 1, times=blocks),
            conv(f"stage{stage}_project", 4 * c, c, size, 1, times=blocks),
        ]
        c_in = c
    return [*rows, avg_pool("pool", 768, 7, 7)]


def deeplabv3() -> list[Layer]:
    """Chen et al. (2017), Rethinking atrous convolution: block 4 and ASPP at output stride 16, 513 pixels."""
    dilated = [conv(f"block4_d{d}", 512, 512, 33, 3, padding=d, dilation=d, bias=False) for d in (2, 4, 8)]
    pyramid = [conv(f"aspp_d{d}", 2048, 256, 33, 3, padding=d, dilation=d, bias=False) for d in (6, 12, 18)]
    return [
        *dilated,
        conv("aspp_1x1", 2048, 256, 33, 1, bias=False),
        *pyramid,
        avg_pool("aspp_pool", 2048, 33, 33),
        conv("aspp_pool_1x1", 2048, 256, 1, 1, bias=False),
        conv("aspp_project", 1280, 256, 33, 1, bias=False),
        conv("classifier", 256, 21, 33, 1),
    ]


def unet(size: int = 572, padding: int = 0) -> list[Layer]:
    """Ronneberger et al. (2015), figure 1: unpadded, 572 pixels in, 388 out; with padding=1 as many out as in."""
    rows, c_in, lost = [], 1, 2 - 2 * padding
    for level, c in enumerate((64, 128, 256, 512, 1024), start=1):
        rows += [
            conv(f"down{level}a", c_in, c, size, 3, padding=padding),
            conv(f"down{level}b", c, c, size - lost, 3, padding=padding),
        ]
        size -= 2 * lost
        if level < 5:
            rows.append(max_pool(f"pool{level}", c, size, 2))
            size //= 2
        c_in = c
    for level, c in zip((4, 3, 2, 1), (512, 256, 128, 64), strict=True):
        rows += [
            transposed(f"up{level}", 2 * c, c, size, 2, stride=2),
            conv(f"up{level}a", 2 * c, c, 2 * size, 3, padding=padding),
            conv(f"up{level}b", c, c, 2 * size - lost, 3, padding=padding),
        ]
        size = 2 * (size - lost)
    return [*rows, conv("classifier", 64, 2, size, 1)]


def dcgan() -> list[Layer]:
    """Radford et al. (2015), figure 1: the generator."""
    doubling = {"stride": 2, "padding": 2, "output_padding": 1, "bias": False}
    return [
        transposed("project", 100, 1024, 1, 4, bias=False),
        transposed("conv1", 1024, 512, 4, 5, **doubling),
        transposed("conv2", 512, 256, 8, 5, **doubling),
        transposed("conv3", 256, 128, 16, 5, **doubling),
        transposed("conv4", 128, 3, 32, 5, **doubling),
    ]


def fcn8s() -> list[Layer]:
    """Long et al. (2015) and their released voc-fcn8s: what differs from VGG-16 at 500 pixels padded by 100."""
    return [
        conv("conv1_1", 3, 64, 500, 3, padding=100),
        max_pool("pool1", 64, 698, 2, ceil_mode=True),
        max_pool("pool2", 128, 349, 2, ceil_mode=True),
        max_pool("pool3", 256, 175, 2, ceil_mode=True),
        max_pool("pool4", 512, 88, 2, ceil_mode=True),
        max_pool("pool5", 512, 44, 2, ceil_mode=True),
        conv("fc6", 512, 4096, 22, 7),
        conv("fc7", 4096, 4096, 16, 1),
        conv("score_fr", 4096, 21, 16, 1),
        transposed("upscore2", 21, 21, 16, 4, stride=2, bias=False),
        conv("score_pool4", 512, 21, 44, 1),
        transposed("upscore_pool4", 21, 21, 34, 4, stride=2, bias=False),
        conv("score_pool3", 256, 21, 88, 1),
        transposed("upscore8", 21, 21, 70, 16, stride=8, bias=False),
    ]


def wavenet() -> list[Layer]:
    """van den Oord et al. (2016), 3 stacks of dilations 1 to 512 on a second at 16 kHz; 64 residual, 256 skip channels.

    Tanh and gate are the two halves of one convolution's channels; the paper leaves the widths open.
    """
    second = (16000,)
    gates = [
        conv(f"gate_d{d}", 64, 128, second, 2, padding=((d, 0),), dilation=d, times=3)
        for d in (1 << power for power in range(10))
    ]
    return [
        *gates,
        conv("residual", 64, 64, second, 1, times=30),
        conv("skip", 64, 256, second, 1, times=30),
        conv("out1", 256, 256, second, 1, times=2),
    ]


def _causal(name: str, c_in: int, c_out: int, length: int, kernel: int, dilation: int, **options: Any) -> Layer:
    return conv(name, c_in, c_out, (length,), kernel, 1, (((kernel - 1) * dilation, 0),), dilation, **options)


def tcn_mnist() -> list[Layer]:
    """Bai et al. (2018), An empirical evaluation of generic convolutional networks, table 2: sequential MNIST."""
    return [
        _causal("level1a", 1, 25, 784, 7, 1),
        _causal("level1b", 25, 25, 784, 7, 1),
        *(_causal(f"level{level}", 25, 25, 784, 7, 1 << (level - 1), times=2) for level in range(2, 9)),
    ]


def tcn_words() -> list[Layer]:
    """Bai et al. (2018), table 2: language modelling on words of the Penn Treebank, 80 at a time."""
    return [_causal(f"level{level}", 600, 600, 80, 3, 1 << (level - 1), times=2) for level in range(1, 5)]


def m5() -> list[Layer]:
    """Dai et al. (2016), Very deep convolutional neural networks for raw waveforms, table 1: 4 seconds at 8 kHz."""
    return [
        conv("conv1", 1, 128, (32000,), 80, stride=4, padding=38),
        max_pool("pool1", 128, (8000,), 4),
        conv("conv2", 128, 128, (2000,), 3, padding=1),
        max_pool("pool2", 128, (2000,), 4),
        conv("conv3", 128, 256, (500,), 3, padding=1),
        max_pool("pool3", 256, (500,), 4),
        conv("conv4", 256, 512, (125,), 3, padding=1),
        max_pool("pool4", 512, (125,), 4),
        avg_pool("pool5", 512, (31,), 31),
    ]


def deformable_resnet50(masked: bool) -> list[Layer]:
    """Dai et al. (2017), Zhu et al. (2019): the 3x3 layers of ResNet-50's last stages deformable, at 224 pixels."""
    return [
        deformable(f"conv{stage}_2b", c, c, size, 3, padding=1, masked=masked, times=times)
        for stage, c, size, times in ((3, 128, 28, 3), (4, 256, 14, 5), (5, 512, 7, 2))
    ]


def c3d() -> list[Layer]:
    """Tran et al. (2015), Learning spatiotemporal features with 3D convolutional networks, figure 3."""
    rows = [
        conv("conv1a", 3, 64, (16, 112, 112), 3, padding=1),
        max_pool("pool1", 64, (16, 112, 112), (1, 2, 2)),
        conv("conv2a", 64, 128, (16, 56, 56), 3, padding=1),
        max_pool("pool2", 128, (16, 56, 56), 2),
    ]
    for stage, c_in, c_out, size in [
        (3, 128, 256, (8, 28, 28)),
        (4, 256, 512, (4, 14, 14)),
        (5, 512, 512, (2, 7, 7)),
    ]:
        rows += [
            conv(f"conv{stage}a", c_in, c_out, size, 3, padding=1),
            conv(f"conv{stage}b", c_out, c_out, size, 3, padding=1),
            max_pool(f"pool{stage}", c_out, size, 2, padding=(0, 1, 1) if stage == 5 else 0),
        ]
    return rows


def r3d18() -> list[Layer]:
    """Tran et al. (2018), A closer look at spatiotemporal convolutions, table 1: R3D, as torchvision builds it."""
    rows = [conv("stem", 3, 64, (16, 112, 112), (3, 7, 7), (1, 2, 2), (1, 3, 3), bias=False)]
    options = {"padding": 1, "bias": False}
    rows.append(conv("layer1", 64, 64, (16, 56, 56), 3, **options, times=4))
    size = (16, 56, 56)
    for layer, c in ((2, 128), (3, 256), (4, 512)):
        half = (size[0] // 2, size[1] // 2, size[2] // 2)
        rows += [
            conv(f"layer{layer}_1a", c // 2, c, size, 3, 2, **options),
            conv(f"layer{layer}_1_shortcut", c // 2, c, size, 1, 2, bias=False),
            conv(f"layer{layer}", c, c, half, 3, **options, times=3),
        ]
        size = half
    return [*rows, avg_pool("pool", 512, (2, 7, 7), (2, 7, 7))]


def filters() -> list[Layer]:
    """Image filters on one channel, whose size they keep: small to large, an image of a megapixel and one of 4K."""
    return [
        conv(f"{k}x{k}_{label}", 1, 1, size, k, padding=k // 2, bias=False)
        for label, size in (("1024", (1024, 1024)), ("4k", (2160, 3840)))
        for k in (3, 5, 7, 9, 11, 15)
    ]


# Name, layers and training batch: not the papers' hundreds, but enough images that threads are busy with whole ones.
# Segmentation at full size trains on one image (Ronneberger et al., section 3; Long et al., section 4.3).
_BUILDERS: dict[str, tuple[Callable[[], list[Layer]], int]] = {
    "lenet5": (lenet5, 128),
    "alexnet": (alexnet, 8),
    "vgg16": (vgg16, 4),
    "googlenet": (googlenet, 8),
    "resnet50": (resnet50, 8),
    "resnext50": (resnext50, 8),
    "mobilenetv2": (mobilenetv2, 8),
    "convnext_tiny": (convnext_tiny, 8),
    "deeplabv3": (deeplabv3, 4),
    "unet": (unet, 1),
    "dcgan": (dcgan, 16),
    "fcn8s": (fcn8s, 1),
    "wavenet": (wavenet, 4),
    "tcn_mnist": (tcn_mnist, 64),
    "tcn_words": (tcn_words, 16),
    "m5": (m5, 8),
    "c3d": (c3d, 2),
    "r3d18": (r3d18, 2),
    "dcnv1": (partial(deformable_resnet50, masked=False), 8),
    "dcnv2": (partial(deformable_resnet50, masked=True), 8),
    "filters": (filters, 1),
}

NETWORKS: dict[str, tuple[Layer, ...]] = {
    network: tuple(replace(row, network=network) for row in build()) for network, (build, _) in _BUILDERS.items()
}


def _each_geometry_once() -> tuple[Layer, ...]:
    rows: dict[Layer, Layer] = {}
    for network, layers in NETWORKS.items():
        for batch in dict.fromkeys((1, _BUILDERS[network][1])):
            for row in layers:
                row = replace(row, batch=batch)
                rows.setdefault(row.geometry_key, row)
    return tuple(rows.values())


LAYERS: tuple[Layer, ...] = _each_geometry_once()


def named(name: str) -> Layer:
    """The layer of this name; any batch, whether or not another network has its geometry, too.

    Raises: KeyError for a name that no network has.
    """
    network, layer, batch = name.split("/")
    for row in NETWORKS[network]:
        if row.layer == layer:
            return replace(row, batch=int(batch.removeprefix("b")))
    raise KeyError(name)


def find(pattern: str | None, rows: Iterable[Layer] = LAYERS) -> list[Layer]:
    """The rows whose name or operator a regular expression is found in, as `vgg16`, `conv1_2/b4$`, `pool`."""
    return [row for row in rows if pattern is None or re.search(pattern, row.name) or re.search(pattern, row.operator)]


def geometry_of(layer: Layer, data_format: str = "channels_first") -> ConvGeometry | PoolGeometry:
    """A layer's geometry; of a transposed one that of the convolution whose gradient it is."""
    x_shape = layer.x_shape
    if data_format == "channels_last":
        x_shape = (x_shape[0], *x_shape[2:], x_shape[1])
    common: dict[str, Any] = {"stride": layer.stride, "padding": padding_argument(layer), "dilation": layer.dilation,
                              "data_format": data_format, "ndim": layer.ndim}  # fmt: skip
    if layer.pools:
        return pool_geometry(x_shape, layer.kernel, ceil_mode=layer.ceil_mode, **common)
    if layer.operator == "conv" or layer.deforms:
        return conv_geometry(x_shape, layer.weight_shape, groups=layer.groups, **common)
    return conv_transpose_geometry(
        x_shape, layer.weight_shape, output_padding=layer.output_padding, groups=layer.groups, **common
    )


def out_shape(layer: Layer) -> Size:
    """(N, C_out, *size) of a layer's output."""
    geometry = geometry_of(layer)
    return geometry.x_shape if layer.operator == "conv_transpose" else geometry.y_shape


def parameters(layer: Layer) -> int:
    """Weights and biases of one such layer."""
    if layer.pools:
        return 0
    c_in, c_out = layer.in_channels, layer.out_channels
    return parameter_count(c_in, c_out, layer.kernel, groups=layer.groups, bias=layer.bias)


def multiply_adds(layer: Layer) -> int:
    """Products of elements of x and weight that reach y: taps in the padding are none.

    Those of a deformable convolution are counted where its taps are without offsets.
    """
    geometry = geometry_of(layer)
    axes = zip(geometry.in_size, geometry.kernel, geometry.stride, geometry.padding, geometry.dilation,
               geometry.out_size, strict=True)  # fmt: skip
    pairs = prod(_taps_inside(*axis) for axis in axes)
    return layer.batch * layer.in_channels * layer.out_channels // layer.groups * pairs


def _taps_inside(size: int, kernel: int, stride: int, padding: tuple[int, int], dilation: int, out: int) -> int:
    """Pairs of an output position and a tap along one axis that read the input and not its padding."""
    return sum(0 <= o * stride + t * dilation - padding[0] < size for o in range(out) for t in range(kernel))


def compulsory_bytes(layer: Layer, dtype: str) -> int:
    """What has to be moved at least: x, offset, mask, weight and bias read and y written once."""
    itemsize = {"float32": 4, "float64": 8}[dtype]
    deformation = sum(prod(shape) for shape in deformation_shapes(layer))
    return itemsize * (prod(layer.x_shape) + deformation + parameters(layer) + prod(out_shape(layer)))


def deformation_shapes(layer: Layer) -> list[Size]:
    """Of offset and, if there is one, mask, channels first."""
    if not layer.deforms:
        return []
    n, _, *size = out_shape(layer)
    return [(n, numbers * prod(layer.kernel), *size) for numbers in ((2, 1) if layer.masked else (2,))]
