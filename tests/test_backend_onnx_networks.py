"""Whole networks in one run, against PyTorch: those of onnx's wheel with random weights, and PyTorch's own exports."""

import io
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

pytest.importorskip("onnx", reason="onnx is not installed: pip install 'fastconv[onnx]'")

from onnx_models import operators
from onnx_networks import by_torch

from fastconv.backends.onnx import Session
from fastconv.benchmarks.adapters.dropins.light import randomized

pytestmark = pytest.mark.isa_independent

# Errors of layers add up, each some eps of the values; the deepest of these have 60 to 120 convolutions.
TOLERANCE = 200 * float(np.finfo(np.float32).eps)


def distance(y, exact):
    """Relative L2."""
    return np.linalg.norm(y - exact) / np.linalg.norm(exact)


@pytest.mark.parametrize(
    ("name", "data_format", "expected"),
    [
        ("densenet121", "channels_last",
         {"Conv+BatchNormalization+Mul+Add+Relu": 59, "BatchNormalization+Mul+Add+Relu": 62, "Conv": 62}),
        ("inception_v1", "channels_first", {"Conv+Relu": 57, "LRN": 2, "Gemm": 1}),
        ("resnet50", "channels_last",
         {"Conv+BatchNormalization+Relu": 33, "Conv+BatchNormalization+Sum+Relu": 16, "Conv+BatchNormalization": 4}),
        ("shufflenet", "channels_first",
         {"Conv+BatchNormalization+Sum+Relu": 13, "Conv+BatchNormalization+Relu": 17, "Conv+BatchNormalization": 19}),
    ],
)  # fmt: skip
def test_networks_with_random_weights(name, data_format, expected):
    model = randomized(name)
    session = Session(model, data_format=data_format)
    (value,) = session.get_inputs()
    x = np.random.default_rng(1).standard_normal(value.shape, dtype=np.float32)
    profile = session.profile({value.name: x})
    ran = [timing.operator for timing in profile.timings]
    assert {operator: ran.count(operator) for operator in expected} == expected
    assert "BatchNormalization" not in ran
    assert "Relu" not in ran or name == "shufflenet"  # where it follows a Concat
    assert distance(profile.outputs[0], by_torch(model, x)) < TOLERANCE


class Block(nn.Module):
    """A block of ConvNeXt: normalized over the channels, which lie last meanwhile."""

    def __init__(self, channels):
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.wide, self.narrow = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)
        self.scale = nn.Parameter(torch.randn(channels))

    def forward(self, x):
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.narrow(F.gelu(self.wide(y))) * self.scale
        return x + y.permute(0, 3, 1, 2)


class Attention(nn.Module):
    """SegFormer's attention over a smaller picture of keys and values."""

    def __init__(self, channels, heads, reduction):
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(channels, channels) for _ in range(4))
        self.reduce = nn.Conv2d(channels, channels, reduction, reduction)
        self.norm, self.heads = nn.LayerNorm(channels), heads

    def forward(self, x, height, width):
        batch, _, channels = x.shape
        small = self.reduce(x.permute(0, 2, 1).reshape(batch, channels, height, width))
        small = self.norm(small.reshape(batch, channels, -1).permute(0, 2, 1))
        q, k, v = (
            layer(y).view(batch, -1, self.heads, channels // self.heads).permute(0, 2, 1, 3)
            for layer, y in ((self.q, x), (self.k, small), (self.v, small))
        )
        weights = (q @ k.transpose(-1, -2) / (channels // self.heads) ** 0.5).softmax(-1)
        return self.out((weights @ v).permute(0, 2, 1, 3).reshape(batch, -1, channels))


class Segmenter(nn.Module):
    """One stage of SegFormer, and a head that scales its result up."""

    def __init__(self):
        super().__init__()
        self.embed, self.norm = nn.Conv2d(3, 16, 7, 4, 3), nn.LayerNorm(16)
        self.attention = Attention(16, 2, 4)
        self.wide, self.narrow = nn.Linear(16, 64), nn.Linear(64, 16)
        self.depthwise = nn.Conv2d(64, 64, 3, 1, 1, groups=64)
        self.head = nn.Sequential(nn.Conv2d(16, 5, 1), nn.BatchNorm2d(5), nn.ReLU())

    def forward(self, x):
        x = self.embed(x)
        batch, channels, height, width = x.shape
        x = x.flatten(2).transpose(1, 2)
        x = x + self.attention(self.norm(x), height, width)
        y = self.wide(x).transpose(1, 2).view(batch, -1, height, width)
        x = x + self.narrow(F.gelu(self.depthwise(y).flatten(2).transpose(1, 2)))
        x = x.transpose(1, 2).reshape(batch, channels, height, width)
        return self.head(F.interpolate(x, size=(2 * height, 2 * width), mode="bilinear", align_corners=False))


class Squeeze(nn.Module):
    """Squeeze and excitation of MobileNetV3."""

    def __init__(self, channels):
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, channels // 4, 1), nn.Conv2d(channels // 4, channels, 1)

    def forward(self, x):
        return x * F.hardsigmoid(self.up(F.relu(self.down(F.adaptive_avg_pool2d(x, 1)))))


def mobile():
    """Every way in which mobile networks end a convolution, a decoder, and normalizations of other kinds."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.Hardswish(),
        nn.Conv2d(16, 16, 3, 1, 1, groups=16, bias=False), nn.BatchNorm2d(16), nn.SiLU(), Squeeze(16),
        nn.Conv2d(16, 24, 1), nn.BatchNorm2d(24), nn.ReLU6(), nn.ConvTranspose2d(24, 8, 4, 2, 1), nn.BatchNorm2d(8),
        nn.LeakyReLU(0.1), nn.PReLU(8), nn.Upsample(scale_factor=2), nn.InstanceNorm2d(8), nn.GroupNorm(2, 8),
        nn.ConstantPad2d(1, 0.0), nn.Conv2d(8, 4, 3), nn.PixelShuffle(2),
    )  # fmt: skip


def convnext():
    return nn.Sequential(
        nn.Conv2d(3, 16, 4, 4), Block(16), Block(16), nn.Conv2d(16, 32, 2, 2), Block(32), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.LayerNorm(32), nn.Linear(32, 10),
    )  # fmt: skip


def exported(network, opset):
    """The network as PyTorch writes it, for batches of any size."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is a newer exporter, which needs another package
        torch.onnx.export(
            network, torch.zeros(2, 3, 64, 64), file, dynamo=False, opset_version=opset, input_names=["x"],
            dynamic_axes={"x": {0: "batch"}},
        )  # fmt: skip
    return file.getvalue()


@pytest.mark.parametrize("opset", [11, 17, 20])
@pytest.mark.parametrize("make", [mobile, convnext, Segmenter])
def test_exports_of_pytorch(make, opset):
    torch.manual_seed(0)
    network = make()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.running_mean, 0, 0.2)
            nn.init.uniform_(layer.running_var, 0.5, 1.5)
    network.eval()
    session = Session(exported(network, opset), data_format="channels_last" if opset == 11 else "channels_first")
    for batch in (1, 3):
        x = torch.randn(batch, 3, 64, 64)
        (y,) = session.run({"x": x.numpy()})
        with torch.no_grad():
            assert distance(y, network(x).numpy()) < TOLERANCE
    ran = operators(session, {"x": x.numpy()})
    assert not {"BatchNormalization", "Erf", "Identity", "Constant"}.intersection(ran)
