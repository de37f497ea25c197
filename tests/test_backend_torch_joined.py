"""Convolutions over joined, enlarged maps: made before the enlargement, where that is less, with the same results."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch_fused import TERMS, optimized
from torch_models import assert_close, images

from fastconv.backends.torch import joined

pytestmark = pytest.mark.isa_independent

LARGE, SMALL, TINY = images(2, 3, 8, 6), images(2, 5, 4, 3, seed=1), images(2, 6, 2, 2, seed=2)


class Head(nn.Module):
    """(a, b, c) -> conv(cat(b, a, c)), the smaller ones enlarged to a's size."""

    def __init__(self, kernel=1, out=4, mode="bilinear", bias=True, norm=True):
        super().__init__()
        self.conv = nn.Conv2d(14, out, kernel, padding=kernel // 2, bias=bias)
        self.norm, self.mode = nn.BatchNorm2d(out) if norm else nn.Identity(), mode

    def larger(self, x, like):
        return F.interpolate(x, size=like.shape[2:], mode=self.mode)

    def joined(self, a, b, c):
        return torch.cat((self.larger(b, a), a, self.larger(c, a)), dim=1)

    def forward(self, a, b, c):
        return F.relu(self.norm(self.conv(self.joined(a, b, c))))


@pytest.fixture
def apart(monkeypatch):
    """Grows with each convolution that was made before enlargements."""
    made = []
    whole = joined._divided

    def divided(*args):
        made.append(args)
        return whole(*args)

    monkeypatch.setattr(joined, "_divided", divided)
    return made


@torch.no_grad()
def check(head, maps=(LARGE, SMALL, TINY)):
    """Twice the same as the plain module, in either memory format; returns the optimized one."""
    plain, ours = optimized(head)
    last = tuple(x.contiguous(memory_format=torch.channels_last) for x in maps)
    for given in (maps, last, maps):
        for _ in range(2):
            y, expected = ours(*given), plain(*given)
            assert_close(y, expected, TERMS)
            assert y.stride() == expected.stride()
    assert ours.fastconv_region.agrees
    return ours


@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("norm", [True, False])
def test_it_is_made_before_enlargements(mode, bias, norm, apart):
    check(Head(mode=mode, bias=bias, norm=norm))
    assert len(apart) == 6  # and once beside the module's own forward, in the place of the first call


def test_factors_and_several_maps_of_the_same_size(apart):
    class Factors(Head):
        def joined(self, a, b, c):
            return torch.concat([a, F.interpolate(b, None, 2.0), F.interpolate(c, scale_factor=(4, 3)), a[:, :0]], 1)

    check(Factors())
    assert apart


def test_sizes_may_change(apart):
    ours = check(Head())
    plain = Head().eval()
    plain.load_state_dict(ours.state_dict())
    with torch.no_grad():
        for a, b, c in (
            (images(1, 3, 5, 7), images(1, 5, 3, 3), images(1, 6, 5, 6)),
            (images(1, 3, 4, 4), images(1, 5, 9, 9), images(1, 6, 8, 8)),
            (images(1, 3, 4, 4), images(1, 5, 4, 4), images(1, 6, 2, 8)),
        ):
            assert_close(ours(a, b, c), plain(a, b, c), TERMS)


@torch.no_grad()
def test_changed_weights(apart):
    plain, ours = optimized(Head())
    for change in (
        lambda net: net.conv.weight.mul_(2),
        lambda net: net.norm.running_mean.add_(1),
        lambda net: setattr(net.conv, "weight", nn.Parameter(net.conv.weight + 1)),
    ):
        for net in (plain, ours):
            change(net)
        for _ in range(2):
            assert_close(ours(LARGE, SMALL, TINY), plain(LARGE, SMALL, TINY), TERMS)
    with torch.inference_mode():
        assert_close(ours(LARGE, SMALL, TINY), plain(LARGE, SMALL, TINY), TERMS)
    assert len(apart) == 7


class Shared(Head):
    """Its joined maps are read twice."""

    def forward(self, a, b, c):
        x = self.joined(a, b, c)
        return F.relu(self.conv(x)) + x.mean()


class Written(Head):
    """A map is written to once it has been enlarged."""

    def forward(self, a, b, c):
        b = b + 0
        x = self.larger(b, a)
        b.zero_()
        return F.relu(self.conv(torch.cat((a, x, self.larger(c, a)), 1))) + b.sum()


class Stacked(Head):
    def joined(self, a, b, c):
        return torch.cat((self.larger(b, a), self.larger(c, a), a), 1).flip(1)


class Alone(Head):
    """All are enlarged."""

    def joined(self, a, b, c):
        return torch.cat([F.interpolate(x, (16, 12)) for x in (a, b, c)], 1)


class Residual(Head):
    def forward(self, a, b, c):
        return F.relu(self.conv(self.joined(a, b, c)) + a[:, :1])


@pytest.mark.parametrize(
    "head",
    [Head(kernel=3), Head(out=20), Shared(), Written(), Stacked(), Alone(), Residual()],
    ids=lambda h: type(h).__name__,
)
def test_elsewhere_it_is_made_as_it_stands(head, apart):
    check(head)
    assert apart == []


def test_its_gradients_are_pytorchs(apart):
    plain, ours = optimized(Head())
    for net in (plain, ours):
        net(LARGE, SMALL, TINY).sum().backward()
    assert_close(ours.conv.weight.grad, plain.conv.weight.grad, TERMS)
    assert apart == []
