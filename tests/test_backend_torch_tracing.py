"""Which parts of PyTorch models torch.fx can trace, what stays a call, and what tracing must not miss or leave."""

import collections
import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch_fused import TERMS, Chain, assert_runs_fused, fused, optimized
from torch_models import Block, assert_close, images

import fastconv.backends.torch as backend
from fastconv.backends.torch import regions

pytestmark = pytest.mark.isa_independent


class Whole(nn.Module):
    """A model that cannot be traced, of parts that can."""

    def __init__(self):
        super().__init__()
        self.first, self.rest = Block(4), nn.ModuleList([Block(4, stride=2), Chain(lambda m, y, x: m.relu(y))])

    def forward(self, x):
        if x.sum() > 0:
            x = self.first(x)
        for part in self.rest:
            x = part(x)
        return x


def test_the_largest_parts_that_can_be_traced_are_fused():
    plain, ours = optimized(Whole())
    assert [type(region).__name__ for region in regions.regions(ours)] == ["Block", "Block", "Chain"]
    x = images(2, 4, 8, 8)
    with torch.no_grad():
        for _ in range(2):
            assert_close(ours(x), plain(x), TERMS)
    assert all(region.fastconv_region.agrees for region in regions.regions(ours))


def padded(x, conv):
    """A function that cannot be traced, and takes a module."""
    missing = (conv.kernel_size[0] - int(x.shape[-1])) % 2
    return F.pad(x, (0, missing))


class Branching(nn.Module):
    """A module that cannot be traced, of one that can."""

    def __init__(self):
        super().__init__()
        self.part = Chain(lambda m, y, x: m.relu(m.norm(y)))

    def forward(self, x):
        return self.part(x) if x.shape[-1] > 5 else x


class Padding(nn.Module):
    """A module that can be traced but for a function and a module that it calls."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.branch = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), Branching()

    def forward(self, x):
        x = padded(x, self.conv)
        shortcut = self.branch(x)
        return F.relu(self.norm(self.conv(x)) + shortcut)


@pytest.mark.parametrize("size", [4, 8])
def test_what_cannot_be_traced_stays_a_call(size):
    ours = assert_runs_fused(Padding(), images(2, 4, 5, size), 1)
    assert list(regions.regions(ours)) == [ours, ours.branch.part]
    assert ours.branch.part.fastconv_region.agrees == (size > 5)
    assert fused(ours) == ("norm", "add", "relu")


@dataclasses.dataclass
class Output(collections.OrderedDict):
    """A result by name, key and number, as those of transformers are."""

    last: torch.Tensor
    others: tuple | None = None

    def __post_init__(self):
        for part in dataclasses.fields(self):
            if getattr(self, part.name) is not None:
                self[part.name] = getattr(self, part.name)


def test_results_that_are_dicts_and_dataclasses_stay_what_they_are():
    plain, ours = optimized(Chain(lambda m, y, x: Output(last=F.relu(y))))
    x = images(2, 4, 6, 5)
    with torch.no_grad():
        for _ in range(2):
            y, expected = ours(x), plain(x)
            assert type(y) is Output
            assert (list(y), y.others) == (["last"], None)
            assert y["last"] is y.last
            assert_close(y.last, expected.last, TERMS)
    assert fused(ours) == ("relu",)


def test_what_a_trace_cannot_see_is_found_when_it_first_runs():
    def after(m, y, x):
        return F.relu(y) if isinstance(x, torch.Tensor) else F.relu(y) + 1

    plain, ours = optimized(Chain(after))
    x = images(2, 4, 6, 5)
    with torch.no_grad():
        for _ in range(2):
            assert_close(ours(x), plain(x), TERMS)
    assert "the model does not run fused: its traced forward gives other results" in str(backend.report(ours))
    assert fused(ours) == ()


@dataclasses.dataclass
class Answer:
    """What a model may return."""

    first: torch.Tensor
    rest: tuple[torch.Tensor, None]


@pytest.mark.parametrize("make", [lambda y, z: {"y": y, "z": [z, 3]}, lambda y, z: Answer(y, (z, None))])
def test_results_of_any_structure(make):
    class Structured(Chain):
        def forward(self, x):
            return make(F.relu(self.conv(x)), self.norm(x))

    plain, ours = optimized(Structured(None))
    x = images(2, 4, 6, 5)
    with torch.no_grad():
        expected = plain(x)
        for _ in range(2):
            actual = ours(x)
            assert type(actual) is type(expected)
            flat = [vars(a) if isinstance(a, Answer) else a for a in (actual, expected)]
            for a, b in zip(*map(torch.utils._pytree.tree_leaves, flat), strict=True):
                assert_close(a, b, TERMS) if isinstance(b, torch.Tensor) else None
                assert type(a) is type(b)
    assert ours.fastconv_region.agrees


def test_random_numbers_stay_random():
    class Noisy(Chain):
        def forward(self, x):
            return F.relu(self.conv(x)) + torch.rand_like(x)

    plain, ours = optimized(Noisy(None))
    x = images(2, 4, 6, 5)
    for model in (plain, ours):
        torch.manual_seed(1)
        with torch.no_grad():
            model.results = [model(x) for _ in range(3)]
    for actual, expected in zip(ours.results, plain.results, strict=True):
        assert_close(actual, expected, TERMS)
    assert next(regions.regions(ours)).fastconv_region.agrees

    class Baked(Chain):
        def forward(self, x):
            return F.relu(self.conv(x)) + torch.rand(6, 5)

    assert not list(regions.regions(optimized(Baked(None))[1]))
    assert not any("constant" in name for name in vars(optimized(Baked(None))[1]))


def test_tracing_leaves_no_trace():
    class Counting(Chain):
        def __init__(self):
            super().__init__(None)
            self.calls, self.seen = 0, None
            self.register_buffer("total", torch.zeros(()))

        def forward(self, x):
            self.calls += 1
            self.seen = x
            self.total.add_(1)
            return F.relu(self.conv(x))

    plain, ours = optimized(Counting())
    assert (ours.calls, ours.seen, ours.total.item()) == (0, None, 0)
    assert not list(regions.regions(ours))
    with torch.no_grad():
        assert_close(ours(images(2, 4, 6, 5)), plain(images(2, 4, 6, 5)), TERMS)
    assert (ours.calls, ours.total.item()) == (1, 1)


class Recording(nn.Module):
    """It keeps what its blocks give, by hooks that it registers when it first runs, as transformers' models do."""

    def __init__(self):
        super().__init__()
        self.blocks, self.head = nn.ModuleList([Block(4), Block(4)]), nn.Conv2d(4, 4, 1)
        self.hooked, self.kept = False, []

    def forward(self, x):
        if not self.hooked:
            for block in self.blocks:
                block.register_forward_hook(lambda module, args, y: self.kept.append(y))
            self.hooked = True
        for block in self.blocks:
            x = block(x)
        return torch.relu(self.head(x))


class Around(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = Recording()

    def forward(self, x):
        self.inner.kept = []
        y = self.inner(x)
        return y, len(self.inner.kept)


def test_hooks_that_a_forward_registers_are_registered_once():
    plain, ours = optimized(Around())
    x = images(2, 4, 6, 5)
    with torch.no_grad():
        for _ in range(6):
            (y, kept), (expected, _) = ours(x), plain(x)
            assert kept == 2
            assert_close(y, expected, TERMS)
    assert fused(ours, "inner.blocks.0.conv1") == ("inner.blocks.0.bn1", "inner.blocks.0.relu")


def test_parts_of_a_module_with_lasting_hooks_run_fused():
    """And for some calls the module is as it was, should the hooks go away again."""
    plain, ours = optimized(nn.Sequential(Block(4), nn.Sequential(Block(4), nn.Conv2d(4, 4, 1))))
    x, seen = images(2, 4, 6, 5), []
    with torch.no_grad():
        ours(x)
        hook = ours[1][0].relu.register_forward_hook(lambda *_: seen.append(1))
        ours(x)
        hook.remove()
        assert_close(ours(x), plain(x), TERMS)
        assert [type(region).__name__ for region in regions.regions(ours)] == ["Sequential"]
        ours[1][0].relu.register_forward_hook(lambda *_: seen.append(1))
        for _ in range(5):
            assert_close(ours(x), plain(x), TERMS)
    assert len(seen) == 2 * (1 + 5)  # twice a call
    assert ours.fastconv_region.refused == "modules in it have hooks"
    assert ours[0].fastconv_region.agrees


def test_hooks_that_come_and_go_leave_a_region_as_it_is():
    plain, ours = optimized(nn.Sequential(Block(4), nn.Sequential(Block(4), nn.Conv2d(4, 4, 1))))
    x = images(2, 4, 6, 5)
    with torch.no_grad():
        for _ in range(5):
            ours(x)
            hook = ours[1][0].relu.register_forward_hook(lambda *_: None)
            ours(x)
            hook.remove()
        assert_close(ours(x), plain(x), TERMS)
    assert ours.fastconv_region.refused is None
    assert [type(region).__name__ for region in regions.regions(ours)] == ["Sequential"]


class Scaled(nn.Module):
    """What cannot be traced, with a hook that doubles what it gives."""

    def __init__(self):
        super().__init__()
        self.heard = 0
        self.register_forward_hook(self.double)

    def forward(self, x):
        return x * 2 if x.sum() > 1e9 else x

    @staticmethod
    def double(module, args, y):
        module.heard += 1
        return y * 2


def test_hooks_that_change_results_are_compared_with_them():
    plain, ours = optimized(nn.Sequential(Block(4), Scaled(), nn.Conv2d(4, 4, 1)))
    x = images(2, 4, 6, 5)
    with torch.no_grad():
        for _ in range(4):
            assert_close(ours(x), plain(x), TERMS)
    assert ours.fastconv_region.agrees
    assert ours[1].heard == 5  # the comparison in which it has its say is one call more


def test_a_class_that_cannot_be_inherited_from_is_left_alone():
    class Final(Chain):
        def __init_subclass__(cls):
            raise TypeError("final")

        def forward(self, x):
            return self.norm(self.conv(x))

    plain, ours = optimized(nn.Sequential(Final(None), Final(None)))
    (region,) = regions.regions(ours)
    assert region is ours
    plain, ours = optimized(Final(None))
    assert type(ours) is Final
    with torch.no_grad():
        assert_close(ours(images(2, 4, 6, 5)), plain(images(2, 4, 6, 5)), TERMS)
