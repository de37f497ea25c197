"""Modules of PyTorch for the tests of its backend, and how far fastconv's results may be from theirs."""

import numpy as np
import torch
from torch import nn

# (module, shape of x, with a batch axis): every class, with what its arguments can be.
MODULES = {
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, stride=2, padding=2, dilation=2, groups=2), (3, 4, 17)),
    "conv1d same": (lambda: nn.Conv1d(3, 4, 4, padding="same"), (2, 3, 9)),
    "conv2d": (lambda: nn.Conv2d(3, 8, 3, padding=1), (2, 3, 9, 7)),
    "conv2d strided": (lambda: nn.Conv2d(6, 4, (3, 2), (2, 1), (1, 0), bias=False, groups=2), (2, 6, 9, 8)),
    "conv2d pointwise": (lambda: nn.Conv2d(8, 16, 1), (2, 8, 5, 5)),
    "conv2d depthwise": (lambda: nn.Conv2d(8, 8, 3, padding=1, groups=8), (2, 8, 6, 7)),
    "conv2d winograd": (lambda: nn.Conv2d(32, 32, 3, padding=1), (1, 32, 14, 14)),
    "conv2d valid": (lambda: nn.Conv2d(3, 2, 3, padding="valid"), (2, 3, 6, 6)),
    "conv2d reflect": (lambda: nn.Conv2d(3, 4, 3, padding=(1, 2), padding_mode="reflect"), (2, 3, 6, 7)),
    "conv2d replicate same": (lambda: nn.Conv2d(3, 4, 4, padding="same", padding_mode="replicate"), (2, 3, 6, 7)),
    "conv2d circular": (lambda: nn.Conv2d(3, 4, 3, padding=2, padding_mode="circular"), (2, 3, 6, 7)),
    "conv3d": (lambda: nn.Conv3d(3, 4, 3, padding=1), (2, 3, 4, 5, 6)),
    "conv_transpose1d": (lambda: nn.ConvTranspose1d(4, 6, 3, 2, 1, output_padding=1, groups=2), (2, 4, 7)),
    "conv_transpose2d": (lambda: nn.ConvTranspose2d(4, 6, 4, 2, 1, groups=2), (2, 4, 5, 6)),
    "conv_transpose2d dilated": (lambda: nn.ConvTranspose2d(4, 3, 2, 1, 0, 1, dilation=2, bias=False), (2, 4, 5, 6)),
    "conv_transpose3d": (lambda: nn.ConvTranspose3d(2, 3, 2, 2), (1, 2, 3, 4, 3)),
    "max_pool1d": (lambda: nn.MaxPool1d(3, 2, 1), (2, 3, 11)),
    "max_pool2d": (lambda: nn.MaxPool2d(3, 2, 1, dilation=2, ceil_mode=True), (2, 3, 12, 11)),
    "max_pool2d indices": (lambda: nn.MaxPool2d(2, return_indices=True), (2, 3, 6, 7)),
    "max_pool3d": (lambda: nn.MaxPool3d((1, 2, 3), stride=(1, 2, 1)), (2, 3, 4, 5, 6)),
    "avg_pool1d": (lambda: nn.AvgPool1d(3, 2, 1), (2, 3, 11)),
    "avg_pool2d": (lambda: nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False), (2, 3, 7, 8)),
    "avg_pool3d": (lambda: nn.AvgPool3d(2, divisor_override=3), (2, 3, 4, 5, 6)),
    "lp_pool1d": (lambda: nn.LPPool1d(2, 3), (2, 3, 11)),
    "lp_pool2d": (lambda: nn.LPPool2d(3, (2, 3), stride=1, ceil_mode=True), (2, 3, 5, 6)),
    "lp_pool3d": (lambda: nn.LPPool3d(2, 2), (2, 3, 4, 4, 4)),
    "adaptive_avg_pool1d": (lambda: nn.AdaptiveAvgPool1d(4), (2, 3, 11)),
    "adaptive_avg_pool2d": (lambda: nn.AdaptiveAvgPool2d((3, None)), (2, 3, 7, 8)),
    "adaptive_avg_pool3d": (lambda: nn.AdaptiveAvgPool3d(1), (2, 3, 4, 5, 6)),
    "adaptive_max_pool1d": (lambda: nn.AdaptiveMaxPool1d(4), (2, 3, 11)),
    "adaptive_max_pool2d": (lambda: nn.AdaptiveMaxPool2d((3, 2), return_indices=True), (2, 3, 7, 8)),
    "adaptive_max_pool3d": (lambda: nn.AdaptiveMaxPool3d((2, None, 3)), (2, 3, 4, 5, 6)),
}


class Block(nn.Module):
    """A residual block of ResNet's kind."""

    def __init__(self, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        shortcut = nn.Conv2d(channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
        self.downsample = nn.Sequential(*shortcut) if stride > 1 else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += identity
        return self.relu(out)


class Network(nn.Module):
    """Convolutions, pools and norms of several kinds; x (N, 3, 16, 16) -> (N, 5)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.pool = nn.MaxPool2d(2)
        self.blocks = nn.Sequential(Block(8), Block(8, stride=2))
        self.up, self.norm = nn.ConvTranspose2d(8, 4, 2, 2, groups=2), nn.BatchNorm2d(4)
        self.mean, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.blocks(self.pool(self.stem(x)))
        return self.head(torch.flatten(self.mean(torch.tanh(self.norm(self.up(x)))), 1))


def network(dtype: torch.dtype = torch.float32) -> Network:
    """The same network each time, whose norms are not the identity."""
    torch.manual_seed(0)
    return shaken(Network()).to(dtype)


def shaken(model: nn.Module) -> nn.Module:
    """The model with batch normalizations that have seen something."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats:
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 2)
                nn.init.normal_(module.bias)
    return model


def images(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    """Positive numbers, whose powers are numbers, and none of which are equal."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype) + 0.5


def assert_close(actual: torch.Tensor, expected: torch.Tensor, terms: int) -> None:
    """Within the rounding of sums of so many terms, either of which is off by eps / 2 * sqrt(terms) and more."""
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    if not expected.is_floating_point():
        assert torch.equal(actual, expected)
        return
    limit = 2 * np.finfo(str(expected.dtype).removeprefix("torch.")).eps * np.sqrt(terms)
    limit *= max(1.0, expected.abs().max().item() if expected.numel() else 1.0)
    error = (actual - expected).abs().max().item() if expected.numel() else 0.0
    assert error <= limit, f"off by {error:.3g}, more than {limit:.3g}"
