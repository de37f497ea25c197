"""Layers: parameters, forward and backward, under PyTorch's names, on NumPy arrays.

    base.py        Layer: what every layer is, and how to write one
    conv.py        Conv1d-3d, ConvTranspose1d-3d
    deform.py      DeformConv2d
    pool.py        MaxPool, AvgPool, LPPool, their adaptive and global forms, MaxUnpool
    dense.py       Linear
    norm.py        BatchNorm1d-3d, LayerNorm, LocalResponseNorm, Dropout
    activation.py  ReLU, ReLU6, LeakyReLU, ELU, Sigmoid, Tanh, GELU, SiLU, Hardswish, Softmax, LogSoftmax
    shape.py       Flatten, the pads, Identity
    fold.py        Unfold, Fold
    loss.py        CrossEntropyLoss, MSELoss
    container.py   Sequential, Residual, Parallel
    fuse.py        fuse: a network for inference; of fused.py, what it is made of, and stripes.py
    weights.py     how convolutions and linear layers start

Layers call `fastconv.functional` and nothing below it.
"""

from fastconv.layers.activation import (
    ELU,
    GELU,
    Hardswish,
    LeakyReLU,
    LogSoftmax,
    ReLU,
    ReLU6,
    Sigmoid,
    SiLU,
    Softmax,
    Tanh,
)
from fastconv.layers.base import Layer
from fastconv.layers.container import Parallel, Residual, Sequential
from fastconv.layers.conv import (
    Conv1d,
    Conv2d,
    Conv3d,
    ConvTranspose1d,
    ConvTranspose2d,
    ConvTranspose3d,
)
from fastconv.layers.deform import DeformConv2d
from fastconv.layers.dense import Linear
from fastconv.layers.fold import Fold, Unfold
from fastconv.layers.fuse import fuse
from fastconv.layers.fused import Fused
from fastconv.layers.loss import CrossEntropyLoss, MSELoss
from fastconv.layers.norm import BatchNorm1d, BatchNorm2d, BatchNorm3d, Dropout, LayerNorm, LocalResponseNorm
from fastconv.layers.pool import (
    AdaptiveAvgPool1d,
    AdaptiveAvgPool2d,
    AdaptiveAvgPool3d,
    AdaptiveMaxPool1d,
    AdaptiveMaxPool2d,
    AdaptiveMaxPool3d,
    AvgPool1d,
    AvgPool2d,
    AvgPool3d,
    GlobalAvgPool,
    GlobalMaxPool,
    LPPool1d,
    LPPool2d,
    LPPool3d,
    MaxPool1d,
    MaxPool2d,
    MaxPool3d,
    MaxUnpool1d,
    MaxUnpool2d,
    MaxUnpool3d,
)
from fastconv.layers.shape import (
    CircularPad1d,
    CircularPad2d,
    CircularPad3d,
    Flatten,
    Identity,
    ReflectionPad1d,
    ReflectionPad2d,
    ReflectionPad3d,
    ReplicationPad1d,
    ReplicationPad2d,
    ReplicationPad3d,
    ZeroPad1d,
    ZeroPad2d,
    ZeroPad3d,
)

__all__ = [
    "ELU",
    "GELU",
    "AdaptiveAvgPool1d",
    "AdaptiveAvgPool2d",
    "AdaptiveAvgPool3d",
    "AdaptiveMaxPool1d",
    "AdaptiveMaxPool2d",
    "AdaptiveMaxPool3d",
    "AvgPool1d",
    "AvgPool2d",
    "AvgPool3d",
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "CircularPad1d",
    "CircularPad2d",
    "CircularPad3d",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "CrossEntropyLoss",
    "DeformConv2d",
    "Dropout",
    "Flatten",
    "Fold",
    "Fused",
    "GlobalAvgPool",
    "GlobalMaxPool",
    "Hardswish",
    "Identity",
    "LPPool1d",
    "LPPool2d",
    "LPPool3d",
    "Layer",
    "LayerNorm",
    "LeakyReLU",
    "Linear",
    "LocalResponseNorm",
    "LogSoftmax",
    "MSELoss",
    "MaxPool1d",
    "MaxPool2d",
    "MaxPool3d",
    "MaxUnpool1d",
    "MaxUnpool2d",
    "MaxUnpool3d",
    "Parallel",
    "ReLU",
    "ReLU6",
    "ReflectionPad1d",
    "ReflectionPad2d",
    "ReflectionPad3d",
    "ReplicationPad1d",
    "ReplicationPad2d",
    "ReplicationPad3d",
    "Residual",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Tanh",
    "Unfold",
    "ZeroPad1d",
    "ZeroPad2d",
    "ZeroPad3d",
    "fuse",
]
