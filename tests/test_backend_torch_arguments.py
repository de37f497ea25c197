"""Arguments of fused forwards of PyTorch models: which calls run fused, and what becomes of others."""

import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch_fused import TERMS, fused, optimized
from torch_models import assert_close, images

from fastconv.backends.torch import regions

pytestmark = pytest.mark.isa_independent


class One(nn.Module):
    """x -> conv."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)


class Optional(One):
    """Its arguments, but for the first, as models of transformers have them: handed on with their defaults."""

    def forward(self, x, scale=None, *, twice=False):
        y = F.relu(self.conv(x))
        y = y if scale is None else y * scale
        return 2 * y if twice else y


@pytest.mark.parametrize(
    ("arguments", "options"),
    [((None,), {}), ((), {"scale": None}), ((None,), {"twice": False}), ((), {"twice": False})],
)
def test_defaults_may_be_spelled_out(arguments, options):
    plain, ours = optimized(Optional())
    x = images(2, 4, 6, 5)
    with torch.no_grad():
        for _ in range(2):
            assert_close(ours(x, *arguments, **options), plain(x, *arguments, **options), TERMS)
        assert ours.fastconv_region.agrees
        assert_close(ours(*arguments, x=x, **options) if not arguments else ours(x), plain(x), TERMS)
    assert fused(ours) == ("relu",)


@pytest.mark.parametrize(
    ("arguments", "options"),
    [((), {"twice": True}), ((3,), {}), ((0,), {"twice": False}), ((), {"twice": 0}), ((), {"scale": torch.ones(5)})],
)
def test_other_values_are_not_what_was_traced(arguments, options):
    plain, ours = optimized(Optional())
    x = images(2, 4, 6, 5)
    with torch.no_grad():
        assert_close(ours(x, *arguments, **options), plain(x, *arguments, **options), TERMS)
    assert not ours.fastconv_region.agrees


@pytest.mark.parametrize(
    ("arguments", "options"), [((None, False), {}), ((None,), {"scale": None}), ((), {"x": None}), ((), {"thrice": 1})]
)
def test_wrong_calls_are_told_as_by_the_module(arguments, options):
    plain, ours = optimized(Optional())
    x = images(2, 4, 6, 5)
    with torch.no_grad():
        with pytest.raises(TypeError) as expected:
            plain(x, *arguments, **options)
        with pytest.raises(TypeError, match=re.escape(str(expected.value))):
            ours(x, *arguments, **options)


class Open(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = Inner()

    def forward(self, x, *others, **options):
        return self.inner(x) * (2 if options.get("double") else 1)


class Inner(One):
    def forward(self, x):
        return F.relu(self.conv(x))


def test_a_forward_that_takes_any_options_runs_fused_without():
    plain, ours = optimized(Open())
    x = images(2, 4, 6, 5)
    with torch.no_grad():
        for _ in range(2):
            assert_close(ours(x), plain(x), TERMS)
    assert list(regions.regions(ours)) == [ours]
    assert ours.fastconv_region.agrees


@pytest.mark.parametrize("options", [{"verbose": True}, {"double": True}])
def test_parts_of_a_module_that_is_called_otherwise_run_fused(options):
    plain, ours = optimized(Open())
    x = images(2, 4, 6, 5)
    with torch.no_grad():
        for _ in range(3):
            assert_close(ours(x, **options), plain(x, **options), TERMS)
        assert_close(ours(x), plain(x), TERMS)
    assert list(regions.regions(ours)) == [ours, ours.inner]
    assert not ours.fastconv_region.agrees
    assert ours.inner.fastconv_region.agrees
    assert fused(ours, "inner.conv") == ("relu",)


def test_wrong_calls_and_training_change_nothing():
    plain, ours = optimized(Inner())
    x = images(2, 4, 6, 5)
    with torch.no_grad():
        with pytest.raises(TypeError):
            ours(x, x)
        ours.train()
        with pytest.raises(TypeError):
            ours(x, thrice=1)
        ours.eval()
        assert_close(ours(x), plain(x), TERMS)
    assert ours.fastconv_region.agrees


class Listed(nn.Module):
    """One convolution for each of some maps, as heads of detectors and segmenters have them."""

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(4, 4, 1) for _ in range(3))

    def forward(self, maps):
        size = maps[-1].shape[2:]
        sums = 0
        for x, conv in zip(maps, self.convs, strict=False):
            sums = sums + F.interpolate(F.relu(conv(x)), size)
        return sums


MAPS = [images(2, 4, 6, 5), images(2, 4, 3, 3, seed=1), images(2, 4, 4, 7, seed=2)]


@pytest.mark.parametrize("kind", [list, tuple])
def test_a_list_of_maps(kind):
    plain, ours = optimized(Listed())
    with torch.no_grad():
        for _ in range(2):
            assert_close(ours(kind(MAPS)), plain(kind(MAPS)), TERMS)
        assert ours.fastconv_region.agrees
        assert fused(ours, "convs.2") == ("relu",)
        for other in (MAPS[:2], MAPS[:1], [*MAPS, MAPS[0]], torch.stack(MAPS[:1] * 3), torch.stack(MAPS[:1] * 2)):
            assert_close(ours(other), plain(other), TERMS)
            assert_close(ours(kind(MAPS)), plain(kind(MAPS)), TERMS)


def test_a_shorter_list_at_first():
    """Which the traced code cannot run."""
    plain, ours = optimized(Listed())
    with torch.no_grad():
        for maps in (MAPS[:2], MAPS, MAPS[:2]):
            assert_close(ours(maps), plain(maps), TERMS)
    assert "fails" in ours.fastconv_region.refused


class Endless(Listed):
    def forward(self, maps):
        return sum(self.convs[0](x) for x in maps)


def test_a_loop_that_ends_with_the_list_is_not_traced():
    plain, ours = optimized(Endless())
    maps = [MAPS[0], MAPS[0] + 1]
    with torch.no_grad():
        assert_close(ours(maps), plain(maps), TERMS)
    assert list(regions.regions(ours)) == []
