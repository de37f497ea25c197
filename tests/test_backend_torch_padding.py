"""Zeros that PyTorch's code pads right before a convolution: which of them it pads itself, as it reads."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch_fused import assert_runs_fused, fused
from torch_models import images

pytestmark = pytest.mark.isa_independent


def same_padding(x, conv):
    """As ports of TensorFlow's models pad: no trace knows the sizes."""
    pads = []
    for size, stride, kernel in zip(x.shape[:1:-1], conv.stride[::-1], conv.kernel_size[::-1], strict=True):
        total = max(kernel - (int(size) % stride or stride), 0)
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads, "constant", 0.0)


def doubled_padding(x, conv):
    """Wants the padded tensor itself."""
    return same_padding(x, conv) * 2


class PaddedConv(nn.Module):
    """x -> `before`, a function of (module, x) -> conv -> norm -> ReLU."""

    def __init__(self, before, **options):
        super().__init__()
        self.conv, self.norm, self.before = nn.Conv2d(4, 4, 3, **options), nn.BatchNorm2d(4), before
        self.zeros, self.cut, self.halves = (
            nn.ZeroPad2d((1, 0, 2, 3)),
            nn.ZeroPad2d((1, -1, 0, 0)),
            nn.ConstantPad2d(1, 0.5),
        )

    def forward(self, x):
        return F.relu(self.norm(self.conv(self.before(self, x))))


@pytest.mark.parametrize("options", [{}, {"stride": 2}, {"padding": 1}, {"padding": "same"}], ids=str)
@pytest.mark.parametrize(
    ("before", "is_read"),
    [
        (lambda m, x: same_padding(x, m.conv), True),
        (lambda m, x: doubled_padding(x, m.conv), False),
        (lambda m, x: m.zeros(x), True),
        (lambda m, x: m.cut(x), False),
        (lambda m, x: m.halves(x), False),
        (lambda m, x: F.pad(x, (1, 2)), True),
        (lambda m, x: F.pad(x, (1, 2, 0, 1), mode="constant", value=0.0), True),
        (lambda m, x: F.pad(x, (1, 1, 1, 1), mode="reflect"), False),
    ],
)
def test_a_convolution_pads_as_it_reads(before, is_read, options, monkeypatch):
    """Where zeros are padded right before it: PyTorch makes no padded tensor then."""
    ours = assert_runs_fused(PaddedConv(before, **options), images(2, 4, 7, 6), 1)
    assert fused(ours)[-2:] == ("norm", "relu")
    made, pad = [], torch._C._nn.pad
    monkeypatch.setattr(torch._C._nn, "pad", lambda *args, **kwargs: made.append(args) or pad(*args, **kwargs))
    with torch.no_grad():
        ours(images(2, 4, 7, 6))
    assert bool(made) != is_read
