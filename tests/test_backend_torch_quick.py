"""Fused steps that look at nothing again: they are as good as those that do, and notice what changes between calls."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize
from torch_fused import TERMS, optimized
from torch_models import assert_close, images

from fastconv.backends.torch import fusion
from fastconv.runtime import algorithm

pytestmark = pytest.mark.isa_independent


class Net(nn.Module):
    """A convolution with a norm, and one with a residual."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.second, self.leaf = nn.Conv2d(4, 4, 1), Leaf()

    def forward(self, x):
        y = F.relu(self.norm(self.first(x)))
        return F.relu(self.second(self.leaf(y)) + x)


class Leaf(nn.Module):
    """What cannot be traced, and may give a tensor of another kind."""

    kind = staticmethod(lambda y: y)

    def forward(self, y):
        return self.kind(y) if y.shape[0] else y


@pytest.fixture
def planned(monkeypatch):
    """The steps that looked at everything, one entry a time."""
    looked = []
    whole = fusion.FusedConvolution.planned

    def planned(self, *args):
        looked.append(self)
        return whole(self, *args)

    monkeypatch.setattr(fusion.FusedConvolution, "planned", planned)
    return looked


@pytest.fixture
def warm(planned):
    """A network, its optimized copy, and an input that both have seen."""
    plain, ours = optimized(Net())
    x = images(2, 4, 6, 5)
    with torch.no_grad():
        for _ in range(2):
            assert_close(ours(x), plain(x), TERMS)
        planned.clear()
        assert_close(ours(x), plain(x), TERMS)
    assert planned == []
    return plain, ours, x


@torch.no_grad()
def test_each_kind_of_input_is_looked_at_once(warm, planned):
    plain, ours, _ = warm
    other = images(3, 4, 7, 8, seed=1)
    for x in (other, other.contiguous(memory_format=torch.channels_last)):
        planned.clear()
        for _ in range(3):
            y, expected = ours(x), plain(x)
            assert_close(y, expected, TERMS)
            assert y.stride() == expected.stride()
        assert len(planned) == 2
    turned = images(3, 4, 8, 7).transpose(2, 3)
    for _ in range(3):
        planned.clear()
        assert_close(ours(turned), plain(turned), TERMS)
        assert planned  # of what must be copied, each time
    planned.clear()
    assert_close(ours(other), plain(other), TERMS)
    assert planned == []


def replaced(net):
    net.first.weight = nn.Parameter(net.first.weight.detach() * 2)


def added(net):
    net.second.weight.data += 1
    net.second.weight.add_(1)


def given(net):
    net.second.bias.data = torch.ones(4)


def counted(net):
    net.norm.running_mean += 1


def pointed(net):
    net.norm._buffers["running_var"] = net.norm.running_var * 3


def eased(net):
    net.norm.eps = 0.5


@pytest.mark.parametrize("change", [replaced, added, given, counted, pointed, eased])
@torch.no_grad()
def test_changes_are_noticed(change, warm, planned):
    plain, ours, x = warm
    before = plain(x)
    change(plain)
    change(ours)
    assert (plain(x) != before).any()
    for _ in range(3):
        assert_close(ours(x), plain(x), TERMS)
    assert len(planned) == 2


@torch.no_grad()
def test_options_are_noticed(planned):
    plain, ours = optimized(nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU()))
    x = images(2, 4, 9, 8)
    for stride in ((1, 1), (2, 1), (1, 1)):
        plain[0].stride = ours[0].stride = stride
        for _ in range(3):
            assert_close(ours(x), plain(x), TERMS)


@torch.no_grad()
def test_options_of_a_transposed_convolution_are_noticed(planned):
    plain, ours = optimized(nn.Sequential(nn.ConvTranspose2d(4, 4, 3, stride=2), nn.ReLU()))
    x = images(2, 4, 5, 4)
    for more in ((0, 0), (1, 0), (0, 1)):
        plain[0].output_padding = ours[0].output_padding = more
        for _ in range(3):
            assert_close(ours(x), plain(x), TERMS)


@torch.no_grad()
def test_settings_are_noticed(warm, planned):
    plain, ours, x = warm
    with algorithm("direct"):
        assert_close(ours(x), plain(x), TERMS)
    assert len(planned) == 2


@torch.no_grad()
def test_weights_that_are_computed_are_looked_at(planned):
    class Doubled(nn.Module):
        def forward(self, weight):
            return 2 * weight

    plain, ours = optimized(nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU()))
    x = images(2, 4, 9, 8)
    for _ in range(2):
        ours(x)
    for net in (plain, ours):
        parametrize.register_parametrization(net[0], "weight", Doubled())
    for factor in (1, 3):
        for net in (plain, ours):
            net[0].parametrizations.weight.original.mul_(factor)
        assert_close(ours(x), plain(x), TERMS)


class Kind(torch.Tensor):
    """A tensor whose operators are its own."""


@pytest.mark.parametrize("kind", [lambda y: y.as_subclass(Kind), lambda y: y.double(), lambda y: -y, torch._neg_view])
@torch.no_grad()
def test_other_tensors_within_a_network(kind, warm):
    plain, ours, x = warm
    plain.leaf.kind = ours.leaf.kind = kind
    outcomes = []
    for net in (plain, ours):
        try:
            outcomes.append(net(x))
        except RuntimeError as error:
            outcomes.append(str(error))
    if isinstance(outcomes[0], str):
        assert outcomes[1] == outcomes[0]
    else:
        assert type(outcomes[1]) is type(outcomes[0])
        assert_close(outcomes[1].as_subclass(torch.Tensor), outcomes[0].as_subclass(torch.Tensor), TERMS)


@torch.no_grad()
def test_profilers_see_steps(warm):
    _, ours, x = warm
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        ours(x)
    counts = {event.key: event.count for event in profile.key_averages()}
    assert counts["fastconv::fused_convolution"] == 2
