"""What the tests of fused forwards of PyTorch models share: a model beside its optimized copy."""

import torch
from torch import nn
from torch_models import assert_close, shaken

import fastconv.backends.torch as backend
from fastconv.backends.torch import regions

TERMS = 2**12  # more than any sum of theirs has, times what a few layers amplify


class Chain(nn.Module):
    """x -> conv -> `after`, a function of (module, y, x)."""

    def __init__(self, after, conv=None, norm=None):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1) if conv is None else conv
        self.norm = nn.BatchNorm2d(4) if norm is None else norm
        self.relu, self.after = nn.ReLU(inplace=True), after

    def forward(self, x):
        return self.after(self, self.conv(x), x)


def optimized(model):
    """(model, its optimized copy), both in evaluation mode."""
    torch.manual_seed(0)
    model = shaken(model).eval()
    return model, backend.optimize(model)


def fused(model, name="conv"):
    """What a convolution does besides, by a report."""
    return next(module.fused for module in backend.report(model).modules if module.name == name)


def assert_runs_fused(model, x, steps):
    """The same results, by so many fused convolutions."""
    plain, ours = optimized(model)
    region, *_ = regions.regions(ours)
    with torch.no_grad():
        for sample in (x, x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x):
            expected = plain(sample.clone())
            for _ in range(2):
                actual = ours(sample.clone())
                assert_close(actual, expected, TERMS)
                assert actual.stride() == expected.stride()
    assert region.fastconv_region.refused is None
    assert region.fastconv_region.agrees
    assert len(region.fastconv_region.steps) == steps
    return ours
