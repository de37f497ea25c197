"""Training of PyTorch models with fused steps: the same losses, gradients, statistics and weights as without them."""

import copy
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import each
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch_drawn import Drawn
from torch_fused import TERMS
from torch_models import Block, Network, assert_close, images

import fastconv.backends.torch as backend
from fastconv.backends.torch import regions
from fastconv.backends.torch.training import FusedNorm, PaddedConvolution

pytestmark = pytest.mark.isa_independent

LAST = torch.channels_last
CANCELLED = 2**28  # the terms of a gradient that is little but rounding, as a bias's before a norm, beside what it sums


def trained(model, dtype=torch.float64):
    """(model, its optimized copy), both in training mode."""
    torch.manual_seed(0)
    model = model.to(dtype).train()
    for parameter in model.parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter, 0.5)
    return model, backend.optimize(model)


def steps_of(model, kind=object):
    """The fused steps of a model's regions that run in training."""
    found = [region.fastconv_training for region in regions.regions(model)]
    return [step for region in found if region.agrees for step in region.steps.values() if isinstance(step, kind)]


def assert_trains_alike(plain, ours, *inputs, times=3, terms=TERMS):
    """Losses, gradients by the inputs and by all weights, statistics and weights of some steps."""
    optimizers = [torch.optim.SGD(model.parameters(), 0.05, 0.9) for model in (plain, ours)]
    for turn in range(times):
        given = [[x.detach().clone(memory_format=torch.preserve_format).requires_grad_() for x in inputs] for _ in "12"]
        losses = []
        for model, optimizer, leaves in zip((plain, ours), optimizers, given, strict=True):
            torch.manual_seed(turn)
            optimizer.zero_grad()
            y = model(*leaves)
            losses.append((y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).reshape(y.shape)).sum())
            losses[-1].backward()
        assert_close(losses[1].detach(), losses[0].detach(), terms * y.numel())
        for mine, theirs in [
            *zip(*reversed(given), strict=True),
            *zip(ours.parameters(), plain.parameters(), strict=True),
        ]:
            assert (mine.grad is None) == (theirs.grad is None)
            if theirs.grad is not None:
                assert_close(mine.grad, theirs.grad, CANCELLED)
        for optimizer in optimizers:
            optimizer.step()
        for mine, theirs in zip(ours.buffers(), plain.buffers(), strict=True):
            assert_close(mine, theirs, CANCELLED)  # statistics of sums with weights that such gradients moved


@each(dtype=[torch.float32, torch.float64], last=[False, True])
def test_a_network_of_blocks(dtype, last):
    plain, ours = trained(Network(), dtype)
    x = images(4, 3, 16, 16).to(dtype)
    assert_trains_alike(plain, ours, x.to(memory_format=LAST) if last else x)
    norms = steps_of(ours, FusedNorm)
    assert sorted((step.activation, torch.add in step.rest) for step in norms) == [
        ("relu", False), ("relu", False), ("relu", False), ("relu", True), ("relu", True), ("tanh", False),
    ]  # fmt: skip
    assert not ours.eval().fastconv_region.refused


class Mobile(nn.Module):
    """An inverted residual as ports of TensorFlow have it: zeros padded by a function, no activation after the sum."""

    def __init__(self, pad=None):
        super().__init__()
        self.expand, self.depthwise = nn.Conv2d(4, 8, 1, bias=False), nn.Conv2d(8, 8, 3, groups=8, bias=False)
        self.project, self.pad = nn.Conv2d(8, 4, 1, bias=False), pad
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for channels in (8, 8, 4))

    def padded(self, x):
        return F.pad(x, (1, 1, 0, 2)) if self.pad is None else self.pad(x)

    def forward(self, x):
        y = F.relu6(self.norms[0](self.expand(x)))
        y = F.relu6(self.norms[1](self.depthwise(self.padded(y))))
        return x + self.norms[2](self.project(y))


@pytest.mark.parametrize("pad", [None, nn.ZeroPad2d((2, 0, 1, 1)), nn.ConstantPad2d(1, 0.0), nn.ConstantPad2d(1, 3.0)])
def test_padded_convolutions(pad):
    plain, ours = trained(Mobile(pad))
    assert_trains_alike(plain, ours, images(3, 4, 7, 6).double())
    assert len(steps_of(ours, PaddedConvolution)) == 1
    assert [(step.activation, len(step.rest)) for step in steps_of(ours, FusedNorm)] == [
        ("relu6", 1), ("relu6", 1), (None, 1),
    ]  # fmt: skip


class Head(nn.Module):
    """A convolution over joined maps, smaller ones enlarged."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(14, 4, 1), nn.BatchNorm2d(4)

    def forward(self, a, b, c):
        enlarged = (F.interpolate(x, size=a.shape[2:], mode="bilinear") for x in (b, c))
        return F.relu(self.norm(self.conv(torch.cat((a, *enlarged), dim=1))))


@pytest.mark.parametrize("last", [False, True])
def test_joined_maps(last):
    plain, ours = trained(Head())
    maps = (images(2, 3, 8, 6), images(2, 5, 4, 3, seed=1), images(2, 6, 2, 2, seed=2))
    maps = [x.double().contiguous(memory_format=LAST) if last else x.double() for x in maps]
    assert_trains_alike(plain, ours, *maps)
    assert len(steps_of(ours)) == 2
    assert_trains_alike(plain, ours, maps[0], maps[0][:, :1].repeat(1, 5, 1, 1), maps[0].repeat(1, 2, 1, 1))


class Activated(nn.Module):
    def __init__(self, activation, summed):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.activation, self.summed = activation, summed

    def forward(self, x):
        y = self.norm(self.conv(x))
        return self.activation(y + x if self.summed else y)


@pytest.mark.parametrize("summed", [False, True])
@pytest.mark.parametrize(
    ("activation", "is_told"),
    [(nn.ReLU(), True), (nn.LeakyReLU(), False), (F.sigmoid, True), (nn.GELU(), False), (nn.SiLU(), False),
     (nn.Hardswish(), False), (nn.ELU(), False), (F.gelu, False), (nn.ReLU6(), False), (torch.tanh, True)],
)  # fmt: skip
def test_what_may_follow_a_sum(activation, is_told, summed):
    plain, ours = trained(Activated(activation, summed))
    assert_trains_alike(plain, ours, images(3, 3, 5, 6).double())
    (step,) = steps_of(ours)
    assert (step.activation is not None) == (is_told or not summed)
    assert (torch.add in step.rest) == summed


class Mine(nn.Module):
    """conv -> what a test wants to know -> norm -> relu."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)

    def forward(self, x):
        return F.relu(self.norm(self.between(self.conv(x))))


class WithoutGradients(Mine):
    def between(self, x):
        with torch.no_grad():
            scale = x.abs().mean()
        return x / scale


class Rounded(torch.autograd.Function):
    """Rounds; gradients pass as if it did not."""

    @staticmethod
    def forward(ctx, x):
        return torch.round(4 * x) / 4

    @staticmethod
    def backward(ctx, grad_y):
        return grad_y


class StraightThrough(Mine):
    def between(self, x):
        return Rounded.apply(x)


class Checkpointed(Mine):
    def between(self, x):
        return checkpoint(torch.tanh, x, use_reentrant=False)


class DrawsLots(Mine):
    def between(self, x):
        return x * 2 if random.random() < 0.5 else x


class DrawsNumPys(Mine):
    def between(self, x):
        return x * float(np.random.rand())  # noqa: NPY002


class Noisy(Mine):
    def between(self, x):
        return x * torch.rand(1, dtype=torch.float64)


class Counts(Mine):
    calls = 0

    def between(self, x):
        self.calls += 1
        return x * self.calls


@pytest.mark.parametrize(
    "kind", [WithoutGradients, StraightThrough, Checkpointed, DrawsLots, DrawsNumPys, Noisy, Counts]
)
def test_what_is_not_traced(kind):
    plain, ours = trained(kind())
    for model in (plain, ours):
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002
        model.calls = 0
    state = random.getstate(), np.random.get_state()  # noqa: NPY002
    for turn in range(4):
        results = []
        for model in (plain, ours):
            random.setstate(state[0])
            np.random.set_state(state[1])  # noqa: NPY002
            random.seed(turn)
            torch.manual_seed(turn)
            x = images(2, 3, 5, 4).double().requires_grad_()
            model(x).square().sum().backward()
            results.append((x.grad, *(p.grad for p in model.parameters()), *model.buffers()))
        for mine, theirs in zip(*reversed(results), strict=True):
            assert_close(mine, theirs, CANCELLED)
    assert not steps_of(ours)


class Scheduled(Mine):
    """Numbers that a program changes from step to step, one of them of the class at first."""

    factor = 1.0

    def __init__(self):
        super().__init__()
        self.strength = 1.0

    def between(self, x):
        return x * self.strength * self.factor


def test_attributes_that_change():
    plain, ours = trained(Scheduled())
    x = images(2, 3, 5, 4).double()
    assert_trains_alike(plain, ours, x)
    assert len(steps_of(ours)) == 1
    for strength in (0.5, 1.0, True):
        plain.strength = ours.strength = strength
        assert_trains_alike(plain, ours, x)
    plain.factor = ours.factor = 2.0
    assert_trains_alike(plain, ours, x)


def test_frozen_norms_and_hooks():
    plain, ours = trained(Network())
    x, seen = images(2, 3, 16, 16).double(), []
    assert_trains_alike(plain, ours, x)
    for model in (plain, ours):
        model.stem[1].eval()
    assert_trains_alike(plain, ours, x)
    for model in (plain, ours):
        model.train()
        model.blocks[0].bn1.register_forward_hook(lambda module, args, y: seen.append(y.mean().item()))
    assert_trains_alike(plain, ours, x, times=1)
    assert len(seen) == 2
    assert seen[0] == pytest.approx(seen[1], abs=1e-9)


def test_what_a_call_must_not_be():
    """Without gradients, under autocast, in forward mode or torch.func: what PyTorch's own modules give."""
    plain, ours = trained(Network(), torch.float32)
    x = images(4, 3, 16, 16)
    for model in (plain, ours):
        model(x).sum().backward()
    with torch.no_grad():
        assert_close(ours(x), plain(x), TERMS)
    with torch.autocast("cpu", torch.bfloat16):
        assert ours(x).dtype == plain(x).dtype == torch.bfloat16
    for model in (plain, ours):
        for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
            norm.reset_running_stats()
            norm.num_batches_tracked = None
            norm.track_running_stats, norm.running_mean, norm.running_var = False, None, None
    gradients = [torch.func.grad(lambda x, model=model: model(x).square().sum())(x) for model in (plain, ours)]
    assert_close(gradients[1], gradients[0], TERMS)


def test_double_backward():
    plain, ours = trained(Block(3))
    results = []
    for model in (plain, ours):
        for _ in range(2):  # the first call is the module's own
            x = images(2, 3, 5, 4).double().requires_grad_()
            (gradient,) = torch.autograd.grad(model(x).pow(3).sum(), x, create_graph=True)
            gradient.square().sum().backward()
        results.append((x.grad, *(p.grad for p in model.parameters())))
    assert steps_of(ours)
    for mine, theirs in zip(*reversed(results), strict=True):
        assert_close(mine, theirs, CANCELLED)


def test_copies_are_traced_when_they_are_put_into_training():
    plain, ours = trained(Network())
    x = images(2, 3, 16, 16).double()
    assert_trains_alike(plain, ours, x, times=1)
    copied = copy.deepcopy(ours)
    assert not any(region.fastconv_training for region in regions.regions(copied))
    assert_trains_alike(copy.deepcopy(plain), copied.train(), x)
    assert len(steps_of(copied, FusedNorm)) == 6
    backend.refresh(ours)
    assert not steps_of(ours)  # which are compared anew
    assert_trains_alike(plain, ours, x)
    assert len(steps_of(ours, FusedNorm)) == 6
    assert not any(isinstance(module, regions.Region) for module in backend.restore(ours).modules())


def test_a_model_that_is_called_otherwise():
    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = Block(3)

        def forward(self, x, factor=None):
            return self.block(x) if factor is None else factor * self.block(x)

    plain, ours = trained(Whole())
    x = images(2, 3, 5, 4).double()
    for _ in range(3):
        for model in (plain, ours):
            model.zero_grad()
            model(x, 2.0).sum().backward()
        for mine, theirs in zip(ours.parameters(), plain.parameters(), strict=True):
            assert_close(mine.grad, theirs.grad, CANCELLED)
    assert len(steps_of(ours, FusedNorm)) == 2
    assert "other arguments" in backend.report(ours).refused[""]


def test_the_first_step_leaves_statistics_as_one_step_does():
    """Beside the comparison that it makes; and a graph that waits for its backward does not notice."""
    plain, ours = trained(Network())
    x = images(2, 3, 16, 16).double()
    waiting = ours.stem(x).sum()
    plain.stem(x)
    ours(x).sum().backward()
    plain(x)
    waiting.backward()
    for mine, theirs in zip(ours.buffers(), plain.buffers(), strict=True):
        assert_close(mine, theirs, TERMS)


def outcome(model, x):
    """Results, gradients and statistics of a training step, or what kind of error it ended with."""
    try:
        leaf = x.clone().requires_grad_()
        results = model(leaf + 0)
        sum((weight * y * y.detach().cos()).sum() for weight, y in enumerate(results, 1)).backward()
    except RuntimeError as error:
        return str(error)[:60]
    return [*(y.detach() for y in results), leaf.grad, *(p.grad for p in model.parameters()), *model.buffers()]


@pytest.mark.parametrize("seed", range(40))
def test_drawn_networks_train_as_they_do_by_themselves(seed):
    """Also those whose gradients are lost since a step writes to what another one's gradient needs."""
    plain, ours = trained(Drawn(seed))
    x = images(3, 4, 5, 6, dtype=torch.float64)
    for _ in range(3):
        expected, actual = outcome(plain, x), outcome(ours, x)
        if isinstance(expected, str):
            assert actual == expected
            continue
        for mine, theirs in zip(actual, expected, strict=True):
            assert (mine is None) == (theirs is None)
            if theirs is not None:
                assert_close(mine, theirs, CANCELLED)
    for region in regions.regions(ours):
        assert not region.fastconv_training.refused
